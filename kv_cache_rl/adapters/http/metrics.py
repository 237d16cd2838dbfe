"""Metrics in Prometheus' text form, under the names that boards for vLLM and the queueing controller read.

Each server that is simulated now, a session or a stream, is an engine with a number of its own.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from kv_cache_rl.core import pool
from kv_cache_rl.sim.serving.columns import GPU_POOL
from kv_cache_rl.sim.serving.state import State
from kv_cache_rl.theory.controller import QueueingController
from kv_cache_rl.theory.queueing import METRICS_OF_STATE, StabilityState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LABELS = ("model_name", "engine")
GAUGES = {
    "num_requests_running": "Requests in service.",
    "num_requests_waiting": "Requests in a queue, Free and VIP together.",
    "kv_cache_usage_perc": "Blocks of the GPU in use over all, idle caches included; 1 is full.",
}
COUNTERS = {
    "prefix_cache_queries": "Prompt tokens of requests that were admitted.",
    "prefix_cache_hits": "Of these, tokens found in a cache on the GPU or the CPU.",
    "num_preemptions": "Preemptions by the engine, for want of a block.",
}
"""Names without their `vllm:`; Prometheus writes a counter with `_total`."""
QUEUEING = {
    "lambda": ("arrival_rate_lambda", METRICS_OF_STATE["arrival_rate_lambda"]),
    "mu": ("service_rate_mu", METRICS_OF_STATE["service_rate_mu"]),
    "rho": ("utilization_rho", METRICS_OF_STATE["utilization_rho"]),
    "is_stable": ("is_stable", "1 while the arrival rate is below the critical one."),
    "lambda_critical": ("lambda_critical", METRICS_OF_STATE["lambda_critical"]),
    "minimum_stable_blocks": ("minimum_stable_blocks", METRICS_OF_STATE["minimum_stable_blocks"]),
    "stability_margin_pct": ("stability_margin_pct", METRICS_OF_STATE["stability_margin_pct"]),
}
"""The seed's names without their `queueing_` -> field of `StabilityState`, and what it is."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A simulated server as the metrics show it."""

    model: str
    values: dict[str, float]
    """By the names of `GAUGES` and `COUNTERS`."""
    stability: StabilityState


def numbers_of(state: State) -> Numbers:
    """The numbers of a server as it stands."""
    c = state.columns
    capacity, used = c.book["pools"][GPU_POOL].tolist()
    admitted = c.rows["found"] >= 0
    controller = QueueingController()
    controller.flow[:] = c.book["flow"]
    return Numbers(
        state.scenario.model,
        {
            "num_requests_running": int(c.book["serving"]),
            "num_requests_waiting": int(c.book["queues"]["count"].sum()),
            "kv_cache_usage_perc": used / capacity,
            "prefix_cache_queries": int(c.requests["prompt"][admitted].sum()),
            "prefix_cache_hits": int(c.rows["found"][admitted].sum()),
            "num_preemptions": int(c.terms["forced_preemption"]),
        },
        controller.compute_stability_state(
            int(pool.free(c.book["pools"], GPU_POOL)), capacity, state.seconds
        ),
    )


class Engines:
    """The streams that play now, by number; sessions have numbers of their own."""

    def __init__(self) -> None:
        self._playing: dict[int, Numbers | None] = {}

    def __len__(self) -> int:
        return len(self._playing)

    def enter(self) -> int:
        """A number that no other stream has."""
        number = next(k for k in range(len(self._playing) + 1) if k not in self._playing)
        self._playing[number] = None
        return number

    def show(self, number: int, numbers: Numbers) -> None:
        self._playing[number] = numbers

    def leave(self, number: int) -> None:
        self._playing.pop(number, None)

    def __iter__(self) -> Iterator[tuple[str, Numbers]]:
        shown = [(f"stream-{number}", one) for number, one in list(self._playing.items())]
        return iter([(name, one) for name, one in shown if one is not None])


class Collected:
    """What Prometheus asks for: every engine's numbers.

    Args:
        engines: (name, numbers) of each server that is simulated now.
        own: name -> (what it is, its value now) of this server's own gauges.
    """

    def __init__(
        self,
        engines: Callable[[], Iterable[tuple[str, Numbers]]],
        own: dict[str, tuple[str, Callable[[], float]]],
    ) -> None:
        self.engines, self.own = engines, own

    def collect(self) -> Iterator[Metric]:
        engines = list(self.engines())
        for names, kind in ((GAUGES, GaugeMetricFamily), (COUNTERS, CounterMetricFamily)):
            for name, meaning in names.items():
                family = kind(f"vllm:{name}", meaning, labels=LABELS)
                for engine, one in engines:
                    family.add_metric((one.model, engine), one.values[name])
                yield family
        for name, (field, meaning) in QUEUEING.items():
            family = GaugeMetricFamily(f"queueing_{name}", meaning, labels=LABELS)
            for engine, one in engines:
                family.add_metric((one.model, engine), float(getattr(one.stability, field)))
            yield family
        for name, (meaning, value) in self.own.items():
            yield GaugeMetricFamily(f"kv_cache_rl_{name}", meaning, value=value())


class Metrics:
    """The registry of one server."""

    def __init__(self, collected: Collected) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(collected)
        self._answers = Counter(
            "kv_cache_rl_http_answers", "Answers by status.", ("status",), registry=self.registry
        )

    def answered(self, status: int) -> None:
        """Counts an answer."""
        self._answers.labels(str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
