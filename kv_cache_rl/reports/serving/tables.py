"""Agents x tasks: means with intervals, paired differences, the bound, as tables and as a figure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kv_cache_rl.intervals import Interval, mean_interval, paired_difference
from kv_cache_rl.reports.tables import markdown_table, plain_table

BOUND, REFERENCE = "fluid bound", "oracle"
"""The lines that are no agent's; the second looks ahead."""

MEASURES: dict[str, Callable[[dict], float | None]] = {
    "score": lambda row: row["report"]["score"],
    "of_bound": lambda row: row["report"]["throughput"],
    "of_work": lambda row: row["report"]["work_completed"] / max(row["work_arrived"], 1),
    "latency": lambda row: row["report"]["latency_efficiency"],
    "cache": lambda row: row["report"]["cache_residency"],
    "chatter": lambda row: row["report"]["completed_by_class"]["chatter"],
    "power": lambda row: row["report"]["completed_by_class"]["power"],
    "sla_free": lambda row: row["report"]["sla_attainment"]["free"],
    "sla_vip": lambda row: row["report"]["sla_attainment"]["vip"],
    "wait_p95": lambda row: row["report"]["wait"]["p95"],
    "forced": lambda row: row["report"]["forced_preemptions"],
}
"""Name → value of a row: score · completed work over the fluid bound's · over all that arrived · latency
efficiency · history found in a cache · share of chatters' and power users' requests completed · share
completed within the SLA by user class · wait in nominal ticks · forced preemptions. None where there was
none, which is left out of the mean."""
HEADINGS: dict[str, tuple[str, ...]] = {
    "bound": ("of_bound",),
    "work": ("of_work",),
    "latency": ("latency",),
    "cache": ("cache",),
    "done": ("chatter", "power"),
    "in SLA": ("sla_free", "sla_vip"),
    "p95 wait": ("wait_p95",),
    "forced": ("forced",),
}
"""Of the columns behind score and difference, and what stands in them."""
TOO_SHORT = (
    "no share: the episode is too short for any request, the bound is 0, and the score counts as if all was "
    "done; give a longer one (--ticks)"
)
"""What is said where the fluid bound completes nothing."""
CAPTION = (
    "In %: completed work over the fluid bound's and over what arrived, latency efficiency, history "
    "found, requests of chatters/power users done, Free/VIP done within the SLA. Waits in nominal ticks, "
    "the time of an iteration of the busy engine. "
    "± is the 95 % t interval over seeds."
)


@dataclass(frozen=True, slots=True)
class Result:
    """One agent on one task. Failed episodes are counted, never averaged in."""

    task: str
    agent: str
    episodes: int
    failed: int
    crashed: int
    means: dict[str, Interval | None]
    against: Interval | None
    """Score minus the base agent's on the same seeds; None for the base itself."""

    def to_json(self) -> dict:
        means = {name: mean.to_json() if mean else None for name, mean in self.means.items()}
        head = {
            "task": self.task,
            "agent": self.agent,
            "episodes": self.episodes,
            "failed": self.failed,
            "crashed": self.crashed,
        }
        return head | means | {"score_minus_base": self.against.to_json() if self.against else None}


def results(rows: Sequence[dict], base: str) -> list[Result]:
    """A result for each task and agent in order of appearance, and one for the bound on top of each task."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        here = [row for row in rows if row["task"] == task]
        played = {row["seed"]: row for row in here if row["error"] is None}
        if played:
            found.append(bound(task, list(played.values())))
        theirs = scores(row for row in here if row["agent"] == base)
        for agent in dict.fromkeys(row["agent"] for row in here):
            mine = [row for row in here if row["agent"] == agent]
            good = [row for row in mine if row["error"] is None]
            means = {name: mean_of([value(row) for row in good]) for name, value in MEASURES.items()}
            against = paired_difference(scores(good), theirs) if agent != base else None
            crashed = sum(bool(row["report"]["crashed"]) for row in good)
            found.append(Result(task, agent, len(mine), len(mine) - len(good), crashed, means, against))
    return found


def scores(rows: Iterable[dict]) -> dict[str, float]:
    """Seed → score."""
    return {str(row["seed"]): row["report"]["score"] for row in rows if row["error"] is None}


def mean_of(values: Iterable[float | None]) -> Interval | None:
    """Interval of what is known."""
    return mean_interval([value for value in values if value is not None and math.isfinite(value)])


def bound(task: str, rows: Sequence[dict]) -> Result:
    """What no agent can surpass: all work of the clairvoyant fluid bound, no request waiting, all history
    found.
    """
    work = mean_of([min(row["report"]["work_bound"] / max(row["work_arrived"], 1), 1.0) for row in rows])
    some = sum(row["report"]["work_bound"] > 0 for row in rows)
    ones = {"score": Interval(len(rows), 1.0, None, None)}
    ones |= {"of_bound": Interval(some, 1.0, None, None)} if some else {}
    return Result(task, BOUND, len(rows), 0, 0, dict.fromkeys(MEASURES) | ones | {"of_work": work}, None)


def score_text(mean: Interval | None) -> str:
    """``0.812 ± 0.010``, a dash where there is none."""
    if mean is None:
        return "-"
    return f"{mean.mean:.3f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.3f}")


def text(name: str, mean: Interval | None) -> str:
    """A mean as text without its interval, shares in per cent."""
    if mean is None:
        return "-"
    if name in ("wait_p95", "forced"):
        return f"{mean.mean:,.0f}"
    return f"{100 * mean.mean:.1f}"


def difference(result: Result) -> str:
    """``+0.123 ± 0.045``, a dash for the base and the bound."""
    mean = result.against
    if mean is None:
        return "-"
    return f"{mean.mean:+.3f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.3f}")


def rich_table(found: Sequence[Result], base: str, title: str):
    """The results as a rich table, a rule between tasks."""
    troubles = [trouble for trouble in ("crashed", "failed") if any(getattr(one, trouble) for one in found)]
    numbers = ("score", f"minus {base}", *HEADINGS, *troubles)
    labels = labels_of([one.agent for one in found])
    table = plain_table(title, {"task": "left", "agent": "left"} | dict.fromkeys(numbers, "right"), CAPTION)
    for index, one in enumerate(found):
        last = index + 1 == len(found) or found[index + 1].task != one.task
        style = "dim" if one.agent == BOUND else "red" if one.failed else None
        cells = [one.task, labels[one.agent], score_text(one.means["score"]), difference(one)]
        cells += [joined(one, names) for names in HEADINGS.values()]
        table.add_row(
            *cells,
            *(str(getattr(one, trouble) or "-") for trouble in troubles),
            end_section=last,
            style=style,
        )
    return table


def labels_of(agents: Iterable[str]) -> dict[str, str]:
    """What agents are called in a table: those of a file without its folder, unless two would be alike.

    >>> labels_of(["lru", "lru", "a/mine.py:Patient"])
    {'lru': 'lru', 'a/mine.py:Patient': 'mine.py:Patient'}
    """
    names = list(dict.fromkeys(agents))
    short = [name.rpartition("/")[2] for name in names]
    return dict(zip(names, short if len(set(short)) == len(names) else names, strict=True))


def joined(one: Result, names: tuple[str, ...]) -> str:
    """Values that share a column, ``97/89``; one dash where there are none."""
    if all(one.means[name] is None for name in names):
        return "-"
    if len(names) == 1:
        return text(names[0], one.means[names[0]])
    return "/".join("-" if (mean := one.means[name]) is None else f"{100 * mean.mean:.0f}" for name in names)


def markdown(found: Sequence[Result], base: str) -> str:
    """Agents x tasks as a Markdown table: score · difference · completed work over the bound's."""
    tasks = list(dict.fromkeys(one.task for one in found))
    by_cell = {(one.task, one.agent): one for one in found}
    headings = ["agent", *(f"{task}: score · minus {base} · of the bound" for task in tasks)]
    agents = dict.fromkeys(one.agent for one in found)
    rows = [[agent, *(_cell(by_cell.get((task, agent))) for task in tasks)] for agent in agents]
    return markdown_table(dict.fromkeys(headings, "left"), rows)


def _cell(one: Result | None) -> str:
    if one is None or one.means["score"] is None:
        return "-"
    if one.agent == BOUND:
        share = "-" if one.means["of_bound"] is None else "100 %"
        return f"1 · · {share} ({text('of_work', one.means['of_work'])} % of what arrives)"
    share = "-" if one.means["of_bound"] is None else f"{text('of_bound', one.means['of_bound'])} %"
    return " · ".join((score_text(one.means["score"]), difference(one), share))
