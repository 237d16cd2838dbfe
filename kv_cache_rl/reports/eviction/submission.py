"""A submission to the leaderboard: what decided, the log of every episode, and what these logs earned.

The scores in it can be checked offline by every reader: `verified` plays every log again.
Beside the scores stands a `trail`, a digest of each window, so that a call that was altered is found where it
stands even if it changes no score. Tokens and money cannot be checked, and are marked as told."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.reports.eviction.outcome import Outcome, unread_of
from kv_cache_rl.sim.eviction import ActionLog, Report, Scenario, counting, replay

FORMAT = 1
"""The form of the file."""
NAME = re.compile(r"[A-Za-z0-9](?:[\w .,+:@/()-]{0,78}[\w)+])?", re.ASCII)
"""What may stand in the name of a decider and a model: nothing that looks like another letter."""
PERSON = re.compile(r"\w(?:[\w .,()-]{0,78}[\w.)])?")
LINK = re.compile(r"https://[\w.-]+(?::\d+)?(?:/[\w./~%+#@-]*)?", re.ASCII)


class SubmissionError(Refused):
    """A submission that cannot be made or taken; the text names the file, the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Played:
    """One episode of a submission: its log and what the log earned; what it cost is as told."""

    log: ActionLog
    reward: float
    normalized: float
    trail: str
    model_calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    calls_not_read: int = 0
    """Calls past the most that are read of a message: refused, and in no log."""


COSTS = ("model_calls", "prompt_tokens", "cached_tokens", "completion_tokens")
"""What an episode cost, as told."""
TOLD = (*COSTS, "calls_not_read")
"""What no log shows."""
Run = Mapping[str, Played]
"""Scenario id -> episode."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What decided, how it was asked, and one or more runs over all scenarios of a split."""

    name: str
    by: str
    model: str
    split: str
    view: str
    history: str
    runs: tuple[Run, ...]
    link: str = ""
    prices: Mapping[str, float] | None = None
    """Money for a million tokens read (`in`), written (`out`) and cached."""
    sampling: Mapping[str, float] = field(default_factory=dict)
    environment_version: str = ENVIRONMENT_VERSION

    def to_json(self) -> dict:
        runs = [{key: asdict(run[key]) for key in sorted(run)} for run in self.runs]
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "runs"}
        return {"submission": FORMAT, **own, "runs": runs}


def trail_of(log: ActionLog, report: Report) -> str:
    """Eight hexadecimal digits for each window: of its calls, what came of them, and what happened in it.

    Args:
        log: as it was played; windows that are not in it count as empty.
        report: of this log.
    """
    digests = []
    for number, window in enumerate(report.timeline):
        results = [[call["ok"], call["text"]] for call in window["calls"]]
        events = [window["arrivals"], window["completions"], window["failures"], window["queue"]]
        seen = json.dumps([log[number] if number < len(log) else None, results, events], sort_keys=True)
        digests.append(hashlib.sha256(seen.encode()).hexdigest()[:8])
    return "".join(digests)


def submission(
    runs: Sequence[Sequence[Outcome]],
    scenarios: Mapping[str, Scenario],
    *,
    name: str,
    by: str,
    target: Mapping[str, Any],
    split: str,
    **more: Any,
) -> Submission:
    """A submission of finished runs of one model.

    Args:
        runs: one list of rollouts, one a scenario, for each time that the split was played.
        scenarios: those of the split, by id.
        target: what the config of the runs says of the model.

    Raises:
        SubmissionError: a rollout failed or is missing, or a name holds what no name may.
    """
    made = Submission(
        name=name,
        by=by,
        model=target["model"],
        split=split,
        view=target.get("view", "full"),
        history=target.get("history", "full"),
        runs=tuple({one.scenario_id: played(one, scenarios) for one in run} for run in runs),
        **more,
    )
    check_words(made)
    check_scenarios(made, scenarios)
    return made


def played(outcome: Outcome, scenarios: Mapping[str, Scenario]) -> Played:
    """The episode of a rollout. Raises SubmissionError for one that failed."""
    if outcome.error is not None or outcome.reward is None or outcome.normalized is None:
        raise SubmissionError(
            f"the rollout of {outcome.scenario_id} by {outcome.model} failed ({outcome.error}); "
            "a submission has every episode, so play it again: kv-cache-rl eval --resume RUN"
        )
    report = replay(scenarios[outcome.scenario_id], outcome.log, cut_short=True)
    told = {name: getattr(outcome, name) for name in COSTS} | {"calls_not_read": unread_of(outcome, report)}
    return Played(outcome.log, outcome.reward, outcome.normalized, trail_of(outcome.log, report), **told)


def check_words(made: Submission) -> None:
    """Raises SubmissionError for a name or a link that is not plain."""
    for name, fits, marks in (
        ("name", NAME, ".,+:@/()-_"),
        ("model", NAME, ".,+:@/()-_"),
        ("by", PERSON, ".,()-_"),
    ):
        value = getattr(made, name)
        if not fits.fullmatch(value):
            letters = "letters" if fits is PERSON else "letters from a to z"
            raise SubmissionError(
                f"the field {name!r} is {value[:60]!r}; give 1 to 80 {letters}, digits, blanks and {marks}, "
                "with a letter or a digit at either end"
            )
    if made.link and not LINK.fullmatch(made.link):
        raise SubmissionError(f"the field 'link' is {made.link[:80]!r}; give an address such as https://…")


def check_scenarios(made: Submission, scenarios: Mapping[str, Scenario]) -> None:
    """Raises SubmissionError where a run does not have every scenario of the split, and no other."""
    for number, run in enumerate(made.runs, 1):
        for key in run:
            if key not in scenarios:
                raise SubmissionError(
                    f"run {number} has {key[:80]!r}, which is no scenario of the {made.split} set; play that "
                    f"set: --split {made.split} --num-examples -1"
                )
        missing = [key for key in scenarios if key not in run]
        if missing:
            raise SubmissionError(
                f"run {number} lacks {len(missing)} of {len(scenarios)} scenarios of the {made.split} set, "
                f"such as {missing[0]}; play all of them: --split {made.split} --num-examples -1"
            )


def verify(made: Submission, scenarios: Mapping[str, Scenario]) -> list[dict[str, Report]]:
    """The reports of every run of a submission, its logs played again.

    Raises:
        SubmissionError: the wrong scenarios, or a score or a window that is not what its log gives.
    """
    check_scenarios(made, scenarios)
    return [
        {key: verified(f"run {number}, {key}", run[key], scenario) for key, scenario in scenarios.items()}
        for number, run in enumerate(made.runs, 1)
    ]


def verified(where: str, one: Played, scenario: Scenario) -> Report:
    """The report of one episode. Raises SubmissionError naming the window or the score that differs."""
    try:
        report = replay(scenario, one.log, cut_short=True)
    except Refused as error:
        raise SubmissionError(f"{where}: {error}") from None
    trail = trail_of(one.log, report)
    for number in range(scenario.steps):
        part = slice(8 * number, 8 * number + 8)
        if one.trail[part] != trail[part]:
            raise SubmissionError(
                f"{where}, window {number + 1}: the calls there, or what came of them, are not those that "
                f"were played (digest {one.trail[part]!r:.12}, the log gives {trail[part]!r}); submit the "
                "run folder anew, a log is not edited"
            )
    if len(one.trail) != 8 * scenario.steps:
        raise SubmissionError(f"{where}: the trail has {len(one.trail)} digits, not {8 * scenario.steps}")
    for name, earned in (("reward", report.total), ("normalized", report.normalized)):
        told = getattr(one, name)
        if abs(told - earned) > 1e-9:
            raise SubmissionError(
                f"{where}: {name} is {told}, but its log gives {earned}; submit the run anew"
            )
    return counting(report, scenario, one.calls_not_read)
