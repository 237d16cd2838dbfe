"""One cell of a sweep: a policy on a trace under a scenario, replayed into a row with its bound."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl import __version__
from kv_cache_rl.core.candidates import Column
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.numbers import is_count, is_number, shown
from kv_cache_rl.core.precision import LADDER
from kv_cache_rl.experiments.hierarchy.settings import LAB, Setting, fastest, free_transfers, tier_capacities
from kv_cache_rl.experiments.hierarchy.sources import Source
from kv_cache_rl.files import digest_of
from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.sim.hierarchy.curves.bound import bound_name, min_hits
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.replay import replay_peer_trace
from kv_cache_rl.sim.hierarchy.peer.spec import tiers_over
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.sizes import kept_bytes, kept_parts
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.traces.trace import Trace
from kv_cache_rl.sim.hierarchy.traces.warm_up import WarmUp, warmed
from kv_cache_rl.traces.errors import TraceError
from kv_cache_rl.traces.fields import LARGEST

TUNED = {"window": Column.RECENT_USES, "regret": Column.REGRET}
"""What a sweep tunes -> what a policy that takes it needs to know of a block."""
RELAXED = "MIN with bypass, every page as small as the smallest"


@dataclass(frozen=True, slots=True)
class Decider:
    """A policy under a name of its own, with what it is tuned to."""

    name: str
    policy: str
    tuning: tuple[tuple[str, Any], ...] = ()

    def to_json(self) -> dict:
        return {"name": self.name, "policy": self.policy, "tuning": dict(self.tuning)}


@dataclass(frozen=True, slots=True)
class Cell:
    """What one replay needs to know."""

    source: Source
    setting: Setting
    decider: Decider
    seed: int | None
    """Draws a workload and the choices of `random`; None: the workload's own seed, and 0."""

    @property
    def key(self) -> str:
        """Digest of all that the row depends on, this package's code included, so that old rows never pass
        for new ones.
        """
        parts = [
            self.source.to_json(),
            self.setting.to_json(),
            self.decider.to_json(),
            self.seed,
            code_digest(),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()[:24]


DECIDING = (
    *("core", "models", "policies", "sim/hierarchy", "traces"),
    *(f"experiments/hierarchy/{name}.py" for name in ("cells", "charges", "settings", "sources")),
)
"""Folders and files of the package that decide what a row says."""


@lru_cache(1)
def code_digest() -> str:
    """Digest of the package's version and of the code that decides what a row says."""
    return digest_of(Path(__file__).parents[2], DECIDING, __version__)


def decider_of(entry: str | dict) -> Decider:
    """The decider that an entry of a sweep's `policies` names: a policy, or {name, policy, tuning}."""
    if isinstance(entry, str):
        entry = {"policy": entry}
    rest = dict(entry)
    policy = str(rest.pop("policy", rest.get("name", "")))
    name = str(rest.pop("name", policy))
    if policy not in POLICIES:
        raise HierarchyError(unknown("policy", policy, POLICIES))
    if isinstance(rest.get("regret"), list):
        rest["regret"] = tuple(rest["regret"])
    return Decider(name, policy, tuple(sorted(rest.items())))


def run_cell(cell: Cell, trace: Trace | None = None) -> dict:
    """The row of a cell. What cannot be replayed (a page larger than a tier) is a row with an `error`."""
    head: dict[str, Any] = {
        "scenario": cell.setting.name,
        "workload": cell.source.name,
        "policy": cell.decider.name,
        "seed": cell.seed,
        "semantics": cell.setting.semantics,
        "quantization_scheme": cell.setting.rule("footprint"),
        "prefetch_enabled": bool(cell.setting.rule("prefetch")),
        "overlap": bool(cell.setting.rule("overlap")),
        "recompute": bool(cell.setting.rule("recompute")),
        "squeeze": cell.setting.rule("squeeze"),
    }
    empty = {"capacities": None, "bound": None, "bound_hit_rate": None, "regret_to_bound": None}
    try:
        trace = cell.setting.sized(trace or traced(cell.source, cell.seed))
        scenario = cell.setting.scenario(trace)
        metrics = replayed(trace, scenario, cell)
        name, rate = bound_of(cell, trace, scenario)
    except (HierarchyError, TraceError, OSError) as wrong:
        return {**head, **empty, "error": str(wrong), "metrics": None}
    if free_transfers(trace, scenario):
        head["free_transfers"] = True
    if metrics["prefetch_requests"]:
        # A page fetched before it is asked for hits at its first use; MIN fetches on demand and bounds no
        # such replay.
        name, rate = None, None
    regret = None if rate is None else rate - metrics["overall_hit_rate"]
    bounds = {"bound": name, "bound_hit_rate": rate, "regret_to_bound": regret}
    return {**head, "capacities": tier_capacities(scenario), **bounds, "error": None, "metrics": metrics}


def replayed(trace: Trace, scenario: Scenario, cell: Cell) -> dict:
    """Metrics of the replay, under the semantics of the cell."""
    tuning = dict(cell.decider.tuning)
    if cell.setting.semantics == LAB:
        rules = {"scheme": cell.setting.rule("footprint"), "prefetch": bool(cell.setting.rule("prefetch"))}
        tiers = tiers_over(cell.setting.laboratory[1])
        return replay_peer_trace(trace, tiers, cell.decider.policy, parameters=tuning, **rules).metrics
    return run(trace, scenario, cell.decider.policy, seed=cell.seed or 0, **tuning).metrics


def tunings(policy: str) -> tuple[str, ...]:
    """What a policy can be tuned by: the uses that it looks back on, or how it weighs what it regrets."""
    needs = RANKS[policy].needs if policy in RANKS else ()
    return tuple(name for name, column in TUNED.items() if column in needs)


def check_tuning(decider: Decider, semantics: str) -> None:
    """Raises HierarchyError if the decider's tuning is not one its policy takes under these semantics."""
    known = PEER_POLICIES.get(decider.policy, {}) if semantics == LAB else tunings(decider.policy)
    for key, value in decider.tuning:
        if key not in known:
            raise HierarchyError(
                f"policy {decider.name!r} takes no {key!r} under {semantics}; "
                f"it takes {', '.join(known) or 'nothing'}"
            )
        if key == "regret" and not _is_regret(value):
            raise HierarchyError(
                f"policy {decider.name!r}: regret = {shown(value)} must be [weight, decay, horizon in "
                "accesses]: a weight from 0 on, a decay from 0 to 1, a whole horizon from 0 on"
            )
        if key == "window" and not (is_count(value) and 1 <= value <= LARGEST):
            raise HierarchyError(
                f"policy {decider.name!r}: window = {shown(value)} must be a whole number from 1 on"
            )
        if key not in ("regret", "window") and not (is_number(value) and abs(value) <= LARGEST):  # no NaN
            raise HierarchyError(
                f"policy {decider.name!r}: {key} = {shown(value)} must be a finite number; correct it"
            )


def _is_regret(value: Any) -> bool:
    if not (isinstance(value, tuple) and len(value) == 3 and all(map(is_number, value))):
        return False
    weight, decay, horizon = value
    return 0 <= weight <= LARGEST and 0 <= decay <= 1 and isinstance(horizon, int) and 0 <= horizon <= LARGEST


@lru_cache(4)
def traced(source: Source, seed: int | None) -> Trace:
    """The trace of a source, kept for the next cells of this process."""
    return source.trace(seed)


@lru_cache(64)
def _bound(source: Source, seed: int | None, warm_up: WarmUp | None, blocks: int) -> float:
    trace = traced(source, seed)
    trace = trace if warm_up is None else warmed(trace, warm_up)
    return min_hits(trace, blocks) / trace.accesses


def bound_of(cell: Cell, trace: Trace, scenario: Scenario) -> tuple[str, float]:
    """Name of the bound on the fastest tier's hit rate, and its value, for replays without prefetches."""
    name, blocks = bound_capacity(trace, scenario)
    if cell.source.file is None and cell.source.workload is None:
        return name, min_hits(trace, blocks) / trace.accesses
    return name, _bound(cell.source, cell.seed, cell.setting.warm_up, blocks)


def bound_capacity(trace: Trace, scenario: Scenario) -> tuple[str, int]:
    """Name of the bound that applies in a scenario, and the blocks it gives the fastest tier room for.

    Pages that differ, or may be compressed, are all taken to be as small as the smallest: more fit than in
    truth, so that no policy does better, but none may do as well either."""
    size = trace.page_bytes
    if isinstance(size, np.ndarray):
        size = int(size[np.unique(trace.run_start)].min())
    if not size:
        return bound_name(trace), fastest(scenario).capacity
    stored = max(int(size * scenario.calibrated.scheme(scenario.footprint).multiplier), 1)
    smallest = kept_bytes(stored, kept_parts(scenario)[LADDER.index(scenario.squeeze)])
    name = bound_name(trace) if scenario.squeeze == LADDER[0] else ""
    return name or RELAXED, max(fastest(scenario).capacity // max(smallest, 1), 1)


def without_repeats(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without those that would be replayed to the same row: a file is the same under each seed, and
    so is every policy on it but `random`."""
    found: dict[tuple, Cell] = {}
    for cell in cells:
        same = not cell.source.seeded and cell.decider.policy != "random"
        found.setdefault((cell.source, cell.setting, cell.decider, None if same else cell.seed), cell)
    return list(found.values())
