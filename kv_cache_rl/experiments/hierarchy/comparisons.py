"""Which comparisons of a sweep compare nothing, and what remains over its seeds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

AGGREGATED = ("avg_latency_ms", "overall_hit_rate", "miss_count", "bytes_moved", "eviction_count")
CELL, TWIN = ("workload", "seed", "scenario"), ("workload", "seed", "policy")
SWITCHED = ("semantics", "quantization_scheme", "overlap", "recompute", "squeeze", "capacities")
"""What two scenarios share that differ in the prefetch switch alone."""


def compared(rows: Sequence[dict]) -> list[dict]:
    """The rows with `void`, the comparisons they are no part of (`policies`, `prefetch`), and `void_reason`,
    why.

    `policies`: all policies replayed in this workload, seed and scenario came to the same metrics.
    `prefetch`: the switch is on and nothing was prefetched, or a scenario of the sweep that differs in the
    switch alone came to the same metrics."""
    ties = tied(rows)
    return [
        _marked(row, ties, _twin(row, rows_by) if row["metrics"] else None)
        for rows_by in [_by_twin(rows)]
        for row in rows
    ]


def tied(rows: Iterable[dict]) -> dict[tuple, int]:
    """Cell -> number of policies, for the cells in which all of two or more policies have equal metrics."""
    cells: dict[tuple, list] = defaultdict(list)
    for row in rows:
        cells[tuple(row[key] for key in CELL)].append(row["metrics"])
    return {
        cell: len(found)
        for cell, found in cells.items()
        if len(found) > 1 and found[0] and all(m == found[0] for m in found)
    }


def _by_twin(rows: Iterable[dict]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in TWIN)].append(row)
    return groups


def _twin(row: dict, groups: dict[tuple, list[dict]]) -> dict | None:
    """A row of the same replay with the prefetch switch the other way."""
    for other in groups[tuple(row[key] for key in TWIN)]:
        if other["prefetch_enabled"] != row["prefetch_enabled"] and all(
            other[key] == row[key] for key in SWITCHED
        ):
            return other
    return None


def _marked(row: dict, ties: dict[tuple, int], twin: dict | None) -> dict:
    void, reasons = [], []
    policies = ties.get(tuple(row[key] for key in CELL))
    if policies:
        void.append("policies")
        reasons.append(f"policies: all {policies} come to the same metrics here")
    if row["prefetch_enabled"] and row["metrics"] and not row["metrics"]["prefetch_requests"]:
        void.append("prefetch")
        reasons.append("prefetch: nothing was prefetched, the switch changes nothing")
    elif twin is not None and twin["metrics"] == row["metrics"]:
        void.append("prefetch")
        reasons.append(f"prefetch: the same metrics as in {twin['scenario']}")
    names = list(row)
    at = names.index("error")
    marks = {"void": void, "void_reason": "; ".join(reasons) or None}
    return {**{name: row[name] for name in names[:at]}, **marks, **{name: row[name] for name in names[at:]}}


def summarised(rows: Iterable[dict]) -> list[dict]:
    """Mean and sample standard deviation over the seeds, a line per scenario, workload and policy, sorted."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for row in rows:
        if row["metrics"] is not None:
            groups[row["scenario"], row["workload"], row["policy"]].append(row)
    table = []
    for scenario, workload, policy in sorted(groups):
        mine = groups[scenario, workload, policy]
        line = {"scenario": scenario, "workload": workload, "policy": policy, "seeds": len(mine)}
        for metric in AGGREGATED:
            values = [row["metrics"][metric] for row in mine]
            line[f"{metric}_mean"] = fmean(values)
            line[f"{metric}_std"] = stdev(values) if len(values) > 1 else 0.0
        regrets = [row["regret_to_bound"] for row in mine if row["regret_to_bound"] is not None]
        line["regret_to_bound_mean"] = fmean(regrets) if len(regrets) == len(mine) else None
        line["void"] = sorted(set.intersection(*(set(row["void"]) for row in mine)))
        table.append(line)
    return table


def void_counts(rows: Sequence[dict]) -> dict[str, dict[str, int]]:
    """How many comparisons are void, of how many: cells in which all policies tie, rows that ignore the
    prefetch switch.
    """
    cells = {tuple(row[key] for key in CELL): "policies" in row["void"] for row in rows if row["metrics"]}
    switched = [row for row in rows if row["prefetch_enabled"] and row["metrics"]]
    return {
        "policies": {
            "void": len({tuple(row[key] for key in CELL) for row in rows if "policies" in row["void"]}),
            "of": len(cells),
        },
        "prefetch": {"void": sum("prefetch" in row["void"] for row in switched), "of": len(switched)},
    }
