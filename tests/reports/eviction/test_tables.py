"""The table averages good rollouts only and sets them between the floor and the best known."""

import dataclasses
import io
import statistics

import pytest
from rich.console import Console

from kv_cache_rl.reports.eviction.tables import (
    FLOOR_ROW,
    HEADINGS,
    ORACLE_ROW,
    cells,
    difference_sentences,
    differences,
    markdown,
    results_row,
    results_rows,
    rich_table,
)


def failed(outcome):
    nothing = {"reward": None, "normalized": None, "rewards": None, "metrics": None}
    return dataclasses.replace(outcome, error="timeout: no reply in 60 s; try again", **nothing)


def test_every_tier_stands_between_its_floor_and_its_best_known_and_all_comes_last(outcomes, scenarios):
    rows = results_rows(outcomes, scenarios)
    policies = [FLOOR_ROW, "weigh_value", "lru", ORACLE_ROW]
    assert [(row.tier, row.policy) for row in rows] == [
        (tier, policy) for tier in ("easy", "medium", "hard", "all") for policy in policies
    ]


def test_means_are_those_of_the_rollouts(outcomes, scenarios):
    rows = {(row.tier, row.policy): row for row in results_rows(outcomes, scenarios)}
    hard = [outcome for outcome in outcomes if outcome.difficulty == "hard" and outcome.model == "lru"]
    row = rows["hard", "lru"]
    assert row.reward.mean == pytest.approx(statistics.fmean(outcome.reward for outcome in hard))
    assert row.failures.mean == statistics.fmean(outcome.metrics["total_failures_metric"] for outcome in hard)
    assert rows["all", FLOOR_ROW].reward.mean == pytest.approx(
        statistics.fmean(s.floor for s in scenarios.values())
    )
    assert rows["all", ORACLE_ROW].reward.mean == pytest.approx(
        statistics.fmean(s.best for s in scenarios.values())
    )


def test_failed_rollouts_are_counted_and_change_no_mean(outcomes, scenarios):
    lru = [outcome for outcome in outcomes if outcome.model == "lru"]
    with_failures = results_row("all", "lru", [failed(lru[0]), *lru[1:]])
    assert (with_failures.scenarios, with_failures.failed_rollouts) == (6, 1)
    without = results_row("all", "lru", lru[1:])
    assert with_failures.means() == without.means()
    nothing = results_row("all", "lru", [failed(outcome) for outcome in lru])
    assert set(nothing.means().values()) == {None}
    assert cells(nothing)[-1] == "-"


def test_differences_are_paired_by_scenario(outcomes):
    found = {entry["tier"]: entry for entry in differences(outcomes)}
    assert set(found) == {"easy", "medium", "hard", "all"}
    ours, theirs = ([o.reward for o in outcomes if o.model == name] for name in ("weigh_value", "lru"))
    expected = statistics.fmean(a - b for a, b in zip(ours, theirs, strict=True))
    assert found["all"]["reward"]["mean"] == pytest.approx(expected)
    assert (found["all"]["policy"], found["all"]["against"], found["all"]["reward"]["n"]) == (
        "weigh_value",
        "lru",
        6,
    )


def test_of_many_deciders_the_best_is_compared_with_the_two_behind_it(outcomes):
    better = [
        dataclasses.replace(o, model=f"p{k}", reward=o.reward + k) for k in range(6) for o in outcomes[:6]
    ]
    sentences = difference_sentences(better)
    assert [sentence.split(" on the same 6 ")[0] for sentence in sentences] == ["p5 minus p4", "p5 minus p3"]
    assert "+2.000 reward" in sentences[1]


def test_terminal_and_markdown_show_the_same_cells(outcomes, scenarios):
    rows = results_rows(outcomes, scenarios)
    drawn = io.StringIO()
    Console(file=drawn, width=200).print(rich_table(rows, "results"))
    lines = markdown(rows).splitlines()
    assert lines[0] == "| " + " | ".join(HEADINGS) + " |"
    assert len(lines) == len(rows) + 2
    for row, line in zip(rows, lines[2:], strict=True):
        assert [part.strip() for part in line.strip("|").split("|")] == cells(row)
        assert all(text in drawn.getvalue() for text in cells(row))
