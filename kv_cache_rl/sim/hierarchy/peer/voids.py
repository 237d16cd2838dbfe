"""Which comparisons of kv-hierarchy-lab's sweep compare nothing, computed from its rows and by running cells
again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.replay import PeerReport
from kv_cache_rl.sim.hierarchy.peer.reproduce import (
    SCAN,
    SMALL,
    SWEEP_WORKLOADS,
    TIGHT,
    Cells,
    percent,
    run_cell,
)
from kv_cache_rl.sim.hierarchy.peer.spec import PEER_SCENARIOS


@dataclass(frozen=True, slots=True)
class Void:
    """Comparisons in which the thing varied changes no metric."""

    varied: str
    void: tuple[tuple[str, ...], ...]
    """What was held, for each comparison without an effect."""
    of: int
    """All such comparisons."""


def void_policies(cells: Cells) -> Void:
    """The scenario and workload pairs in which all policies end with the same metrics."""
    pairs = list(dict.fromkeys((scenario, name) for scenario, name, _ in cells))
    metrics = {
        pair: [m for (scenario, name, _), m in cells.items() if (scenario, name) == pair] for pair in pairs
    }
    ties = tuple(pair for pair in pairs if all(m == metrics[pair][0] for m in metrics[pair]))
    return Void("policy", ties, len(pairs))


def void_prefetch(cells: Cells) -> Void:
    """The rows of scenarios apart only in the prefetch switch that are the same either way: (scenario with,
    workload, policy).
    """
    switched = [
        (on, off)
        for on, a in PEER_SCENARIOS.items()
        for off, b in PEER_SCENARIOS.items()
        if a.prefetch and not b.prefetch and (a.divisor, a.scheme) == (b.divisor, b.scheme)
    ]
    rows = [
        (on, off, name, policy)
        for on, off in switched
        for name in SWEEP_WORKLOADS
        for policy in PEER_POLICIES
    ]
    same = tuple(
        (on, name, policy)
        for on, off, name, policy in rows
        if cells[on, name, policy] == cells[off, name, policy]
    )
    return Void("prefetch", same, len(rows))


@dataclass(frozen=True, slots=True)
class JitterRow:
    """One policy on periodic_reuse at a quarter of the capacity, with unequal and with equal pages."""

    policy: str
    misses: int
    latency_ms: float
    equal_misses: int
    equal_latency_ms: float


EQUAL_PAGE_BYTES = 4096
"""The size around which the pages of periodic_reuse vary by 3 %."""


def size_jitter(policies: Iterable[str] = tuple(PEER_POLICIES)) -> list[JitterRow]:
    """What becomes of periodic_reuse when all its pages are equally large: the gain of cost_aware over lru is
    gone.
    """
    rows = []
    for policy in policies:
        cell = (TIGHT, "periodic_reuse", policy)
        varied, equal = run_cell(cell).metrics, run_cell(cell, EQUAL_PAGE_BYTES).metrics
        times = varied["avg_latency_ms"], equal["avg_latency_ms"]
        rows.append(JitterRow(policy, varied["miss_count"], times[0], equal["miss_count"], times[1]))
    return rows


@dataclass(frozen=True, slots=True)
class HiddenPrefetch:
    """Milliseconds per access of the peer's prefetching policy, by what of its prefetches is waited for."""

    cost_aware_ms: float
    charged_ms: float
    """As published: every transfer is waited for."""
    copies_hidden_ms: float
    """The prefetched pages arrive unnoticed, the demotions that make room for them are still waited for."""
    hidden_ms: float
    """Neither is waited for."""

    @property
    def against_cost_aware(self) -> dict[str, float]:
        """Per cent above cost_aware, for each way of counting."""
        counted = {
            "charged": self.charged_ms,
            "copies hidden": self.copies_hidden_ms,
            "hidden": self.hidden_ms,
        }
        return {name: percent(ms, self.cost_aware_ms) for name, ms in counted.items()}


def hidden_prefetch(scenario: str = SMALL, name: str = SCAN) -> HiddenPrefetch:
    """What overlap would do to the peer's claim about prefetching; which pages move when is left as it is."""
    report, base = (run_cell((scenario, name, policy)) for policy in ("predictive", "cost_aware"))
    accesses = len(report.served_by)
    copies, demotions = prefetch_ms(report)
    return HiddenPrefetch(
        cost_aware_ms=base.metrics["avg_latency_ms"],
        charged_ms=report.metrics["avg_latency_ms"],
        copies_hidden_ms=(report.latency_ms - copies) / accesses,
        hidden_ms=(report.latency_ms - copies - demotions) / accesses,
    )


def prefetch_ms(report: PeerReport) -> tuple[float, float]:
    """Milliseconds of the prefetched copies, and of the demotions that made room for them."""
    copies = demotions = cascade = 0.0
    for event in report.events:
        # A cascade is emitted before the promotion it makes room for, which ends it.
        if event.kind == "demote":
            cascade += event.latency_ms
        elif event.kind == "prefetch":
            copies, demotions, cascade = copies + event.latency_ms, demotions + cascade, 0.0
        elif event.kind == "promote":
            cascade = 0.0
    return copies, demotions
