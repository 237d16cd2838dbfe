"""One finished rollout as it is stored: what decided, on which scenario, what it scored, and every action it
took.
"""

import json
import math
from collections.abc import Callable, Iterable
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
        """The outcome of a row. Raises ResultsError where a field is missing or of another type."""
        if not isinstance(row, dict):
            raise ResultsError(f"expected an object, found {type(row).__name__}")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names[:10] if name not in row]
        if missing:
            raise ResultsError(f"the field {missing[0]!r} is missing")
        found = {name: row[name] for name in names if name in row}
        for name, value in found.items():
            wanted, fits = KINDS[name]
            if not fits(value):
                raise ResultsError(f"the field {name!r} is {json.dumps(value)[:60]}, not {wanted}")
        return cls(**found)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_number, value.values()))


def is_log(value: Any) -> bool:
    """Whether it is a list of windows, each a list of calls, each a list of words."""
    return isinstance(value, list) and all(
        isinstance(window, list)
        and all(isinstance(call, list) and all(map(is_text, call)) for call in window)
        for window in value
    )


def or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


TEXT, COUNT, SCORE = ("a text", is_text), ("a count", is_count), ("a number or null", or_null(is_number))
BY_NAME = ("numbers by name, or null", or_null(is_numbers))
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("scenario_id", "difficulty", "split", "model", "first_reply"), TEXT),
    "error": ("a text or null", or_null(is_text)),
    **dict.fromkeys(("reward", "normalized"), SCORE),
    **dict.fromkeys(("rewards", "metrics"), BY_NAME),
    "log": ("a list of windows of calls", is_log),
    **dict.fromkeys(("model_calls", "prompt_tokens", "completion_tokens"), COUNT),
    "seconds": ("a number", is_number),
    "notes": ("a list of texts", lambda value: isinstance(value, list) and all(map(is_text, value))),
}
"""What each field of a row holds: in words, and the check."""


def from_report(scenario: Scenario, model: str, report: Report, log: list, seconds: float = 0.0) -> Outcome:
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


def once(pairs: list[tuple[str, Any]]) -> dict:
    """An object of JSON. Raises ResultsError where it has a key twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise ResultsError(f"the field {twice!r} stands there twice")
    return found


def read_results(path: Path) -> list[Outcome]:
    """The outcomes of a results file.

    Raises ResultsError naming the line, the field and the remedy where one cannot be used.
    """
    found: dict[tuple[str, str], int] = {}
    outcomes = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            outcome = Outcome.from_json(json.loads(line.decode(), object_pairs_hook=once))
            key = (outcome.model, outcome.scenario_id)
            if key in found:
                raise ResultsError(f"it repeats line {found[key]} ({key[0]} on {key[1]})")
        except (ValueError, RecursionError) as error:
            raise ResultsError(
                f"{path}, line {number}: {error}; delete the line, then --resume the run"
            ) from None
        found[key] = number
        outcomes.append(outcome)
    return outcomes
