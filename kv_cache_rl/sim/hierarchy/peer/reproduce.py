"""kv-hierarchy-lab's default sweep run again: 210 rows beside golden ones, and its headline claims.

Golden rows are not part of the project; their digest is. With a file of them `compare` names every
difference. Without one it can still show that there is none.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from kv_cache_rl.files import read_json
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.replay import PeerReport, replay_peer_trace
from kv_cache_rl.sim.hierarchy.peer.spec import PEER_SCENARIOS, tiers_over
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

Cell = tuple[str, str, str]
"""Scenario, workload, policy."""
Cells = Mapping[Cell, dict]
"""Cell -> its metrics."""


SWEEP_WORKLOADS = (
    "chat_continuation",
    "rag_burst",
    "periodic_reuse",
    "long_tail_mix",
    "prefetch_friendly",
    "adversarial_burst",
    "mixed_locality",
)
SWEEP_SHA256 = "70290c2cbda2406b5a62aef232749fcc2336a7a2b38eff7320a56cab71339251"
"""Of the 210 rows the peer's own code wrote, one JSON list a line, as `row_line` writes them."""


def sweep_cells() -> list[Cell]:
    """The 210 cells of the default sweep, in the peer's order."""
    return [(s, w, p) for s in PEER_SCENARIOS for w in SWEEP_WORKLOADS for p in PEER_POLICIES]


def run_cell(cell: Cell, page_bytes: int | None = None) -> PeerReport:
    """The report of one cell; `page_bytes` (fp16) makes all pages of the workload equally large."""
    scenario, trace = PEER_SCENARIOS[cell[0]], workload(cell[1])
    if page_bytes:
        trace = replace(trace, page_bytes=page_bytes)
    tiers = tiers_over(scenario.divisor)
    return replay_peer_trace(trace, tiers, cell[2], scheme=scenario.scheme, prefetch=scenario.prefetch)


def sweep_row(cell: Cell) -> dict:
    """One row of the sweep with the peer's keys."""
    scenario = PEER_SCENARIOS[cell[0]]
    row = dict(zip(("scenario", "workload", "policy"), cell, strict=True))
    row |= {"quantization_scheme": scenario.scheme, "prefetch_enabled": scenario.prefetch}
    return row | {"metrics": run_cell(cell).metrics}


def sweep_rows(apply: Callable[..., Iterable[dict]] = map) -> list[dict]:
    """All 210 rows; `apply(sweep_row, cells)` may spread them over processes."""
    return list(apply(sweep_row, sweep_cells()))


def cells_of(rows: Iterable[dict]) -> dict[Cell, dict]:
    """Cell -> metrics of such rows."""
    return {(row["scenario"], row["workload"], row["policy"]): row["metrics"] for row in rows}


def row_line(cell: Cell, metrics: dict) -> str:
    """The row as one JSON list: cell, metrics, hit rate by tier, peaks in order of tiers.

    Equal text is equal to the bit.
    """
    *plain, tier_hit_rate, peaks = metrics.values()
    return json.dumps([*cell, plain, tier_hit_rate, list(peaks.values())])


def read_golden(source: str | Path | dict) -> dict[Cell, dict]:
    """Cell -> metrics of a golden file (or its content): lists in `rows`, names in `metric_columns` and
    `tiers_base`.

    Raises:
        HierarchyError: if it is no such file.
    """
    try:
        golden = source if isinstance(source, dict) else read_json(Path(source))
        names, tiers = golden["metric_columns"], [tier[0] for tier in golden["tiers_base"]]
        return {
            (scenario, name, policy): dict(zip(names, plain, strict=True))
            | {"tier_hit_rate": served, "peak_footprint_bytes": dict(zip(tiers, peaks, strict=True))}
            for scenario, name, policy, plain, served, peaks in golden["rows"]
        }
    except OSError as wrong:
        raise HierarchyError(
            f"the golden rows cannot be read: {wrong}; give the path of default_sweep_metrics.json"
        ) from wrong
    except (ValueError, KeyError, TypeError, RecursionError) as wrong:
        where = "the given rows" if isinstance(source, dict) else source
        raise HierarchyError(
            f"{where} holds no golden rows ({wrong!r}); give a default_sweep_metrics.json"
        ) from wrong


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric that is not the golden one to the bit."""

    cell: Cell
    metric: str
    golden: object
    ours: object


@dataclass(frozen=True, slots=True)
class Comparison:
    """How many rows are equal to the bit."""

    rows: int
    rows_equal: int | None
    """None: not all, and without golden rows there is no telling which."""
    differences: tuple[Difference, ...]
    against: str
    """`golden rows`, or `digest` where there were none to read."""


def compare(rows: list[dict], golden: Cells | None = None) -> Comparison:
    """The rows against golden ones, or against the digest of the peer's rows if none are given."""
    ours = cells_of(rows)
    if golden is None:
        lines = "\n".join(row_line(cell, metrics) for cell, metrics in ours.items())
        same = hashlib.sha256(lines.encode()).hexdigest() == SWEEP_SHA256
        return Comparison(len(rows), len(rows) if same else None, (), "digest")
    differences = [
        d
        for cell in [*golden, *(c for c in ours if c not in golden)]
        for d in _differences(cell, golden, ours)
    ]
    equal = len(golden.keys() & ours.keys() - {difference.cell for difference in differences})
    return Comparison(len(rows), equal, tuple(differences), "golden rows")


def _differences(cell: Cell, golden: Cells, ours: Cells) -> list[Difference]:
    if cell not in ours or cell not in golden:
        return [
            Difference(
                cell, "row", "present" if cell in golden else None, "present" if cell in ours else None
            )
        ]
    a, b = golden[cell], ours[cell]
    names = [*a, *(name for name in b if name not in a)]
    # As text, because the order of a dictionary and the sign of a zero are part of the bits.
    pairs = [(name, a.get(name), b.get(name)) for name in names]
    return [Difference(cell, name, x, y) for name, x, y in pairs if json.dumps(x) != json.dumps(y)]


@dataclass(frozen=True, slots=True)
class Claim:
    """A number the peer publishes, and how it follows from rows."""

    name: str
    published: float
    digits: int
    unit: str
    value: Callable[[Cells], float]


@dataclass(frozen=True, slots=True)
class ClaimCheck:
    """A claim beside what golden rows and our rows give for it."""

    name: str
    unit: str
    published: float
    golden: float | None
    ours: float
    agrees: bool
    """Ours, rounded as published, is what was published."""


def check_claims(ours: Cells, golden: Cells | None = None) -> list[ClaimCheck]:
    """Every headline claim: published, golden (None without golden rows) and ours."""
    checks = []
    for claim in CLAIMS:
        found = claim.value(ours)
        agrees = round(found, claim.digits) == claim.published
        reference = claim.value(golden) if golden else None
        checks.append(ClaimCheck(claim.name, claim.unit, claim.published, reference, found, agrees))
    return checks


def percent(new: float, old: float) -> float:
    """By how many per cent `new` exceeds `old`."""
    return 100.0 * (new / old - 1.0)


def _metric(metric: str, scenario: str, name: str, policy: str) -> Callable[[Cells], float]:
    return lambda cells: cells[scenario, name, policy][metric]


def _change(metric: str, scenario: str, name: str, policy: str, base: str) -> Callable[[Cells], float]:
    return lambda cells: percent(cells[scenario, name, policy][metric], cells[scenario, name, base][metric])


def _mean(cells: Cells, metric: str, scenario: str, name: str) -> float:
    return fmean(cells[scenario, name, policy][metric] for policy in PEER_POLICIES)


def _int4_bytes(cells: Cells) -> float:
    return percent(_mean(cells, "bytes_moved", INT4, RAG), _mean(cells, "bytes_moved", FP16, RAG))


SMALL, TIGHT = "small_fp16_prefetch", "constrained_fp16_prefetch"
FP16, INT4 = "small_fp16_no_prefetch", "small_int4_no_prefetch"
RAG, BURST, SCAN, LATENCY = "rag_burst", "adversarial_burst", "prefetch_friendly", "avg_latency_ms"
CLAIMS = (
    # Source: the results that kv-hierarchy-lab puts first, commit 222356d. Which rows they are
    # about was found by search.
    Claim("rag_burst, half capacity: misses of lru", 212, 0, "", _metric("miss_count", SMALL, RAG, "lru")),
    Claim(
        "rag_burst, half capacity: misses of regret_aware",
        152,
        0,
        "",
        _metric("miss_count", SMALL, RAG, "regret_aware"),
    ),
    Claim(
        "the same: bytes moved against lru",
        -26.3,
        1,
        "%",
        _change("bytes_moved", SMALL, RAG, "regret_aware", "lru"),
    ),
    Claim(
        "adversarial_burst, quarter capacity: regret_aware",
        3.365,
        3,
        "ms",
        _metric(LATENCY, TIGHT, BURST, "regret_aware"),
    ),
    Claim("adversarial_burst, quarter capacity: lru", 3.664, 3, "ms", _metric(LATENCY, TIGHT, BURST, "lru")),
    Claim(
        "prefetch_friendly: misses, predictive to lru",
        -59.6,
        1,
        "%",
        _change("miss_count", SMALL, SCAN, "predictive", "lru"),
    ),
    Claim(
        "the same: latency, predictive to cost_aware",
        29.2,
        1,
        "%",
        _change(LATENCY, SMALL, SCAN, "predictive", "cost_aware"),
    ),
    Claim(
        "rag_burst at fp16: hit rate, mean of policies",
        0.459,
        3,
        "",
        lambda c: _mean(c, "overall_hit_rate", FP16, RAG),
    ),
    Claim(
        "rag_burst at int4: hit rate, mean of policies",
        0.771,
        3,
        "",
        lambda c: _mean(c, "overall_hit_rate", INT4, RAG),
    ),
    Claim("the same: bytes moved, int4 to fp16", -93.9, 1, "%", _int4_bytes),
)
