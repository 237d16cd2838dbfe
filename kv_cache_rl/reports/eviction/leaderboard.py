"""The leaderboard: every submission played again, ranked by its mean normalised score, as table and page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from itertools import combinations
from math import comb, fsum
from pathlib import Path

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.amounts import counted
from kv_cache_rl.intervals import T_INTERVAL, Interval, mean_interval, paired_difference
from kv_cache_rl.reports.eviction.submission import COSTS, Submission, SubmissionError, verify
from kv_cache_rl.reports.eviction.submission_file import ENDINGS, read_submission
from kv_cache_rl.reports.eviction.usage import cost
from kv_cache_rl.reports.stylesheet import STYLE
from kv_cache_rl.reports.svg import scrolling
from kv_cache_rl.reports.tables import markdown_table
from kv_cache_rl.sim.eviction import DIFFICULTIES, Report, Scenario, replay

SOLVED = (0.5, 0.8)
"""Normalised scores from which on an episode counts as solved."""
LIKE_STORED = 0.1
"""Beyond this share it is said; deciders that have not seen the stored logs stay far below it."""
MADE = "<!-- made by kv-cache-rl leaderboard build -->"
"""Begins both files, so that no other file is replaced."""
HEADINGS = {"": "right", "decider": "left"}
HEADINGS |= dict.fromkeys(
    (
        *("normalised", "behind the first", *(f"pass^k ≥ {level}" for level in SOLVED), "failures"),
        *(*DIFFICULTIES, "refused calls"),
    ),
    "right",
)
HEADINGS |= {"asked": "left"} | dict.fromkeys(("calls", "tokens read", "written", "money"), "right")
HEADINGS |= {"by": "left"}
"""Heading → where its column stands; from "asked" on it is as the submission tells."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified submission in numbers; means are over scenarios, of which each is the mean of its runs."""

    made: Submission
    normalized: Mapping[str, Interval]
    """Of each tier, and of ``all``."""
    scores: Mapping[str, float]
    """Scenario id -> mean normalised score of its runs."""
    passed: Mapping[str, Sequence[float]]
    """Level -> pass^k for k from 1 to the number of runs."""
    failures: float
    refused: float
    """Calls of an episode that were refused."""
    stored: float
    """The share of windows with calls in which the same took effect as in the best known log."""
    same_runs: bool
    """Whether two of its runs are the same to the last call."""
    usage: Mapping[str, float | None]
    """Mean model calls, tokens and money of an episode; None where the submission tells none."""

    def to_json(self) -> dict:
        told = ("name", "by", "model", "link", "view", "history", "sampling", "prices")
        return {
            **{name: getattr(self.made, name) for name in told},
            "runs": len(self.made.runs),
            "normalized": {tier: found.to_json() for tier, found in self.normalized.items()},
            "pass^k": {level: list(found) for level, found in self.passed.items()},
            "failures": self.failures,
            "refused_calls": self.refused,
            "as_stored": self.stored,
            "as_told": dict(self.usage),
        }


def pass_power(solved: int, runs: int, k: int) -> float:
    """The chance that k runs drawn from `runs`, of which so many solved the episode, all solved it.

    Source: Yao et al., "τ-bench", 2024, pass^k.

    >>> pass_power(3, 4, 2)
    0.5
    """
    return comb(solved, k) / comb(runs, k)


def entry(made: Submission, scenarios: Mapping[str, Scenario]) -> Entry:
    """A submission in numbers. Raises SubmissionError where it does not verify."""
    reports = verify(made, scenarios)
    scores = {key: [run[key].normalized for run in reports] for key in scenarios}
    means = {key: fsum(found) / len(found) for key, found in scores.items()}
    normalized = {}
    for tier in (*DIFFICULTIES, "all"):
        found = mean_interval(
            [means[key] for key, one in scenarios.items() if tier in ("all", one.difficulty)]
        )
        if found is not None:
            normalized[tier] = found
    number = len(reports)
    passed = {
        str(level): [
            fsum(pass_power(sum(one >= level for one in found), number, k) for found in scores.values())
            / len(scores)
            for k in range(1, number + 1)
        ]
        for level in SOLVED
    }
    return Entry(
        made,
        normalized,
        means,
        passed,
        _mean(reports, "total_failures_metric"),
        _mean(reports, "invalid_calls"),
        _as_stored(reports, scenarios),
        any(one == other for one, other in combinations(_logs(made), 2)),
        _usage(made),
    )


def _mean(reports: Sequence[Mapping[str, Report]], metric: str) -> float:
    values = [report.metrics[metric] for run in reports for report in run.values()]
    return fsum(values) / len(values)


def _as_stored(reports: Sequence[Mapping[str, Report]], scenarios: Mapping[str, Scenario]) -> float:
    """How often a window has the very calls, by effect, that the scenario's best known log has there."""
    same = windows = 0
    for key, one in scenarios.items():
        best = _best_effects(one)
        for run in reports:
            for ours, theirs in zip(_effects(run[key]), best, strict=True):
                windows += bool(ours or theirs)
                same += bool(ours) and ours == theirs
    return same / windows if windows else 0.0


@lru_cache(maxsize=512)
def _best_effects(scenario: Scenario) -> list[list[tuple[str, str]]]:
    """Those of the best known log, which every entry is compared with."""
    return _effects(replay(scenario, scenario.best_log))


def _effects(report: Report) -> list[list[tuple[str, str]]]:
    """The calls of each window that changed something, in no order."""
    return [
        sorted((one["verb"], one["seq_id"]) for one in window["calls"] if one["ok"] and one["verb"] != "keep")
        for window in report.timeline
    ]


def _logs(made: Submission) -> list[dict]:
    return [{key: one.log for key, one in run.items()} for run in made.runs]


def _usage(made: Submission) -> dict[str, float | None]:
    episodes = [one for run in made.runs for one in run.values()]
    calls, read, cached, written = (sum(getattr(one, name) for one in episodes) for name in COSTS)
    told = {"calls": calls, "read": read, "cached": cached, "written": written}
    means = {name: total / len(episodes) if calls else None for name, total in told.items()}
    priced = bool(made.prices and (read or written))
    money = cost(read, cached, written, made.prices or {}) / len(episodes) if priced else None
    return {**means, "money": money}


def entries_in(folder: Path, scenarios_of: Mapping[str, Mapping[str, Scenario]]) -> list[Entry]:
    """The verified submissions of a folder, the best first.

    Args:
        scenarios_of: the scenarios of each split, by id.

    Raises:
        SubmissionError: one cannot be read, does not verify, or has another's name or split; all of them in
            one text, a line for each.
    """
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(ENDINGS))
    found: dict[str, tuple[Path, Entry]] = {}
    wrong = []
    for path in paths:
        try:
            made = read_submission(path)
            if (called := made.name.casefold()) in found:
                raise SubmissionError(
                    f"{path}: {found[called][0].name} is called {made.name!r} too; give another --name"
                )
            splits = {one.made.split for _, one in found.values()} - {made.split}
            if splits:
                raise SubmissionError(
                    f"{path}: it played the {made.split} set, the others the {splits.pop()} set; a "
                    "leaderboard is of one set"
                )
            found[called] = path, entry(made, scenarios_of[made.split])
        except SubmissionError as error:
            text = str(error)
            wrong.append(text if text.startswith(str(path)) else f"{path}: {text}")
    if wrong:
        raise SubmissionError("\n       ".join(wrong))
    if not found:
        raise SubmissionError(
            f"{folder} holds no submission (NAME.json or NAME.json.gz); make one with kv-cache-rl submit RUN "
            f"--out {folder}/NAME.json.gz"
        )
    ranked = [one for _, one in found.values()]
    return sorted(ranked, key=lambda one: (-one.normalized["all"].mean, one.made.name))


def cells(number: int, one: Entry, first: Entry) -> list[str]:
    """A row as text, in the order of `HEADINGS`."""
    made, usage = one.made, one.usage
    behind = paired_difference(dict(one.scores), dict(first.scores)) if one is not first else None
    tiers = [_interval(one.normalized.get(tier)) for tier in DIFFICULTIES]
    passed = [_powers(found) for found in one.passed.values()]
    asked = f"{made.view}, {made.history}" if usage["calls"] else "-"
    told = [_told(usage[name], form) for name, form in USAGE.items()]
    return [
        str(number),
        made.name,
        _interval(one.normalized["all"]),
        _interval(behind),
        *passed,
        f"{one.failures:.1f}",
        *tiers,
        f"{one.refused:.1f}",
        asked,
        *told,
        made.by,
    ]


USAGE = {"calls": ".1f", "read": ",.0f", "written": ",.0f", "money": ",.4f"}


def _interval(found: Interval | None) -> str:
    if found is None:
        return "-"
    text = f"{found.mean:+.3f}"
    return text if found.half_width is None else f"{text} ± {found.half_width:.3f}"


def _powers(found: Sequence[float]) -> str:
    """pass^1, and pass^k for as many runs as there are."""
    text = f"{found[0]:.2f}"
    return text if len(found) == 1 else f"{text} · {found[-1]:.2f} (k = {len(found)})"


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def table(ranked: Sequence[Entry]) -> list[list[str]]:
    """The rows of the table."""
    return [cells(number, one, ranked[0]) for number, one in enumerate(ranked, 1)]


def said_of(ranked: Sequence[Entry]) -> list[str]:
    """What the columns mean, and what a reader should know of single entries."""
    split = ranked[0].made.split
    said = [
        f"{counted(len(ranked[0].scores), 'scenario')} of the {split} set, environment version "
        f"{ENVIRONMENT_VERSION}. Every log was played again, and every score is what its log earns. ± is the "
        f"{T_INTERVAL} over scenarios; behind the first: paired by scenario.",
        "Normalised: 0 is the best decider that never looks, 1 the best known. pass^k: the share of episodes "
        "that k runs in a row solve. Failures and refused calls are means of an episode.",
        "How the model was asked, its calls, its tokens and its money are as the submission tells.",
    ]
    said += [
        f"{one.made.name}: in {one.stored:.0%} of the windows it does what the best known log does, which "
        "the scenarios store."
        for one in ranked
        if one.stored > LIKE_STORED
    ]
    said += [
        f"{one.made.name}: two of its runs are the same to the last call." for one in ranked if one.same_runs
    ]
    return said


def markdown(ranked: Sequence[Entry]) -> str:
    """The leaderboard as Markdown."""
    said = "\n\n".join(said_of(ranked))
    # In code no character means anything to Markdown, and no address becomes a link.
    rows = [[row[0], f"`{row[1]}`", *row[2:]] for row in table(ranked)]
    return f"{MADE}\n\n{markdown_table(HEADINGS, rows)}\n{said}\n"


def page(ranked: Sequence[Entry]) -> str:
    """The leaderboard as one HTML file that opens offline."""
    head = "".join(f"<th{_text(where)}>{escape(name)}</th>" for name, where in HEADINGS.items())
    lines = []
    for row, one in zip(table(ranked), ranked, strict=True):
        shown = [escape(text) for text in row]
        if one.made.link:
            shown[1] = f'<a href="{escape(one.made.link, quote=True)}" rel="nofollow">{shown[1]}</a>'
        sides = map(_text, HEADINGS.values())
        body = "".join(f"<td{side}>{text}</td>" for side, text in zip(sides, shown, strict=True))
        lines.append(f"<tr>{body}</tr>")
    results = scrolling(
        f'<table class="results"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    )
    said = "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in said_of(ranked))
    return (
        f'<!doctype html>{MADE}<html lang="en"><head><meta charset="utf-8"><title>KV cache eviction: '
        'leaderboard</title><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>KV cache eviction: leaderboard</h1>"
        '<p class="lead">A KV cache under pressure, 15 windows an episode: what decides best?</p>'
        f'<div class="card">{results}</div>{said}</main></body></html>\n'
    )


def _text(where: str) -> str:
    return ' class="text"' if where == "left" else ""
