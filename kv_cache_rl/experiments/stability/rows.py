"""A workload's row: what theory predicts, what the simulator does under each admission rule, and why they
differ.

    simulated / predicted  =  share of memory filled
                              x  footprint by the formula / token-iterations really held
                              x  b / mean b

which is Little's law on memory, and so leaves nothing unexplained but noise.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from kv_cache_rl.experiments.stability.boundary import Boundary, Slope, Trial, bracket, run_of
from kv_cache_rl.experiments.stability.runs import RESERVE
from kv_cache_rl.experiments.stability.workloads import (
    MEMORY_TOKENS,
    Workload,
    fluid_rate,
    predicted_rate,
    prefill_share,
    server,
)
from kv_cache_rl.theory.condition import representative_batch_s


@dataclass(frozen=True, slots=True)
class Saturated:
    """A server with a backlog: what its iterations are like, and what memory it uses."""

    mean_s: float
    median_s: float
    paper_s: float
    """By the paper's rule: the median, or the trimmed mean of a heavy tail."""
    rate: float
    """Requests per second admitted for the first time."""
    fill: float
    """Mean share of the memory held."""
    held: float
    """Token-iterations per request, in whole blocks and with what was lost to preemption."""
    preempted: float
    """Forced preemptions per request."""


def saturated(trial: Trial) -> Saturated:
    """What a trial shows; its rate is to be above what can be served."""
    run = run_of(trial, keep_durations=True)
    ticks, admitted = run.gained("ticks"), max(run.gained("admitted"), 1)
    tokens = run.gained("block_ticks") * server(trial.workload.budget, trial.admission).block_tokens
    return Saturated(
        mean_s=run.gained("busy_us") / ticks / 1e6,
        median_s=float(np.median(run.durations_us)) / 1e6,
        paper_s=representative_batch_s(run.durations_us / 1e6),
        rate=admitted / run.seconds,
        fill=tokens / ticks / MEMORY_TOKENS,
        held=tokens / admitted,
        preempted=run.gained("preempted") / admitted,
    )


def mean_of(found: Sequence[Saturated]) -> Saturated:
    """Field by field."""
    return Saturated(*np.mean([list(asdict(one).values()) for one in found], axis=0).tolist())


@dataclass(frozen=True, slots=True)
class Column:
    """One admission rule on one workload."""

    saturated: Saturated
    boundary: Boundary
    sweep: tuple[Slope, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """A workload: what theory says of it, and what the simulator does."""

    workload: Workload
    columns: dict[str, Column]
    """By admission rule."""

    @property
    def batch_s(self) -> float:
        """b: the mean iteration at saturation, which makes mu an identity: memory is held for the sum of
        iterations.

        The paper takes the median. Here iterations are of two kinds, with a chunk of prefill and without, and
        their median is one or the other. The b that its published rates imply (37.3, 43.0, 33.7 ms) follows
        our means (27.6, 33.4, 24.4 ms) at a constant distance, over workloads whose medians hardly differ.
        """
        return self.columns[RESERVE].saturated.mean_s

    @property
    def predicted(self) -> float:
        return predicted_rate(self.workload, self.batch_s)

    @property
    def predicted_by_median(self) -> float:
        return predicted_rate(self.workload, self.columns[RESERVE].saturated.paper_s)

    def gap(self, admission: str = RESERVE) -> float:
        """(simulated - predicted) / predicted."""
        return self.columns[admission].boundary.rate / self.predicted - 1

    def factors(self, admission: str = RESERVE) -> dict[str, float]:
        """What simulated / predicted is the product of."""
        found = self.columns[admission].saturated
        return {
            "memory_filled": found.fill,
            "formula_over_held": self.workload.lengths.footprint / found.held,
            "batch_over_mean": self.batch_s / found.mean_s,
        }

    def to_json(self) -> dict:
        lengths, found = self.workload.lengths, self.columns[RESERVE]
        mine = {
            "workload": self.workload.name,
            "source": self.workload.source,
            "transformation": list(self.workload.notes),
            "mean_prompt": lengths.prompt,
            "mean_output": lengths.output,
            "mean_footprint": lengths.footprint,
            "delta": lengths.longest / MEMORY_TOKENS,
            "prefill_share": prefill_share(lengths, self.workload.budget),
            "token_budget": self.workload.budget,
            "batch_ms": 1e3 * self.batch_s,
            "median_batch_ms": 1e3 * found.saturated.median_s,
            "predicted": self.predicted,
            "predicted_stable_below": self.predicted * (1 - lengths.longest / MEMORY_TOKENS),
            "predicted_by_median_batch": self.predicted_by_median,
            "predicted_from_profile": fluid_rate(self.workload),
            "simulated": found.boundary.rate,
            "gap": self.gap(),
            "gap_by_median_batch": found.boundary.rate / self.predicted_by_median - 1,
        }
        return mine | {name: self._column(name) for name in self.columns}

    def _column(self, admission: str) -> dict:
        column = self.columns[admission]
        return {
            "simulated": column.boundary.rate,
            "interval": [column.boundary.low, column.boundary.high],
            "gap": self.gap(admission),
            "swept_bracket": [_finite(rate) for rate in bracket(column.sweep)] if column.sweep else None,
            "preemptions_per_request": column.saturated.preempted,
            "factors": self.factors(admission),
            "slopes": [_slope(slope, "backlog") for slope in column.boundary.slopes]
            + [_slope(slope, "empty") for slope in column.sweep],
        }


def _finite(rate: float) -> float | None:
    """A rate, or None for one beyond those that were tried."""
    return rate if 0 < rate < math.inf else None


def _slope(slope: Slope, start: str) -> dict:
    low, high = slope.interval
    return {
        "start": start,
        "rate": slope.rate,
        "slope": slope.median,
        "interval": [low, high],
        "verdict": slope.verdict,
    }
