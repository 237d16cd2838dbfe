"""The page opens offline, stays under 3 MB whatever the run, and shows the run's numbers."""

import dataclasses
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from kv_cache_rl.reports.eviction import charts
from kv_cache_rl.reports.eviction.page import page, references_for
from kv_cache_rl.reports.eviction.tables import cells, results_rows
from kv_cache_rl.reports.svg import nice_ticks
from kv_cache_rl.sim.eviction import REWARDS, replay

ABOUT = {"environment version": "1", "seed": 42}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(HTMLParser):
    """Checks that every element closes where it should, and collects text, attributes and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def written(outcomes, scenarios):
    return page("lru and weigh_value", "Two policies.", ABOUT, outcomes, scenarios)


def test_the_page_is_well_formed_and_loads_nothing(written):
    reader = read(written)
    assert not {"link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert not [
        pair for pair in reader.attributes if pair[0] in ("src", "href", "xlink:href", "action", "data")
    ]
    assert not re.findall(r"https?://|url\(|@import|fetch\(|XMLHttp", written)
    assert "prefers-color-scheme:dark" in written


def test_the_page_shows_every_number_of_the_table_and_every_episode(written, outcomes, scenarios):
    text = read(written).text
    for row in results_rows(outcomes, scenarios):
        assert all(cell in text for cell in cells(row))
    for outcome in outcomes:
        assert outcome.scenario_id in text
        assert f"{outcome.reward:+.4f}" in text
    assert text.count("Memory against budget") == len(outcomes)


def test_a_wide_table_scrolls_in_a_box_of_its_own_and_the_overview_is_drawn_for_a_phone_too(
    written, outcomes, scenarios
):
    assert written.count("<table") == written.count('<div class="scroll"><div><table') > len(outcomes)
    assert '<meta name="viewport" content="width=device-width' in written
    assert ".on-screen{display:none}" in written and "scroll sideways" in written
    rows = results_rows(outcomes, scenarios)
    for place in (charts.ON_A_SCREEN, charts.ON_A_PHONE):
        drawing = charts._overview(rows, place)
        assert f'viewBox="0 0 {place.width:g} ' in drawing
        assert all(-0.1 <= float(x) <= place.width for x in re.findall(r' (?:x|x1|x2|cx)="([^"]+)"', drawing))
        # The names end where the plot begins; a letter of 12 pixels is 6.2 wide on average.
        names = re.findall(r'text-anchor="end">([a-z][^<]+)<', drawing)
        assert max(map(len, names)) * 6.2 < place.left
    assert charts.ON_A_PHONE.width <= 390


def test_an_episode_shows_rewards_against_floor_and_oracle(outcomes, scenarios):
    outcome = outcomes[2]
    references = references_for(scenarios[outcome.scenario_id])
    report = replay(references.scenario, outcome.log)
    drawing = read(charts.reward_chart(report, references.oracle, references.floor))
    for name, weight in REWARDS.items():
        assert name.replace("_", " ") in drawing.text
        for played in (report, references.oracle, references.floor):
            assert f"{played.rewards[name] * weight:+.3f}" in drawing.text
    assert references.floor.total == references.scenario.floor
    assert references.oracle.total == references.scenario.best


def test_the_memory_chart_marks_every_window_over_budget(outcomes, scenarios):
    for outcome in outcomes:
        report = replay(scenarios[outcome.scenario_id], outcome.log)
        over = sum(window["usage_peak"] > 1 for window in report.timeline)
        drawing = charts.memory_chart(report, report)
        assert drawing.count('class="peak over"') == over
        assert drawing.count('class="peak"') == len(report.timeline) - over


def test_the_time_line_counts_every_call_and_event(outcomes, scenarios):
    for outcome in outcomes:
        report = replay(scenarios[outcome.scenario_id], outcome.log)
        shown = sum(int(n) for n in re.findall(r'class="count"[^>]*>(\d+)<', charts.timeline_chart(report)))
        kept = sum(
            call["ok"] and call["verb"] == "keep" for window in report.timeline for call in window["calls"]
        )
        calls = sum(len(window["calls"]) for window in report.timeline) - kept
        events = sum(
            len(window[key]) for window in report.timeline for key in ("arrivals", "completions", "failures")
        )
        assert shown == calls + events


def test_a_large_run_keeps_the_page_under_three_megabytes_and_says_what_is_left_out(outcomes, scenarios):
    many = [dataclasses.replace(o, model=f"{o.model}-{copy}") for copy in range(6) for o in outcomes]
    written = page("many", "", ABOUT, many, scenarios)
    assert 1_000_000 < len(written.encode()) < 3_000_000
    shown = written.count('<details class="card episode"') + written.count(
        '<details open class="card episode"'
    )
    assert 0 < shown < len(many)
    assert f"{shown} of {len(many)} episodes fit here" in written
    shown_models = set(re.findall(r'data-model="([^"]+)"', written))
    assert shown_models == {outcome.model for outcome in many}


def test_a_hostile_name_or_result_is_shown_and_not_run(outcomes, scenarios):
    evil = '<script>alert("x")</script>'
    log = [[["?", evil]], *outcomes[0].log[1:]]
    report = replay(scenarios[outcomes[0].scenario_id], log)
    bad = dataclasses.replace(outcomes[0], model=evil, log=log, reward=report.total)
    lost = dataclasses.replace(
        outcomes[1], model=evil, error=evil, reward=None, normalized=None, rewards=None, metrics=None
    )
    written = page(evil, evil, {evil: evil}, [bad, lost], scenarios)
    assert read(written).tags.count("script") == 1
    assert "alert(&quot;x&quot;)" in written


def test_failed_rollouts_are_listed_with_their_reason(outcomes, scenarios):
    nothing = {"reward": None, "normalized": None, "rewards": None, "metrics": None, "log": []}
    lost = dataclasses.replace(outcomes[0], error="timeout: no reply in 60 s; raise --timeout", **nothing)
    text = read(page("run", "", ABOUT, [lost, *outcomes[1:]], scenarios)).text
    assert "1 rollouts failed" in text
    assert "timeout: no reply in 60 s; raise --timeout" in text


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 0.05), (-0.4, 0.3), (0, 1234), (-3.2e-4, 1e-5), (5, 5)]
)
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)
    assert 1 <= len(ticks) <= 8
    steps = {round(b - a, 12) for a, b in pairwise(ticks)}
    assert len(steps) <= 1
