"""Running estimates of a service: arrival rate, service time, blocks and footprint.

One float64 vector ``flow [FLOW_SIZE]`` holds every estimate. A simulator carries it among its
columns, copies it with them, and updates it from compiled code. Times are seconds of the caller's
clock; no clock is read here.

    arrive    rate <- rate * exp(-dt / window) + 1 / window     (a query decays it likewise)
    complete  mass <- mass * exp(-dt / window) + 1
              mean += (x - mean) / mass
              Welford's sum of squares decays and grows likewise

Source: Welford (1962) for mean and variance in one pass. The exponential window is the limit of
alpha = 1 - exp(-dt / window) in continuous time.
"""

import math

import numpy as np

from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.jit import uncounted
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.queueing import is_finite

(WINDOW_S, MARGIN, RATE, UNSEEN, ARRIVED_AT, ARRIVALS, COMPLETED_AT, COMPLETIONS, MASS) = range(9)
(SERVICE_MEAN, SERVICE_SQUARES, BLOCKS_MEAN, BLOCKS_SQUARES, PRIMED) = range(9, 14)
(PROMPTS_AT, PROMPTS_MASS, PROMPTS_PART, TOTALS_AT, TOTALS_MASS, TOTALS_PART) = range(14, 20)
(LONGEST, LONGEST_BEFORE, BUCKET_AT) = range(20, 23)
FLOW_SIZE = 23
"""Indices into ``flow``, and its length.

- RATE: weighted arrivals per second.
- UNSEEN: weight of the part of the window that lies before the first arrival.
- MASS: weighted completions. SQUARES: weighted sums of squared deviations.
- PRIMED: 1 when the rates were declared.
- PARTs: the two halves of the mean footprint, see `mean_footprint`.
- LONGEST: most tokens (prompt + output) of a request that ended in this window; also the one before.
"""

WARM_COMPLETIONS = 10
"""Completions below which the estimates are the declared ones, or the COLD ones.

Declared means weigh as much as so many completions.
"""
COLD_RATE, COLD_SERVICE_S, COLD_BLOCKS = 0.1, 1.0, 1.0
"""Requests per second, seconds in service and blocks per request. Source: the seed."""
RHO_OF_BITS = (0.70, 0.85, 0.95)
"""Utilisation below which KV is stored at each rung of `LADDER`; at int2 above the last.

Source: the seed.
"""
_FULL, _HALF, _QUARTER = (PRECISIONS[name].bits for name in LADDER)
_LEAST = PRECISIONS["int2"].bits


def new_flow(
    window_s: float = 60.0,
    margin: float = 1.15,
    *,
    arrival_rate: float | None = None,
    service_s: float | None = None,
    blocks: float | None = None,
    start_s: float = 0.0,
) -> np.ndarray:
    """A new vector ``[FLOW_SIZE]``, empty or with declared rates.

    `arrival_rate` per second, mean `service_s` in seconds and mean `blocks` per request are
    declared together or not at all. The vector then starts as if it had observed them for a long
    time: the arrival rate fades as the window passes, the means weigh as much as
    `WARM_COMPLETIONS`.

    Raises:
        StabilityError: a value is not finite and positive (a rate of 0 may be declared), or only
            some are declared.
    """
    _positive("window_s", window_s)
    _positive("margin", margin)
    flow = np.zeros(FLOW_SIZE)
    declared = (arrival_rate, service_s, blocks)
    if all(value is None for value in declared):
        prime(flow, window_s, margin, 0.0, COLD_SERVICE_S, COLD_BLOCKS, start_s)
        flow[UNSEEN], flow[PRIMED], flow[MASS] = 1.0, 0.0, 0.0
        return flow
    if arrival_rate is None or service_s is None or blocks is None:
        raise StabilityError(f"arrival_rate, service_s and blocks are declared together; got {declared}")
    if not (is_finite(arrival_rate) and arrival_rate >= 0):
        raise StabilityError(f"arrival_rate is {arrival_rate!r}; declare requests per second, 0 or more")
    _positive("service_s", service_s)
    _positive("blocks", blocks)
    prime(flow, window_s, margin, arrival_rate, service_s, blocks, start_s)
    return flow


@uncounted
def prime(flow, window_s, margin, arrival_rate, service_s, blocks, start_s):
    """Fills a vector of zeros with declared rates."""
    flow[WINDOW_S], flow[MARGIN], flow[RATE], flow[PRIMED] = window_s, margin, arrival_rate, 1.0
    flow[MASS], flow[SERVICE_MEAN], flow[BLOCKS_MEAN] = WARM_COMPLETIONS, service_s, blocks
    flow[ARRIVED_AT] = flow[COMPLETED_AT] = flow[PROMPTS_AT] = flow[TOTALS_AT] = flow[BUCKET_AT] = start_s


def _positive(name: str, value: float) -> None:
    if not (is_finite(value) and value > 0):
        raise StabilityError(f"{name} is {value!r}; give a finite number above 0")


@uncounted
def faded(seconds, window_s):
    """Weight left of an event `seconds` ago; a negative time counts as 0."""
    return math.exp(-seconds / window_s) if seconds > 0.0 else 1.0


@uncounted
def arrive(flow, now_s):
    """Records one arrival.

    The first arrival of a flow without declared rates only starts the clock: a rate comes from the
    gaps between arrivals, and the first one ends no gap.
    """
    if flow[ARRIVALS] > 0.0 or flow[PRIMED] > 0.0:
        weight = faded(now_s - flow[ARRIVED_AT], flow[WINDOW_S])
        flow[RATE] = flow[RATE] * weight + 1.0 / flow[WINDOW_S]
        flow[UNSEEN] *= weight
        flow[ARRIVED_AT] = max(flow[ARRIVED_AT], now_s)
    else:
        flow[ARRIVED_AT] = now_s
    flow[ARRIVALS] += 1.0


@uncounted
def complete(flow, now_s, service_s, blocks):
    """Records one completion: seconds in service (without waiting) and blocks held at its end."""
    weight = faded(now_s - flow[COMPLETED_AT], flow[WINDOW_S])
    mass = flow[MASS] * weight + 1.0
    off = service_s - flow[SERVICE_MEAN]
    flow[SERVICE_MEAN] += off / mass
    flow[SERVICE_SQUARES] = flow[SERVICE_SQUARES] * weight + off * (service_s - flow[SERVICE_MEAN])
    off = blocks - flow[BLOCKS_MEAN]
    flow[BLOCKS_MEAN] += off / mass
    flow[BLOCKS_SQUARES] = flow[BLOCKS_SQUARES] * weight + off * (blocks - flow[BLOCKS_MEAN])
    flow[MASS] = mass
    flow[COMPLETED_AT] = max(flow[COMPLETED_AT], now_s)
    flow[COMPLETIONS] += 1.0


@uncounted
def measure_prompt(flow, now_s, prompt, chunk):
    """Records the prompt of a request that arrived, in tokens, prefilled in chunks of `chunk`."""
    chunks = math.ceil(prompt / chunk)
    held = chunk * chunks * (chunks - 1.0) / 2.0 + prompt
    mass = flow[PROMPTS_MASS] * faded(now_s - flow[PROMPTS_AT], flow[WINDOW_S]) + 1.0
    flow[PROMPTS_PART] += (held - prompt * (prompt + 1.0) / 2.0 - flow[PROMPTS_PART]) / mass
    flow[PROMPTS_MASS] = mass
    flow[PROMPTS_AT] = max(flow[PROMPTS_AT], now_s)


@uncounted
def measure_total(flow, now_s, blocks, block):
    """Records a request that ended with `blocks` blocks of `block` tokens.

    On average the last block is half full.
    """
    tokens, spare = blocks * block, block - 1.0
    part = (
        tokens * (tokens + 1.0) / 2.0
        - (2.0 * tokens + 1.0) * spare / 4.0
        + spare * (2.0 * block - 1.0) / 12.0
    )
    mass = flow[TOTALS_MASS] * faded(now_s - flow[TOTALS_AT], flow[WINDOW_S]) + 1.0
    flow[TOTALS_PART] += (part - flow[TOTALS_PART]) / mass
    flow[TOTALS_MASS] = mass
    flow[TOTALS_AT] = max(flow[TOTALS_AT], now_s)
    if now_s - flow[BUCKET_AT] > flow[WINDOW_S]:
        flow[LONGEST_BEFORE] = flow[LONGEST] if now_s - flow[BUCKET_AT] <= 2.0 * flow[WINDOW_S] else 0.0
        flow[LONGEST], flow[BUCKET_AT] = 0.0, now_s
    flow[LONGEST] = max(flow[LONGEST], tokens)


@uncounted
def mean_footprint(flow):
    """E[g] of the stream, 0 while unknown.

    With f = s + o, g = f (f + 1) / 2 - s (s + 1) / 2 + prefill(s). One part depends on completions
    and the other on arrivals, so that no request need be remembered from arrival to completion.
    """
    if flow[PROMPTS_MASS] == 0.0 or flow[TOTALS_MASS] == 0.0:
        return 0.0
    return max(flow[TOTALS_PART] + flow[PROMPTS_PART], 0.0)


@uncounted
def warm(flow):
    """Whether the estimates are used: they were declared, or `WARM_COMPLETIONS` were recorded."""
    return flow[PRIMED] > 0.0 or flow[COMPLETIONS] >= WARM_COMPLETIONS


@uncounted
def arrival_rate(flow, now_s):
    """Requests per second over the window that ends at `now_s`; time without arrivals lowers it."""
    if not warm(flow):
        return COLD_RATE
    weight = faded(now_s - flow[ARRIVED_AT], flow[WINDOW_S])
    seen = 1.0 - flow[UNSEEN] * weight
    # Arrivals that all share one moment say nothing about a rate.
    return flow[RATE] * weight / seen if seen > 1e-12 else COLD_RATE


@uncounted
def service_seconds(flow):
    """Mean seconds in service, recent completions first."""
    return flow[SERVICE_MEAN] if warm(flow) else COLD_SERVICE_S


@uncounted
def blocks_per_request(flow):
    """Mean blocks a request holds at its end, recent completions first."""
    return flow[BLOCKS_MEAN] if warm(flow) else COLD_BLOCKS


@uncounted
def service_variance(flow):
    """Variance of the seconds in service, weighted as their mean; 0 before the first completion."""
    return flow[SERVICE_SQUARES] / flow[MASS] if flow[MASS] > 0.0 else 0.0


@uncounted
def blocks_variance(flow):
    """Variance of the blocks per request, weighted as their mean; 0 before the first completion."""
    return flow[BLOCKS_SQUARES] / flow[MASS] if flow[MASS] > 0.0 else 0.0


@uncounted
def blocks_in_use(flow, now_s):
    """Blocks that requests in service hold on average, by Little's law."""
    return arrival_rate(flow, now_s) * service_seconds(flow) * blocks_per_request(flow)


@uncounted
def utilisation(flow, now_s, total_blocks):
    """rho = arrival rate x service time / servers; above 1 the load cannot last.

    A server is the memory of a mean request.
    """
    return blocks_in_use(flow, now_s) / total_blocks


@uncounted
def minimum_blocks(flow, now_s):
    """Whole blocks for the load with its margin.

    A rounding error above an integer counts as that integer.
    """
    return math.ceil(blocks_in_use(flow, now_s) * flow[MARGIN] - 1e-9)


@uncounted
def blocks_to_keep_free(flow, now_s, total_blocks, active_blocks):
    """Reserve mode: blocks the load will hold, with its margin, less those of active requests.

    From 0 to `total_blocks`.
    """
    return int(min(max(minimum_blocks(flow, now_s) - active_blocks, 0), total_blocks))


@uncounted
def bits_for(rho):
    """Bits at which KV is stored at this utilisation, by `RHO_OF_BITS`."""
    if rho < RHO_OF_BITS[0]:
        return _FULL
    if rho < RHO_OF_BITS[1]:
        return _HALF
    return _QUARTER if rho < RHO_OF_BITS[2] else _LEAST
