"""Traffic replayed from a trace: its sequences, lengths and rhythm, brought to the server's memory and to a
chosen load.

* Lengths are multiplied by one factor, prompts, histories and outputs alike, so that what was a prefix
  remains one.
* The seed draws the request with which an episode begins. It takes as many as carry the load asked for, and
  their time is stretched or compressed to the episode's length. Load is counted without prefix hits, as
  everywhere.
* A request's history is what its sequence's turn before left in the cache, if that turn lies in the episode.
"""

import functools
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.sim.serving.demand import Capacity, Lengths, Traffic, checked_size, held
from kv_cache_rl.sim.serving.draws import IS_VIP, USERS, WORLD, branch, uniform
from kv_cache_rl.sim.serving.recorded import Recorded, recorded
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.theory.condition import MEMORY

SHARE_OF_GPU, PERCENTILE = 0.05, 99
"""Lengths are brought down until this percentile of prompt + output takes this share of the GPU's tokens."""
WINDOW = 0
"""Draw of the world: the request an episode begins with."""


def traffic(scenario: Scenario, key: np.ndarray) -> Traffic:
    """An episode of the scenario's trace; `key` is the seed's root.

    Raises:
        TraceError: the file cannot be read, or holds nothing to replay.
        ServingError: the episode is too short for one request, or too long for memory.
    """
    fitted = _fitted(scenario, recorded(str(scenario.trace)))
    trace, capacity = fitted.trace, fitted.capacity
    end, n = scenario.ticks * capacity.tick_us, len(trace.time_s)
    start = int(uniform(branch(key, WORLD), WINDOW)[0] * n)
    work = np.concatenate(
        [fitted.work[start:], np.tile(fitted.work, 1 + int(fitted.asked / fitted.work.sum()))]
    )
    number = int(np.searchsorted(np.cumsum(work) - work / 2, fitted.asked))
    if number == 0:
        raise ServingError(
            f"{scenario.ticks:,} ticks at rho {scenario.rho:g} are too short for a request of "
            f"{scenario.trace}; "
            "raise ticks or rho, or lower length_scale"
        )
    lap, at = np.divmod(start + np.arange(number + 1), n)
    time_s = trace.time_s[at] + lap * trace.period_s
    since, window_s = time_s[:-1] - time_s[0], time_s[-1] - time_s[0]
    arrival = np.minimum((since / max(window_s, 1e-9) * end).astype(np.int64), end - 1)
    lap, at = lap[:-1], at[:-1]
    before = trace.before[at]
    copy = lap - trace.lap[at]
    parent = (copy + trace.lap[before]) * n + before - start
    parent = np.where((before >= 0) & (parent >= 0), parent, -1)
    user = (copy + trace.lap.max()) * (trace.owner.max() + 1) + trace.owner[at]
    vip = uniform(branch(branch(key, USERS), user), IS_VIP) < scenario.vip_share
    prompt, output = fitted.prompt[at], fitted.output[at]
    history = np.where(parent >= 0, fitted.history[at], 0)
    window = (
        f"{number:,} requests from number {start + 1:,} on, of {prompt.mean():,.0f} prompt and "
        f"{output.mean():,.0f} output tokens on average, their {window_s:,.1f} s in {end / 1e6:,.1f} s"
    )
    return Traffic(
        table=np.column_stack([arrival, prompt, output, vip, fitted.power[at], parent, history]).astype(
            np.int64
        ),
        user=user,
        turn=trace.turn[at],
        tick_us=capacity.tick_us,
        end_us=end,
        arrival_rate=number / (end / 1e6),
        service_rate=capacity.service_rate,
        rho=scenario.rho,
        binding=capacity.binding,
        lengths=capacity.lengths,
        notes=(
            *trace.notes,
            *fitted.notes,
            f"window: {window} (times x {end / 1e6 / max(window_s, 1e-9):.3g})",
            "mu is of the whole trace; the window holds rho times the work that it can serve",
        ),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A trace whose lengths suit a scenario's memory, columns ``[n]``."""

    trace: Recorded
    notes: tuple[str, ...]
    capacity: Capacity
    prompt: np.ndarray
    output: np.ndarray
    history: np.ndarray
    power: np.ndarray
    work: np.ndarray
    """Of each request, in what binds: token-iterations of memory, or tokens of the budget."""
    asked: float
    """Work of an episode at the load asked for."""


@functools.lru_cache(maxsize=16)
def _fitted(scenario: Scenario, trace: Recorded) -> Fitted:
    longest = scenario.longest
    factor, reason = length_factor(scenario, trace)
    prompt, output, kept = (
        _scaled(values, factor, longest) for values in (trace.prompt, trace.output, trace.kept)
    )
    prompt, output = np.maximum(prompt, 1), np.maximum(output, 1)
    cut = int(np.count_nonzero(prompt + output > longest))
    output = np.minimum(output, longest // 2)
    prompt = np.minimum(prompt, longest - output)
    before = prompt[trace.before] + output[trace.before]
    history = np.minimum(np.minimum(kept, before), prompt - 1)
    most = np.zeros(trace.sequence.max() + 1)
    np.maximum.at(most, trace.sequence, prompt + output)
    capacity = Capacity.of(scenario, Lengths.of(prompt, output, scenario.token_budget, scenario.block_tokens))
    in_memory = capacity.binding == MEMORY
    work = (
        held(prompt, output, scenario.token_budget, scenario.block_tokens) if in_memory else prompt + output
    )
    asked = scenario.rho * scenario.ticks * (scenario.gpu_tokens if in_memory else scenario.token_budget)
    checked_size(scenario, asked / work.mean())
    notes = [f"lengths x {factor:.4g} ({reason})"]
    notes += [f"{cut:,} requests cut to the context limit of {longest:,} tokens"] if cut else []
    notes += (
        ["where it was 0, a prompt or an output is 1 token"]
        if min(trace.prompt.min(), trace.output.min()) < 1
        else []
    )
    return Fitted(
        trace=trace,
        notes=tuple(notes),
        capacity=capacity,
        prompt=prompt,
        output=output,
        history=np.where(trace.before >= 0, history, 0),
        power=_longest(most, scenario.power_share)[trace.sequence],
        work=work,
        asked=float(asked),
    )


def _longest(most: np.ndarray, share: float) -> np.ndarray:
    """Which users are the longest, so large a share of them; of equal ones the first."""
    found = np.zeros(len(most), bool)
    found[np.argsort(-most, kind="stable")[: round(share * len(most))]] = True
    return found


def _scaled(tokens: np.ndarray, factor: float, most: int) -> np.ndarray:
    """Whole tokens, rounded down, at most so many."""
    return np.minimum(tokens * factor, float(most)).astype(np.int64)


def length_factor(scenario: Scenario, trace: Recorded) -> tuple[float, str]:
    """What the trace's lengths are multiplied by, and why."""
    if scenario.length_scale is not None:
        return float(scenario.length_scale), "as set"
    long = float(np.percentile(trace.prompt.astype(np.float64) + trace.output, PERCENTILE))
    share = SHARE_OF_GPU * scenario.gpu_tokens
    if long <= share:
        return (
            1.0,
            f"the {PERCENTILE}th percentile, {long:,.0f} tokens, "
            f"takes at most {SHARE_OF_GPU:.0%} of the GPU's",
        )
    return (
        share / long,
        f"so that the {PERCENTILE}th percentile, {long:,.0f} tokens, takes {SHARE_OF_GPU:.0%} of the GPU's",
    )
