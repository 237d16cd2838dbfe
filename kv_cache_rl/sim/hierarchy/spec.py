"""What is replayed over: tiers joined by links, the precision of pages, and what happens around an access."""

from dataclasses import dataclass, replace
from numbers import Real

from kv_cache_rl.core.calibration import Calibration, CalibrationError
from kv_cache_rl.core.calibrations import CALIBRATIONS, calibration_named, host_link
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.hardware import HARDWARE, LINKS, HardwareProfile, Link, prefill_seconds
from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES

HARDWARE_NAME = "a100-llama-3.1-8b"
"""The profile that is taken where none is named."""
PROMOTIONS = ("top", "step")
RESERVES = {"none": 0.0, "5%": 0.05, "10%": 0.10, "20%": 0.20, "stability": -1.0}
"""Share of the fastest tier kept free ahead of demand; `stability` decides by itself how much."""


class HierarchyError(Refused):
    """Settings or a trace that cannot be replayed: says what is wrong, where, and what to do."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A memory that holds pages.

    `link` leads to the next faster tier; that of the fastest is its own memory.
    """

    name: str
    capacity: int
    """Bytes; blocks where a trace does not know the bytes of its blocks."""
    link: Link
    read_s: float = 0.0
    """Seconds before the first byte of a page read from here."""
    write_s: float = 0.0
    """Seconds before the first byte of a page written here."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """Tiers, fastest first, and the rules of the replay."""

    tiers: tuple[Tier, ...]
    footprint: str = "fp16"
    """Precision all pages are stored in at first (`core.precision`)."""
    prefetch: bool = False
    """Whether a policy that predicts may move pages up before they are asked for."""
    max_prefetch: int = 2
    """Candidates per access."""
    overlap: bool = False
    """Whether demotions and prefetches cross the links while the GPU computes; otherwise requests wait."""
    compute_s: float = 0.0
    """Seconds of compute after each request, in which overlapped transfers proceed."""
    recompute: bool = False
    """Whether a page found in a lower tier is computed anew where that takes less time than loading it."""
    squeeze: str = "fp16"
    """Lowest precision to which a victim is compressed in place before it has to leave. Where all pages are
    equal and the room asked for is that of a page, the victim leaves all the same: what it saves then is
    bytes on the links and room below."""
    promotion: str = "top"
    """Where a page goes that is asked for in a lower tier: to the `top`, or one `step` up (plain page traces
    only).
    """
    reserve: str = "none"
    """What is kept free in the fastest tier ahead of demand: none, 5%, 10%, 20% or what `stability` says
    (reserve.py).
    """
    hardware: str = HARDWARE_NAME
    """Profile that says how long recomputing takes."""
    work_class: str = "code"
    """Work class whose published loss per precision is charged when a compressed page is used."""
    calibration: str = "literature"
    """Where bytes and seconds of a precision come from (`core.calibration`); a measured one says what
    computing takes, too.
    """

    def __post_init__(self) -> None:
        if not self.tiers:
            raise HierarchyError("the scenario has no tier; give at least one")
        for tier in self.tiers:
            if not (isinstance(tier.capacity, Real) and 0 < tier.capacity < 2**63):  # NaN is neither
                raise HierarchyError(
                    f"tier {tier.name!r} has capacity {tier.capacity!r}; give a positive number below 2^63"
                )
            waits, rates = (
                (tier.read_s, tier.write_s, tier.link.latency_s),
                (tier.link.one_way, tier.link.both_ways),
            )
            if not (all(0 <= wait < float("inf") for wait in waits) and all(rate > 0 for rate in rates)):
                raise HierarchyError(
                    f"tier {tier.name!r}: latencies must be 0 or more, rates above 0; correct them"
                )
        if len({tier.name for tier in self.tiers}) != len(self.tiers):
            raise HierarchyError("two tiers have the same name; name each differently")
        if self.max_prefetch < 0 or not 0 <= self.compute_s < float("inf"):
            raise HierarchyError(
                f"max_prefetch {self.max_prefetch} and compute_s {self.compute_s} must be finite, 0 or more"
            )
        for name, value, known in (
            ("footprint", self.footprint, PRECISIONS),
            ("squeeze", self.squeeze, LADDER),
            ("promotion", self.promotion, PROMOTIONS),
            ("reserve", self.reserve, RESERVES),
            ("hardware", self.hardware, HARDWARE),
            ("work_class", self.work_class, WORK_CLASSES),
            ("calibration", self.calibration, CALIBRATIONS),
        ):
            if value not in known:
                raise HierarchyError(unknown(name, value, known))
        if self.squeeze != "fp16" and self.footprint != "fp16":
            raise HierarchyError(
                f"squeeze {self.squeeze!r} starts from fp16 pages, not {self.footprint!r}; drop one"
            )
        for precision in (self.footprint, *LADDER[: LADDER.index(self.squeeze) + 1]):
            try:
                self.calibrated.scheme(precision)
            except CalibrationError as missing:
                raise HierarchyError(str(missing)) from None
        if self.hardware != HARDWARE_NAME and self.calibrated.hardware is not None:
            raise HierarchyError(measured_already(self.hardware, self.calibration))

    @property
    def calibrated(self) -> Calibration:
        """The calibration that this scenario names."""
        return calibration_named(self.calibration)

    @property
    def profile(self) -> HardwareProfile:
        """What computing anew takes: measured with the calibration, or as `hardware` says."""
        return self.calibrated.hardware or HARDWARE[self.hardware]

    def scaled(self, numerator: int, denominator: int = 1) -> "Scenario":
        """The same with every capacity times a fraction, rounded down."""
        tiers = tuple(replace(tier, capacity=tier.capacity * numerator // denominator) for tier in self.tiers)
        return replace(self, tiers=tiers)


def measured_already(hardware: str, calibration: str) -> str:
    """That a profile of hardware would say nothing beside a measured calibration."""
    return (
        f"hardware is {hardware}, but calibration {calibration} has measured what computing takes; leave out "
        "one of them"
    )


def one_tier(capacity: int, **rules) -> Scenario:
    """A single tier of GPU memory; what leaves it is gone."""
    return Scenario((Tier("gpu", capacity, LINKS["hbm2e"]),), **rules)


def physical(gpu: int, peer_gpu: int, host: int, nvme: int, **rules) -> Scenario:
    """The default four tiers at physical scale, capacities in bytes: GPU memory, a neighbour's over NVLink,
    host memory over PCIe and an NVMe drive; a capacity of 0 leaves that tier out."""
    tiers = (
        Tier("gpu", gpu, LINKS["hbm2e"]),
        Tier("peer_gpu", peer_gpu, LINKS["nvlink4"]),
        Tier("host", host, host_link(rules.get("calibration", "literature"))),
        Tier("nvme", nvme, LINKS["nvme4"]),
    )
    return Scenario(tuple(tier for tier in tiers if tier.capacity), **rules)


def recompute_seconds(hardware: str | HardwareProfile, block_tokens: int, depths: int) -> list[float]:
    """Seconds to compute the blocks above depth 0, 1, ..., `depths` (a running sum, so that ranges are
    differences).
    """
    profile = hardware if isinstance(hardware, HardwareProfile) else HARDWARE[hardware]
    total, sums = 0.0, [0.0]
    for depth in range(depths):
        total += prefill_seconds(profile, block_tokens, depth * block_tokens) - profile.prefill_c0_s
        sums.append(total)
    return sums
