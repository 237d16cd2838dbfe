"""Whether looking pays, measured on thirty unselected scenarios per tier with the same claims as the
committed page.
"""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from kv_cache_rl.experiments.eviction.landscape import read_retuned, run
from kv_cache_rl.reports.eviction.landscape import OPEN, OPEN_ON_TRACES, broken, claims, markdown
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import DIFFICULTIES, Call, load_scenarios, rollout

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "scenarios" / "LANDSCAPE.md"
RAW = ROOT / "results" / "eviction" / "landscape.json"


@pytest.fixture(scope="module")
def raw():
    return run(30, small=2, weights=read_retuned(RAW))


def test_every_claim_about_the_landscape_holds_on_thirty_scenarios_per_tier(raw):
    assert [f"{c['claim']}: {c['numbers']}" for c in broken(claims(raw))] == []


def test_the_committed_page_states_the_same_claims_and_why_one_is_not_met(raw):
    page = PAGE.read_text(encoding="utf-8")
    for c in claims(raw):
        assert c["claim"].split(":")[0] in page
    assert "200 unselected scenarios per tier" in page
    unmet = re.findall(r"^\| (.+?) \| \*\*no\*\* \|", page, re.M)
    reasons = {**OPEN, **OPEN_ON_TRACES}
    assert set(unmet) == set(reasons), "a reason for what holds is an excuse"
    assert all(f"* {claim}. " in page for claim in unmet)
    for file in (RAW, RAW.with_stem("landscape_claude_code")):
        assert f"-->\n{markdown(json.loads(file.read_text()))}\n<!-- end of measured -->" in page, file


def test_a_claim_that_fails_is_broken_unless_its_reason_is_on_record():
    known, new = next(iter(OPEN)), "pigs fly"
    found = [{"claim": one, "holds": False, "why_not": OPEN.get(one)} for one in (known, new)]
    assert [one["claim"] for one in broken([*found, {**found[1], "holds": True}])] == [new]


def test_the_oracle_is_at_least_as_good_as_every_decider_on_every_scenario(raw):
    for tier, columns in raw["tiers"].items():
        for name, returns in columns["return"].items():
            for k, (theirs, best) in enumerate(zip(returns, columns["return"]["oracle"], strict=True)):
                assert best >= theirs - 1e-6, (tier, k, name)


def clock(last: int):
    """8 bits for everything, 4 bits in the `last` windows: a rule that needs nothing but the time and the
    ids.
    """

    def decide(seen: dict) -> list[Call]:
        lowest = 4 if seen["episode_remaining"] <= last else 8
        rows = [dict(zip(seen["columns"], row, strict=True)) for row in seen["rows"]]
        own = [row for row in rows if row["place"] == "gpu" and row["type"] != "system"]
        return [Call("compress", row["id"]) for row in own if row["bits"] > lowest][:16]

    return decide


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_a_rule_that_reads_only_the_clock_is_no_better_than_the_floor(difficulty, last):
    scenarios = load_scenarios(difficulty, "eval")
    reports = [rollout(scenario, clock(last)) for scenario in scenarios]
    assert fmean(report.normalized for report in reports) <= 0
    if difficulty != "easy":
        looking = fmean(policy_return(scenario, "weigh_value") for scenario in scenarios)
        assert looking - fmean(report.total for report in reports) >= 0.15
