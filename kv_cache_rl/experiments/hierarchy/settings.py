"""A scenario whose capacities are relative to a trace: a share of its pages, a number of blocks, or bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.numbers import shown
from kv_cache_rl.experiments.hierarchy.charges import with_model
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.spec import laboratory
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, Tier, physical
from kv_cache_rl.sim.hierarchy.traces.accesses import Accesses
from kv_cache_rl.sim.hierarchy.traces.trace import Trace
from kv_cache_rl.sim.hierarchy.traces.warm_up import WarmUp, parse_warm_up, warmed
from kv_cache_rl.traces.fields import LARGEST

LAB = "kv-hierarchy-lab"
SEMANTICS = ("default", LAB)
TIERS = ("gpu", "peer_gpu", "host", "nvme")
"""Tiers at physical scale, fastest first."""
UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
RULES: dict[str, Any] = {rule.name: rule.default for rule in fields(Scenario) if rule.name != "tiers"}
"""Setting that a scenario takes as it is -> its default."""

Capacity = int | float | str
"""Blocks (5000), a share of the trace's distinct pages at fp16 (0.25, "25%"), or bytes ("80GB", "512MiB")."""
MOST_DIGITS = 40
"""Of a capacity in a text: more is beyond 63 bits, and thousands of them no number that Python reads."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A named scenario of a sweep, before it knows the trace."""

    name: str
    tiers: tuple[tuple[str, Capacity], ...] = ()
    """Tier -> capacity, at physical scale; empty: the tiers of kv-hierarchy-lab."""
    laboratory: tuple[int, int] = (1, 1)
    """What the capacities of kv-hierarchy-lab's tiers are multiplied and divided by."""
    semantics: str = "default"
    model: str | None = None
    """Gives the bytes of blocks to a trace that does not know them."""
    policies: tuple[str, ...] = ()
    """Only these are replayed; empty: all of the sweep."""
    warm_up: WarmUp | None = None
    """What comes first and is in no metric: accesses, a share of them, or seconds."""
    rules: tuple[tuple[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.semantics not in SEMANTICS:
            raise HierarchyError(f"scenario {self.name!r}: {unknown('semantics', self.semantics, SEMANTICS)}")
        if self.warm_up is not None:
            parse_warm_up(self.warm_up)
            if self.semantics == LAB:
                raise HierarchyError(f"scenario {self.name!r}: {LAB} has no warm-up; drop warm_up")
        if self.semantics == LAB and (self.tiers or self.laboratory[0] != 1):
            raise HierarchyError(
                f"scenario {self.name!r}: {LAB} has tiers of its own; give laboratory = [1, divisor]"
            )
        others = sorted({key for key, _ in self.rules} - {"footprint", "prefetch"})
        if self.semantics == LAB and others:
            raise HierarchyError(
                f"scenario {self.name!r}: {LAB} knows only footprint and prefetch; drop {', '.join(others)}"
            )
        for tier, capacity in self.tiers:
            if tier not in TIERS:
                raise HierarchyError(f"scenario {self.name!r}: {unknown('tier', tier, TIERS)}")
            try:
                readable_capacity(capacity)
            except HierarchyError as wrong:
                raise HierarchyError(f"scenario {self.name!r}: {tier}: {wrong}") from None
        self.scenario(None)

    def rule(self, name: str) -> Any:
        """The value of a rule, given or by default."""
        return dict(self.rules).get(name, RULES[name])

    def plays(self, policy: str) -> bool:
        """Whether this policy is replayed here: all of the sweep are, unless `policies` names some; the peer
        has but six.
        """
        known = PEER_POLICIES if self.semantics == LAB else POLICIES
        return policy in (self.policies or known)

    def scenario(self, trace: Trace | None) -> Scenario:
        """The scenario for a trace; None: with capacities that mean nothing, to check the rules."""
        rules = dict(self.rules)
        if self.semantics == LAB:
            rules.pop("prefetch", None)
        if not self.tiers:
            return laboratory(*self.laboratory, **rules)
        names = {tier: 10**12 if trace is None else capacity_of(value, trace) for tier, value in self.tiers}
        return tiers_of(names, **rules)

    def sized(self, trace: Trace) -> Trace:
        """The trace with bytes for its blocks, if a model says how many, and with its warm-up."""
        trace = with_model(trace, self.model) if self.model else trace
        return trace if self.warm_up is None else warmed(trace, self.warm_up)

    def to_json(self) -> dict:
        """The settings that are not the default ones."""
        where = {"tiers": dict(self.tiers)} if self.tiers else {"laboratory": list(self.laboratory)}
        more: dict[str, Any] = {"model": self.model} if self.model else {}
        more |= {} if self.warm_up is None else {"warm_up": self.warm_up}
        return {"name": self.name, "semantics": self.semantics, **where, **more, **dict(self.rules)}


def tiers_of(capacities: Mapping[str, int], **rules: Any) -> Scenario:
    """Tiers at physical scale with these capacities, fastest first.

    Raises HierarchyError for a name or size that cannot be.
    """
    for name, capacity in capacities.items():
        if name not in TIERS:
            raise HierarchyError(unknown("tier", name, TIERS))
        if capacity <= 0:
            raise HierarchyError(
                f"tier {name!r} has capacity {capacity}; give a positive number, or leave it out"
            )
    return physical(*(capacities.get(name, 0) for name in TIERS), **rules)


def in_blocks(trace: Trace) -> Trace:
    """The trace with all blocks alike, so that capacities count blocks."""
    return replace(trace, page_bytes=0)


def uneven(trace: Trace | Accesses) -> bool:
    """Whether its pages differ in size, so that n blocks are not a number of bytes."""
    sizes = trace.page_bytes
    return isinstance(sizes, np.ndarray) and bool(sizes.min() != sizes.max())


def free_transfers(trace: Trace, scenario: Scenario) -> bool:
    """Whether blocks without known bytes move between tiers here: they cross in no time."""
    return len(scenario.tiers) > 1 and isinstance(trace.page_bytes, int) and not trace.page_bytes


@dataclass(frozen=True, slots=True)
class Bytes:
    """A capacity in bytes."""

    count: int


def capacity_of(value: Capacity, trace: Trace) -> int:
    """A capacity in the trace's unit: bytes, or blocks where the trace does not know its bytes.

    A share is of all distinct pages at fp16, rounded up; blocks of unequal pages count with their mean size,
    rounded up."""
    capacity = _capacity(value, trace)
    if capacity > LARGEST:
        raise HierarchyError(f"the capacity {value} is more than 63 bits can count; give a smaller one")
    return capacity


def readable_capacity(value: Capacity) -> int | float | Bytes:
    """A capacity as its kind, whatever the trace. Raises HierarchyError where no trace could have it."""
    read = parse_capacity(value) if isinstance(value, str) else value
    read = _blocks_or_share(value) if isinstance(value, float) else read
    if isinstance(read, float) and not 0 < read < np.inf:
        raise HierarchyError(f"the capacity {read} is no share; give more than 0")
    if isinstance(read, int) and read <= 0:
        raise HierarchyError(f"the capacity is {read} blocks; give at least 1")
    if (read.count if isinstance(read, Bytes) else read) > LARGEST:
        raise HierarchyError(
            f"the capacity {shown(value)} is more than 63 bits can count; give a smaller one"
        )
    return read


def _capacity(value: Capacity, trace: Trace) -> int:
    total = page_total(trace)
    read = readable_capacity(value)
    if isinstance(read, Bytes):
        if total == 0:
            raise HierarchyError(
                f"{read.count:,} bytes: {trace.name!r} does not know the bytes of its blocks; name a model"
            )
        return read.count
    if isinstance(read, float):
        return int(np.ceil(round(read * (total or trace.blocks), 6)))
    return int(-(-read * total // max(trace.blocks, 1))) if total else read


def page_total(trace: Trace | Accesses) -> int:
    """Bytes of all distinct pages at fp16, 0 where unknown."""
    sizes = np.asarray(trace.page_bytes, np.int64)
    return int(sizes) * trace.blocks if sizes.ndim == 0 else int(sizes.sum())


def parse_capacity(text: str) -> int | float | Bytes:
    """Blocks, share or bytes.

    >>> parse_capacity("5000"), parse_capacity("25%"), parse_capacity("80GB")
    (5000, 0.25, Bytes(count=80000000000))
    """
    if len(text) > MOST_DIGITS:
        raise HierarchyError(f"the capacity {shown(text)} is no number of 63 bits; give a smaller one")
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*(%|[a-zA-Z]*)\s*", text)
    number, unit = (match[1].replace("_", ""), match[2].upper()) if match else ("", "")
    if not match or unit not in ("", "%", "BLOCKS", *UNITS):
        raise HierarchyError(
            f"{text!r} is no capacity; write blocks (5000), a share (25%) or bytes (80GB, 512MiB)"
        )
    if unit == "%":
        return float(number) / 100
    if unit in UNITS:
        return Bytes(int(Fraction(number) * UNITS[unit]))
    if unit == "BLOCKS" and Fraction(number).denominator != 1:
        raise HierarchyError(f"{text!r} is no whole number of blocks; give one")
    if unit == "BLOCKS" or "." not in number:
        return int(Fraction(number))
    return _blocks_or_share(float(number))


def _blocks_or_share(number: float) -> int | float:
    """What a number with a decimal point and no unit says: a share below 1, whole blocks above it.

    Raises HierarchyError where it may be either.
    """
    if not 1 <= number < np.inf:
        return number
    if number == 1:
        raise HierarchyError("the capacity 1.0 may be one block or all of them; write 1 or 100%")
    if not number.is_integer():
        raise HierarchyError(
            f"the capacity {number} is no whole number of blocks; give one, or a share ({100 * number:g}%)"
        )
    return int(number)


def setting_of(table: Mapping[str, Any]) -> Setting:
    """The setting that a table of a sweep definition describes.

    Raises HierarchyError for keys that do not exist.
    """
    rest = dict(table)
    name = str(rest.pop("name", "") or "scenario")
    own = {key: rest.pop(key) for key in ("semantics", "model", "warm_up") if key in rest}
    tiers = rest.pop("tiers", {})
    if not isinstance(tiers, dict) or not all(
        isinstance(size, int | float | str) and not isinstance(size, bool) for size in tiers.values()
    ):
        raise HierarchyError(
            f"scenario {name!r}: tiers = {tiers} must be a table; write {{gpu = 5000, host = 0.5}}"
        )
    numbers = rest.pop("laboratory", (1, 1))
    if not (
        isinstance(numbers, list | tuple)
        and len(numbers) == 2
        and all(isinstance(n, int) and n > 0 for n in numbers)
    ):
        raise HierarchyError(
            f"scenario {name!r}: laboratory = {numbers} must be [numerator, denominator], both positive"
        )
    policies = tuple(rest.pop("policies", ()))
    for key in rest:
        if key not in RULES:
            known = ("name", "tiers", "laboratory", "semantics", "model", "policies", "warm_up", *RULES)
            raise HierarchyError(f"scenario {name!r} has no setting {key!r}; use {', '.join(known)}")
        kind = type(RULES[key])
        if not isinstance(rest[key], int | float if kind is float else kind) or isinstance(
            rest[key], bool
        ) != (kind is bool):
            raise HierarchyError(
                f"scenario {name!r}: {key} = {rest[key]!r} must be like {RULES[key]!r}, its default"
            )
    return Setting(
        name,
        tuple(tiers.items()),
        tuple(numbers),
        policies=policies,
        rules=tuple(sorted(rest.items())),
        **own,
    )


def tier_capacities(scenario: Scenario) -> dict[str, int]:
    """Tier -> capacity."""
    return {tier.name: tier.capacity for tier in scenario.tiers}


def fastest(scenario: Scenario) -> Tier:
    """The tier whose hits count."""
    return scenario.tiers[0]
