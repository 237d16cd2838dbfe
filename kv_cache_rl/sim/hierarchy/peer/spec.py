"""Tables of kv-hierarchy-lab in its own units: tiers, decode penalties and the settings of its sweep.

Source: kv-hierarchy-lab at commit 222356d.
"""

from dataclasses import dataclass
from typing import NamedTuple

from kv_cache_rl.core.hardware import Link
from kv_cache_rl.sim.hierarchy.spec import Scenario, Tier

DECODE_PENALTY_MS = {"fp16": 0.0, "fp8": 0.01, "int4": 0.03, "int2": 0.06}
"""Precision -> milliseconds added to each hit and each transfer of such a page, whatever its size."""


class PeerTier(NamedTuple):
    """A tier in the peer's units."""

    name: str
    capacity_bytes: int
    read_latency_ms: float
    write_latency_ms: float
    bandwidth_bytes_per_ms: float


BASE_TIERS = (
    PeerTier("tier0_gpu_fast", 128_000, 0.02, 0.02, 80_000),
    PeerTier("tier1_gpu_overflow", 256_000, 0.06, 0.06, 40_000),
    PeerTier("tier2_host_ram", 1_000_000, 0.4, 0.35, 8_000),
    PeerTier("tier3_nvme_like", 8_000_000, 2.5, 2.0, 2_000),
)
"""Fastest first. A toy scale: the fast tier holds about 31 fp16 pages and moves 80 MB/s."""


def tiers_over(divisor: int) -> tuple[PeerTier, ...]:
    """The base tiers, each with its capacity divided by `divisor` and rounded down."""
    return tuple(tier._replace(capacity_bytes=tier.capacity_bytes // divisor) for tier in BASE_TIERS)


def laboratory(numerator: int = 1, denominator: int = 1, **rules) -> Scenario:
    """The base tiers (80 MB/s at the top, 2 MB/s at the bottom), capacities times a fraction, under this
    project's own rules.
    """
    tiers = tuple(
        Tier(
            tier.name,
            tier.capacity_bytes,
            Link(tier.name, tier.bandwidth_bytes_per_ms * 1e3, tier.bandwidth_bytes_per_ms * 1e3, 0.0),
            _seconds(tier.read_latency_ms),
            _seconds(tier.write_latency_ms),
        )
        for tier in BASE_TIERS
    )
    return Scenario(tiers, **rules).scaled(numerator, denominator)


def _seconds(milliseconds: float) -> float:
    """The float nearest to so many milliseconds; dividing by 1,000 would round twice."""
    return float(f"{milliseconds}e-3")


@dataclass(frozen=True, slots=True)
class PeerScenario:
    """One setting of the peer's sweep."""

    divisor: int
    """Of every base capacity."""
    scheme: str
    prefetch: bool


PEER_SCENARIOS: dict[str, PeerScenario] = {
    "small_fp16_prefetch": PeerScenario(2, "fp16", True),
    "small_fp16_no_prefetch": PeerScenario(2, "fp16", False),
    "small_int4_no_prefetch": PeerScenario(2, "int4", False),
    "base_fp8_prefetch": PeerScenario(1, "fp8", True),
    "constrained_fp16_prefetch": PeerScenario(4, "fp16", True),
}
