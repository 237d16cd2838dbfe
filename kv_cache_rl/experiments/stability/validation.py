"""Theory against simulation: for each workload the rate that is predicted, and the one at which the
simulator's queue turns.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.stability.boundary import OFFSETS, Slope, Trial, boundary_of, slope_of
from kv_cache_rl.experiments.stability.rows import Column, Row, mean_of, saturated
from kv_cache_rl.experiments.stability.runs import ADMISSIONS, OPTIMISTIC, RESERVE
from kv_cache_rl.experiments.stability.workloads import (
    FITS,
    MEMORY_TOKENS,
    Workload,
    fitted,
    fluid_rate,
    predicted_rate,
    published,
    traced,
)
from kv_cache_rl.experiments.workers import mapped
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import PUBLISHED

SWEPT = (0.80, 0.90, 0.95, 1.0, 1.05, 1.10, 1.20)
"""Arrival rates of the sweep from an empty server, relative to the predicted rate."""
SATURATED = 1.25
"""Where b is measured: so far above the rate the profile alone predicts."""
SEEDS = 1 << 20
"""Of each workload and seed: pilots take odd ones, boundaries even ones, so that no run is used for both. A
workload's runs share theirs over rates and admission rules."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is looked."""

    iterations: int
    """Engine iterations of a run, about; requests follow from the footprint."""
    pilots: int
    boundary_seeds: int
    sweep_seeds: int

    def requests(self, workload: Workload) -> int:
        """Requests that take so many iterations at the boundary."""
        return max(200, round(self.iterations * MEMORY_TOKENS / workload.lengths.footprint))


FULL = Effort(40_000, 3, 9, 6)
QUICK = Effort(10_000, 1, 6, 6)


def chosen_workloads(names: Sequence[str] = (), traces: Sequence[str] = ()) -> list[Workload]:
    """The named workloads (all five without a name); a trace stands in for the fitted one of its format.

    Raises:
        StabilityError: there is no such workload, or two traces are of one format.
        TraceError: a trace cannot be read.
    """
    made: dict[str, Callable[[], Workload]] = {name: lambda name=name: published(name) for name in PUBLISHED}
    made |= {name: lambda name=name: fitted(name) for name in FITS}
    for name in names:
        if name not in made:
            raise StabilityError(unknown("workload", name, made))
    found = {name: made[name]() for name in names or made}
    replaced: set[str] = set()
    for path in traces:
        trace = traced(path)
        stands_for = next((name for name in FITS if trace.name.startswith(name)), trace.name)
        if stands_for in replaced:
            raise StabilityError(f"{path} is the second {trace.name}; validate one of each format at a time")
        replaced.add(stands_for)
        found[stands_for] = trace
    return list(found.values())


def validate(
    workloads: Sequence[Workload],
    seed: int = 0,
    effort: Effort = FULL,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """A row per workload; the same for the same seed and effort, however many workers."""
    whole_number("seed", seed, error=StabilityError)
    cells = [(work, admission) for work in workloads for admission in ADMISSIONS]
    pilots = [
        Trial(
            work,
            admission,
            SATURATED * fluid_rate(work),
            effort.requests(work),
            _seed(seed, work, 2 * k + 1),
            True,
        )
        for work, admission in cells
        for k in range(effort.pilots)
    ]
    swept = len(SWEPT) * effort.sweep_seeds
    total = len(pilots) + len(cells) * len(OFFSETS) * effort.boundary_seeds + 2 * len(workloads) * swept
    measured = mapped(saturated, pilots, workers, lambda done: progress(done, total))
    at_saturation = {
        cell: mean_of(measured[at * effort.pilots : (at + 1) * effort.pilots])
        for at, cell in enumerate(cells)
    }
    plans = [plan for cell in cells for plan in _plans(cell, at_saturation, effort)]
    trials = [
        Trial(work, admission, rate, effort.requests(work), _seed(seed, work, 2 * k), backlog)
        for work, admission, rate, seeds, backlog in plans
        for k in range(seeds)
    ]
    slopes = iter(mapped(slope_of, trials, workers, lambda done: progress(len(pilots) + done, total)))
    found = [(plan, Slope(plan[2], tuple(next(slopes) for _ in range(plan[3])))) for plan in plans]
    rows = []
    for work in workloads:
        columns = {}
        for admission in ADMISSIONS:
            mine = [(plan[4], slope) for plan, slope in found if plan[0] is work and plan[1] == admission]
            root = boundary_of([slope for backlog, slope in mine if backlog])
            sweep = tuple(slope for backlog, slope in mine if not backlog)
            columns[admission] = Column(at_saturation[work, admission], root, sweep)
        rows.append(Row(work, columns))
    return rows


def _seed(seed: int, work: Workload, k: int) -> int:
    return ((seed << 32 | zlib.crc32(work.name.encode())) * SEEDS + k) % (1 << 64)


def _plans(
    cell: tuple[Workload, str], at_saturation: dict, effort: Effort
) -> list[tuple[Workload, str, float, int, bool]]:
    """Workload, admission, rate, seeds and whether there is a backlog, of each point to measure."""
    work, admission = cell
    expected = at_saturation[cell].rate
    points = [(work, admission, offset * expected, effort.boundary_seeds, True) for offset in OFFSETS]
    if admission in (RESERVE, OPTIMISTIC):
        predicted = predicted_rate(work, at_saturation[work, RESERVE].mean_s)
        points += [(work, admission, share * predicted, effort.sweep_seeds, False) for share in SWEPT]
    return points


def golden() -> list[dict]:
    """The published numbers of the paper's workloads beside ours, by exact enumeration."""
    rows = []
    for name, theirs in PUBLISHED.items():
        footprint = published(name).lengths.footprint
        batch_s = MEMORY_TOKENS / (theirs.predicted * theirs.footprint)
        rate = predicted_rate(published(name), batch_s)
        rows.append(
            {
                "workload": name,
                "footprint": footprint,
                "published_footprint": theirs.footprint,
                "footprint_off": theirs.footprint / footprint - 1,
                "implied_batch_ms": 1e3 * batch_s,
                "rate": rate,
                "published_rate": theirs.predicted,
                "rate_off": theirs.predicted / rate - 1,
                "published_measured": theirs.measured,
                "published_gap": theirs.measured / theirs.predicted - 1,
            }
        )
    return rows
