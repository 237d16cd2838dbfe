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
from kv_cache_rl.core.numbers import is_count, is_number
from kv_cache_rl.files import json_value, lines_of, regular, write_whole
from kv_cache_rl.sim.eviction import Report, Scenario, counting, replay
from kv_cache_rl.sim.eviction.log import log_fault

MOST = 1e300
SCORES = ("reward", "normalized", "rewards", "metrics")
"""What a rollout that ended well has, and a failed one has not."""


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
    cached_tokens: int = 0
    """Of the prompt tokens, those that the server took from its prefix cache."""
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
        failed = found["error"] is not None
        if wrong := [name for name in SCORES if (found[name] is None) != failed]:
            state = "of a failed rollout is not null" if failed else "of a rollout without an error is null"
            raise ResultsError(f"the field {wrong[0]!r} {state}")
        return cls(**found)


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold; an integer of a thousand digits is none."""
    return is_number(value) and -MOST < value < MOST


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_finite, value.values()))


def is_log(value: Any) -> bool:
    return not log_fault(value)


def or_null(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


TEXT, COUNT, SCORE = ("a text", is_text), ("a count", is_count), ("a number or null", or_null(is_finite))
BY_NAME = ("numbers by name, or null", or_null(is_numbers))
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("scenario_id", "difficulty", "split", "model", "first_reply"), TEXT),
    "error": ("a text or null", or_null(is_text)),
    **dict.fromkeys(("reward", "normalized"), SCORE),
    **dict.fromkeys(("rewards", "metrics"), BY_NAME),
    "log": ("a list of windows of calls", is_log),
    **dict.fromkeys(("model_calls", "prompt_tokens", "completion_tokens", "cached_tokens"), COUNT),
    "seconds": ("a number of 0 or more", lambda value: is_finite(value) and value >= 0),
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


def check_outcome(outcome: Outcome, scenario: Scenario) -> None:
    """Plays the log again. Raises ResultsError for a number that is not what the log earns."""
    for name in ("difficulty", "split"):
        told, true = getattr(outcome, name), getattr(scenario, name)
        if told != true:
            raise ResultsError(f"the field {name!r} is {told!r}, but {scenario.id} is of {true!r}")
    if outcome.error is not None:
        return
    try:
        report = replay(scenario, outcome.log, cut_short=True)
    except Refused as error:
        raise ResultsError(str(error)) from None
    metrics = metrics_of(outcome, scenario, report)
    earned = by_name(report.total, report.normalized, report.rewards, metrics)
    stored = by_name(outcome.reward, outcome.normalized, outcome.rewards or {}, outcome.metrics or {})
    for name in sorted(({*earned} | {*stored}) - NOT_IN_LOG):
        told, true = stored.get(name), earned.get(name)
        if told is None or true is None or not math.isclose(told, true, rel_tol=1e-9, abs_tol=1e-9):
            raise ResultsError(f"{name} is {told}, but the log of this line gives {true}")


def by_name(
    reward: float | None, normalized: float | None, rewards: dict[str, float], metrics: dict[str, float]
) -> dict[str, float | None]:
    """All scores of a rollout in one dictionary."""
    terms = {f"rewards.{name}": value for name, value in rewards.items()}
    counts = {f"metrics.{name}": value for name, value in metrics.items()}
    return {"reward": reward, "normalized": normalized, **terms, **counts}


NOT_IN_LOG = {"metrics.cut_replies"}
"""What only the dialogue shows."""


def metrics_of(outcome: Outcome, scenario: Scenario, report: Report) -> dict[str, float]:
    """The metrics that the outcome should have: those of its log, and what a dialogue adds to them."""
    found = dict(counting(report, scenario, unread_of(outcome, report)).metrics)
    if short := scenario.steps - len(outcome.log):
        found["unplayed_steps"] = float(short)
    return found


def unread_of(outcome: Outcome, report: Report) -> int:
    """Calls past the most that are read: they stand in no log, of which `report` is, but count as refused."""
    more = (outcome.metrics or {}).get("invalid_calls", 0.0) - report.metrics["invalid_calls"]
    return int(more) if more > 0 and more == int(more) else 0


def played_again(outcome: Outcome, scenario: Scenario) -> Report:
    """The report of a rollout's log, with the calls that are not in it."""
    report = replay(scenario, outcome.log, cut_short=True)
    return counting(report, scenario, unread_of(outcome, report))


def write_results(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes one JSON object per line; the file appears whole or not at all."""
    write_whole(path, "".join(json.dumps(outcome.to_json()) + "\n" for outcome in outcomes).encode())


RESUME = "delete the line, then --resume the run"


def numbered_results(path: Path, remedy: str = RESUME) -> list[tuple[int, Outcome]]:
    """The outcomes of a results file, each with the number of its line.

    Raises ResultsError naming the line, the field and the remedy where one cannot be used.
    """
    found: dict[tuple[str, str], int] = {}
    outcomes = []
    number = 0
    with open(regular(path), "rb") as file:
        try:
            for number, line in lines_of(file):
                outcome = Outcome.from_json(json_value(line))
                key = (outcome.model, outcome.scenario_id)
                if key in found:
                    raise ResultsError(f"it repeats line {found[key]} ({key[0]} on {key[1]})")
                found[key] = number
                outcomes.append((number, outcome))
        except Refused as error:
            raise damaged(path, number, error, remedy) from None
    return outcomes


def damaged(path: Path, number: int, error: Refused, remedy: str) -> ResultsError:
    """The error for a line of a results file."""
    return ResultsError(f"{path}, line {number}: {error}; {remedy}")


def read_results(path: Path) -> list[Outcome]:
    """The outcomes of a results file. Raises ResultsError as `numbered_results` does."""
    return [outcome for _, outcome in numbered_results(path)]
