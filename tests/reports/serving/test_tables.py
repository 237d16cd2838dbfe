"""Tables and figures of agents on tasks say what the rows say."""

import math
from statistics import fmean

import pytest

from kv_cache_rl.reports.canvas import save
from kv_cache_rl.reports.serving.scores import score_figure
from kv_cache_rl.reports.serving.tables import (
    BOUND,
    HEADINGS,
    MEASURES,
    markdown,
    results,
    rich_table,
)
from kv_cache_rl.reports.serving.timeline import PANELS, timeline


def row(agent, seed, score, task="medium", error=None, chatter=0.5, crashed=""):
    report = {
        "score": score,
        "throughput": score,
        "work_completed": 600 * score,
        "work_bound": 600,
        "latency_efficiency": 0.5,
        "cache_residency": 0.25,
        "completed_by_class": {"chatter": chatter, "power": math.nan},
        "sla_attainment": {"free": 0.4, "vip": 0.6},
        "wait": {"p50": 1.0, "p95": 20.0, "p99": 30.0},
        "forced_preemptions": 3,
        "crashed": crashed,
    }
    failed = {"agent": agent, "task": task, "seed": seed, "error": error}
    return failed | (
        {"report": None, "work_arrived": None} if error else {"report": report, "work_arrived": 800}
    )


ROWS = [
    row("lru", 1, 0.5),
    row("lru", 2, 0.7),
    row("lru", 3, 0.6),
    row("stability", 1, 0.6),
    row("stability", 2, 0.9, crashed="queues full and no memory"),
    row("stability", 3, 0.0, error="RuntimeError: no idea"),
]


def of(agent, found):
    return next(one for one in found if one.agent == agent)


def test_failed_episodes_are_counted_and_not_averaged_in():
    mine = of("stability", results(ROWS, "lru"))
    assert (mine.episodes, mine.failed, mine.crashed) == (3, 1, 1)
    assert mine.means["score"].mean == pytest.approx(0.75)


def test_differences_are_paired_by_seed():
    against = of("stability", results(ROWS, "lru")).against
    assert against.n == 2
    assert against.mean == pytest.approx(fmean([0.6 - 0.5, 0.9 - 0.7]))
    assert of("lru", results(ROWS, "lru")).against is None


def test_the_bound_says_how_much_of_what_arrives_could_be_served():
    bound = of(BOUND, results(ROWS, "lru"))
    assert bound.means["of_work"].mean == 600 / 800
    assert bound.means["score"].mean == bound.means["of_bound"].mean == 1.0
    assert bound.means["latency"] is None


def test_a_class_without_requests_is_a_dash():
    found = results([row("lru", 1, 0.5, chatter=math.nan), row("fifo", 1, 0.5)], "lru")
    assert of("lru", found).means["chatter"] is None
    assert of("fifo", found).means["chatter"].mean == 0.5


def test_the_markdown_table_has_a_line_per_agent_and_a_column_per_task():
    rows = [*ROWS, row("lru", 1, 0.25, task="hard")]
    lines = markdown(results(rows, "lru"), "lru").splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert (
        lines[0]
        == "| agent | medium: score · minus lru · of the bound | hard: score · minus lru · of the bound |"
    )
    assert lines[3].startswith("| lru | 0.600 ± 0.248 · - · 60.0 % | 0.250 · - · 25.0 % |")
    # Two pairs: 12.7062 times the standard error of 0.1 and 0.2.
    assert lines[4] == "| stability | 0.750 ± 1.906 · +0.150 ± 0.635 · 75.0 % | - |"


def test_the_table_has_a_column_of_crashes_only_where_there_were_any():
    quiet = rich_table(results(ROWS[:3], "lru"), "lru", "")
    loud = rich_table(results(ROWS, "lru"), "lru", "")
    assert [column.header for column in loud.columns][-2:] == ["crashed", "failed"]
    assert [column.header for column in quiet.columns][-1] == list(HEADINGS)[-1]
    assert {name for names in HEADINGS.values() for name in names} == set(MEASURES) - {"score"}


def test_the_score_figure_shows_every_mean_and_is_the_same_to_the_byte(tmp_path):
    rows = [*ROWS, row("lru", 1, 0.25, task="hard")]
    found = results(rows, "lru")
    figure = score_figure(found, "lru")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["medium", "hard"]
    order = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    widths = {order[round(bar.get_y() + 0.31)]: bar.get_width() for bar in figure.axes[0].patches}
    assert widths == pytest.approx({"stability": 0.75, "lru": 0.6})
    first, second = (
        save(score_figure(found, "lru"), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg")
    )
    assert first == second


def test_a_timeline_shows_every_series_to_its_last_tick():
    keys = [key for _, lines in PANELS for key in lines]
    records = [{"clock_s": k / 10, **dict.fromkeys(keys, k / 9_000)} for k in range(9_000)]
    figure = timeline(records, "lru on hard")
    drawn = [line for axes in figure.axes for line in axes.lines]
    assert len(drawn) == len(keys)
    assert all(
        line.get_xdata()[-1] == records[-1]["clock_s"] and len(line.get_xdata()) <= 2_001 for line in drawn
    )


def test_an_episode_that_is_too_short_for_any_request_has_no_share_of_its_bound():
    short = row("lru", 1, 0.65)
    short["report"] |= {"throughput": None, "work_bound": 0.0}
    found = results([short], "lru")
    assert of("lru", found).means["of_bound"] is None is of(BOUND, found).means["of_bound"]
    assert "100 %" not in markdown(found, "lru") and "· - |" in markdown(found, "lru")
