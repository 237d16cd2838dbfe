"""The controller's values: its settings, states and decisions, and the names of its metrics."""

import math
import sys
from dataclasses import dataclass
from numbers import Real

from kv_cache_rl.core.geometry import ModelGeometry, bytes_per_token
from kv_cache_rl.theory.errors import StabilityError

LARGEST = sys.float_info.max

METRICS_OF_STATE = {
    "arrival_rate_lambda": "Requests per second over the window.",
    "service_rate_mu": "Requests per second the service can complete.",
    "mean_blocks_per_request": "Mean blocks a request holds.",
    "utilization_rho": "Arrival rate over service rate; above 1 the queue grows without bound.",
    "lambda_critical": "Arrival rate below which the service is stable.",
    "minimum_stable_blocks": "Blocks the controller wants free.",
    "stability_margin_pct": "Room below the critical arrival rate, percent; negative when unstable.",
}


@dataclass(frozen=True, slots=True)
class QueueingConfig:
    """What the controller assumes of the service."""

    window_seconds: float = 60.0
    safety_margin: float = 1.15
    block_size: int = 16
    """Tokens per block."""
    head_dim: int = 128
    num_kv_heads: int = 8
    bytes_per_element: float = 2.0
    min_eviction_interval_ms: float = 100.0
    batch_seconds: float = 0.037
    """Seconds of a representative iteration, for the paper mode.

    Source: arXiv:2605.04595, implied for an A100 with Llama-3-8B.
    """
    chunk_tokens: int = 512
    """Prefill chunk, for the paper mode."""

    def __post_init__(self) -> None:
        for name in (
            "window_seconds",
            "safety_margin",
            "head_dim",
            "num_kv_heads",
            "bytes_per_element",
            "batch_seconds",
        ):
            finite(name, getattr(self, name), above=0.0)
        for name in ("block_size", "chunk_tokens"):
            if getattr(self, name) != int(finite(name, getattr(self, name), above=0.0)):
                raise StabilityError(f"{name} is {getattr(self, name)}; give a whole number of tokens")
        if finite("min_eviction_interval_ms", self.min_eviction_interval_ms) < 0:
            raise StabilityError(
                f"min_eviction_interval_ms is {self.min_eviction_interval_ms}; give 0 or more"
            )

    @property
    def block_bytes_per_layer(self) -> float:
        """Bytes of K and V of one block in one layer."""
        layer = ModelGeometry("one layer", 1, self.num_kv_heads, self.head_dim, 0.0)
        return self.block_size * bytes_per_token(layer, self.bytes_per_element)


@dataclass(frozen=True, slots=True)
class StabilityState:
    """What the controller knows at one moment."""

    arrival_rate_lambda: float
    service_rate_mu: float
    """Of the whole service, which has as many servers as mean requests fit into the memory."""
    mean_blocks_per_request: float
    utilization_rho: float
    """Not clamped: 3 means three times the load that can be served."""
    is_stable: bool
    lambda_critical: float
    minimum_stable_blocks: int
    stability_margin_pct: float
    """100 (1 - lambda / lambda_critical)."""


@dataclass(frozen=True, slots=True)
class EvictionDecision:
    """How many blocks to free now, and why.

    `wait_ms` is above 0 where the last eviction was too recent: milliseconds until the next one.
    """

    blocks: int
    reason: str
    wait_ms: float = 0.0


def finite(name: str, value: float, above: float = -math.inf) -> float:
    """The value.

    Raises:
        StabilityError: it is not a finite number above `above`; True and False are no numbers.
    """
    if not (is_finite(value) and value > above):
        raise StabilityError(
            f"{name} is {value!r}; give a finite number{'' if above == -math.inf else f' above {above:g}'}"
        )
    return value


def is_finite(value: object) -> bool:
    """Whether it is a number of Python or numpy that a float can hold, neither infinite nor NaN."""
    kind = type(value)
    # The common types are compared first: the check for Real takes as long as recording an event.
    number = kind is float or kind is int or (isinstance(value, Real) and kind is not bool)
    return number and -LARGEST <= value <= LARGEST  # pyrefly: ignore[unsupported-operation]
