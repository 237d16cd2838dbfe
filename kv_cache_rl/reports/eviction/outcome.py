"""One finished rollout as it is stored: what decided, on which scenario, what it scored, and every action it
took.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import Report, Scenario


class ResultsError(Refused):
    """A results file that cannot be read; the text names the line and what to do."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A rollout.

    `error` is None for a good one; a failed one has no reward, so that it is never scored as good.
    """

    scenario_id: str
    difficulty: str
    split: str
    model: str
    error: str | None
    reward: float | None
    normalized: float | None
    rewards: dict[str, float] | None
    metrics: dict[str, float] | None
    log: list
    model_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """What limits this score: an episode or replies that were cut short."""
    first_reply: str = ""
    """How the first reply begins where it held no tool call."""

    def to_json(self) -> dict:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> "Outcome":
        """The outcome of a row. Raises ResultsError where a field is missing or unknown."""
        if not isinstance(row, dict):
            raise ResultsError(f"expected an object, found {type(row).__name__}")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names[:10] if name not in row]
        if missing:
            raise ResultsError(f"the field {missing[0]!r} is missing")
        return cls(**{name: row[name] for name in names if name in row})


def from_report(scenario: Scenario, model: str, report: Report, log: list, seconds: float) -> Outcome:
    """The outcome of an episode played straight on the simulator, without a chat model in between."""
    return Outcome(
        scenario_id=scenario.id,
        difficulty=scenario.difficulty,
        split=scenario.split,
        model=model,
        error=None,
        reward=report.total,
        normalized=report.normalized,
        rewards=dict(report.rewards),
        metrics=dict(report.metrics),
        log=log,
        seconds=seconds,
    )


def write_results(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes one JSON object per line."""
    path.write_text("".join(json.dumps(outcome.to_json()) + "\n" for outcome in outcomes))


def read_results(path: Path) -> list[Outcome]:
    """The outcomes of a results file. Raises ResultsError naming the line that cannot be read."""
    outcomes = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.strip():
            try:
                outcomes.append(Outcome.from_json(json.loads(line)))
            except ValueError as error:
                raise ResultsError(
                    f"{path}, line {number}: {error}; delete the line, then --resume the run"
                ) from None
    return outcomes
