"""A controller: blocks to keep free, whether the load can last, and the precision to store.

Three modes over the same estimates (flow.py). None of them reads a clock.

    seed     minimum = ceil(lambda E[S] E[B] margin) blocks *free*; by Little's law this is the number
             *occupied*. The mode is kept as its author wrote it; decide by one of the others.
    reserve  blocks that the load will hold, less those that active requests hold already
    paper    blocks as in reserve; rho, lambda_critical and the verdict from mu = M / (b E[g]) and
             delta, measured from the stream

Source: the seed's QueueingController; arXiv:2605.04595 for the paper mode.
"""

import math

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.theory import flow as rates
from kv_cache_rl.theory.condition import delta, service_rate
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.flow import (
    FLOW_SIZE,
    arrival_rate,
    arrive,
    blocks_to_keep_free,
    complete,
    new_flow,
    utilisation,
)
from kv_cache_rl.theory.queueing import (
    METRICS_OF_STATE,
    EvictionDecision,
    QueueingConfig,
    StabilityState,
    is_finite,
)

__all__ = [
    "FLOW_SIZE",
    "MODES",
    "EvictionDecision",
    "QueueingConfig",
    "QueueingController",
    "StabilityError",
    "StabilityState",
    "arrival_rate",
    "arrive",
    "blocks_to_keep_free",
    "complete",
    "new_flow",
    "utilisation",
]

SEED, RESERVE, PAPER = "seed", "reserve", "paper"
MODES = (SEED, RESERVE, PAPER)


class QueueingController:
    """The seed's interface over the estimates of flow.py; one object per service."""

    def __init__(
        self,
        config: QueueingConfig | None = None,
        mode: str = SEED,
        *,
        arrival_rate: float | None = None,
        service_s: float | None = None,
        blocks: float | None = None,
    ) -> None:
        """`arrival_rate`, `service_s` and `blocks` declare a known load (flow.new_flow).

        Raises:
            StabilityError: the config, the mode or a declared value is not usable.
        """
        if config is not None and not isinstance(config, QueueingConfig):
            raise StabilityError(f"config is {config!r}; give a QueueingConfig, or None for the usual one")
        if mode not in MODES:
            raise StabilityError(unknown("mode", mode, MODES))
        self.config, self.mode = config or QueueingConfig(), mode
        window, margin = self.config.window_seconds, self.config.safety_margin
        self.flow = new_flow(window, margin, arrival_rate=arrival_rate, service_s=service_s, blocks=blocks)
        self._now = 0.0
        self._in_flight = 0
        self._evicted_at = -math.inf
        self._memory: tuple[int, int] | None = None

    def record_request_arrival(self, timestamp: float, token_count: int = 0, agent_id: str = "") -> None:
        """Records a request of `token_count` prompt tokens that arrived at `timestamp` seconds.

        A time before the last one counts as the last one. `agent_id` belongs to the interface and
        is not used: the rates are those of the service.

        Raises:
            StabilityError: the time is not finite, or `token_count` is not a number from 0 on.
        """
        if not (is_finite(token_count) and token_count >= 0):
            raise StabilityError(f"token_count is {token_count!r}; give the prompt's tokens, from 0 on")
        self._see(timestamp)
        arrive(self.flow, timestamp)
        self._in_flight += 1
        if self.mode == PAPER:
            rates.measure_prompt(self.flow, timestamp, float(token_count), float(self.config.chunk_tokens))

    def record_request_completion(
        self, timestamp: float, service_time_ms: float, blocks_consumed: float, agent_id: str = ""
    ) -> None:
        """Records a request that ended at `timestamp` seconds, holding `blocks_consumed` blocks.

        `service_time_ms` is its time in service.

        Raises:
            StabilityError: a value is not a finite number from 0 on.
        """
        if not (
            is_finite(service_time_ms)
            and service_time_ms >= 0
            and is_finite(blocks_consumed)
            and blocks_consumed >= 0
        ):
            given = f"service_time_ms is {service_time_ms!r}, blocks_consumed {blocks_consumed!r}"
            raise StabilityError(f"{given}; give finite numbers from 0 on")
        self._see(timestamp)
        complete(self.flow, timestamp, service_time_ms / 1000.0, blocks_consumed)
        self._in_flight = max(self._in_flight - 1, 0)
        if self.mode == PAPER:
            rates.measure_total(self.flow, timestamp, float(blocks_consumed), float(self.config.block_size))

    def _see(self, timestamp: float) -> None:
        if not is_finite(timestamp):
            raise StabilityError(f"the time is {timestamp!r}; give finite seconds")
        if timestamp > self._now:
            self._now = timestamp

    def compute_stability_state(self, free: int, total: int, now: float | None = None) -> StabilityState:
        """The state with `free` of `total` blocks free, at `now` or at the last time recorded.

        Raises:
            StabilityError: not 0 <= free <= total with total above 0, or the time is not finite.
        """
        now = self._at(free, total, now)
        rate, blocks = float(arrival_rate(self.flow, now)), float(rates.blocks_per_request(self.flow))
        seconds = float(rates.service_seconds(self.flow))
        held = seconds * blocks
        service = total / held if held > 0 else math.inf
        critical = service
        footprint = float(rates.mean_footprint(self.flow))
        if self.mode == PAPER and footprint > 0 and rates.warm(self.flow):
            memory = total * self.config.block_size
            service = service_rate(memory, self.config.batch_seconds, footprint).per_s
            longest = float(max(self.flow[rates.Flow.LONGEST], self.flow[rates.Flow.LONGEST_BEFORE]))
            critical = service * max(1.0 - delta(longest, memory), 0.0)
        over = rate / critical if critical > 0 else math.inf
        return StabilityState(
            arrival_rate_lambda=rate,
            service_rate_mu=service,
            mean_blocks_per_request=blocks,
            utilization_rho=rate / service,
            is_stable=over < 1.0,
            lambda_critical=critical,
            minimum_stable_blocks=self._minimum(free, total, now, None),
            stability_margin_pct=100.0 * (1.0 - over),
        )

    def _at(self, free: int, total: int, now: float | None) -> float:
        if not (is_finite(free) and is_finite(total) and 0 <= free <= total and total > 0):
            raise StabilityError(
                f"{free!r} of {total!r} blocks are free; give 0 <= free <= total, and total above 0"
            )
        if now is not None and not is_finite(now):
            raise StabilityError(
                f"the time is {now!r}; give finite seconds, or none for the last one recorded"
            )
        self._memory = (free, total)
        return self._now if now is None else now

    def _minimum(self, free: int, total: int, now: float, active: int | None) -> int:
        """Blocks wanted free.

        Where a mode needs the active blocks and `active` is None, each request in flight counts as
        a mean request.
        """
        if self.mode == SEED:
            return int(rates.minimum_blocks(self.flow, now))
        if active is None:
            active = min(total - free, int(self._in_flight * rates.blocks_per_request(self.flow)))
        return int(blocks_to_keep_free(self.flow, now, total, active))

    def get_eviction_target_blocks(
        self,
        free: int,
        total: int,
        requested: int = 0,
        now: float | None = None,
        *,
        active: int | None = None,
    ) -> int:
        """Blocks to free now; the int of `eviction_decision`."""
        return self.eviction_decision(free, total, requested, now, active=active).blocks

    def eviction_decision(
        self,
        free: int,
        total: int,
        requested: int = 0,
        now: float | None = None,
        *,
        active: int | None = None,
    ) -> EvictionDecision:
        """How many blocks to free, and why: the minimum stays free after taking `requested`.

        An eviction starts the interval in which no second one happens; a decision for 0 blocks does
        not. It is never for more blocks than are in use. Running requests hold `active` blocks
        (modes reserve and paper).

        Raises:
            StabilityError: as `compute_stability_state`, or `requested` or `active` is not a number
                from 0 on.
        """
        for name, value in (("requested", requested), ("active", 0 if active is None else active)):
            if not (is_finite(value) and value >= 0):
                raise StabilityError(f"{name} is {value!r}; give a number of blocks from 0 on")
        now = self._at(free, total, now)
        minimum = self._minimum(free, total, now, active)
        wanted = minimum + math.ceil(requested)
        if wanted <= free:
            return EvictionDecision(
                0, f"{free} blocks are free, {minimum} must stay so and {requested} are asked for"
            )
        wait_ms = self.config.min_eviction_interval_ms - 1000.0 * (now - self._evicted_at)
        if wait_ms > 1e-9:
            return EvictionDecision(
                0, f"throttled: the last eviction is too recent; ask again in {wait_ms:.3f} ms", wait_ms
            )
        blocks = min(wanted, total) - free
        if blocks == 0:
            return EvictionDecision(0, f"all {total} blocks are free, fewer than the {wanted} wanted")
        self._evicted_at = now
        short = f", all there are: {wanted} are wanted of {total}" if wanted > total else ""
        return EvictionDecision(
            blocks, f"{free} blocks are free, {minimum} must stay so and {requested} are asked for{short}"
        )

    def get_recommended_quantization_bits(self, total: int | None = None, now: float | None = None) -> int:
        """Bits to store KV at, for the utilisation of `total` blocks or of the memory last given.

        fp16's while no size is known.
        """
        state = self._last(total, now)
        return int(rates.bits_for(0.0 if state is None else state.utilization_rho))

    def _last(self, total: int | None, now: float | None) -> StabilityState | None:
        if total is None and self._memory is None:
            return None
        free, known = self._memory or (0, 0)
        if total is None:
            return self.compute_stability_state(free, known, now)
        return self.compute_stability_state(min(free, total), total, now)

    def export_metrics(self, now: float | None = None) -> str:
        """Seven ``queueing_*`` gauges in Prometheus' text form; NaN until a memory size is known."""
        state = self._last(None, now)
        lines = []
        for name, meaning in METRICS_OF_STATE.items():
            value = math.nan if state is None else float(getattr(state, name))
            number = (
                "NaN"
                if math.isnan(value)
                else "+Inf"
                if value == math.inf
                else "-Inf"
                if value == -math.inf
                else f"{value:.10g}"
            )
            lines += [
                f"# HELP queueing_{name} {meaning}",
                f"# TYPE queueing_{name} gauge",
                f"queueing_{name} {number}",
            ]
        return "\n".join(lines) + "\n"
