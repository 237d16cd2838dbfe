"""The committed scenario sets: complete, reproducible, worth looking at, and every stored return earned."""

import dataclasses
import re

import pytest

from kv_cache_rl.experiments.eviction import sets
from kv_cache_rl.experiments.eviction.sets import (
    MIN_GAP,
    SEEDS,
    SIZES,
    kept,
    make_set,
    scenarios_from_trace,
    verify,
    with_references,
)
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import (
    DIFFICULTIES,
    FLOOR,
    SPLITS,
    Call,
    decider,
    load_file,
    load_scenarios,
    rollout,
)
from kv_cache_rl.sim.eviction.blind import STATIC
from kv_cache_rl.sim.eviction.cut import windows_of
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.scenarios import set_path
from kv_cache_rl.sim.eviction.spec import ScenarioError, dumps
from kv_cache_rl.sim.eviction.text import CLASSES

SETS = [(split, difficulty) for split in SPLITS for difficulty in DIFFICULTIES]
IDS = ["-".join(pair) for pair in SETS]


@pytest.mark.parametrize(("split", "difficulty"), SETS, ids=IDS)
def test_a_set_has_its_size_and_stable_ids_in_order(split, difficulty):
    scenarios = load_file(set_path(split, difficulty))
    assert len(scenarios) == {"train": 200, "eval": 50, "test": 50}[split] == SIZES[split]
    numbers = [
        re.fullmatch(rf"eviction-{split}-{difficulty}-(\d{{4}})-v2", scenario.id)[1] for scenario in scenarios
    ]
    assert numbers == sorted(set(numbers))
    assert {(x.split, x.difficulty, x.seed, x.source) for x in scenarios} == {
        (split, difficulty, SEEDS[split], "generated")
    }


@pytest.mark.parametrize(("split", "difficulty"), SETS, ids=IDS)
def test_generating_it_again_gives_the_same_bytes(split, difficulty):
    for scenario in load_file(set_path(split, difficulty))[:: 10 if split == "train" else 2]:
        bare = dataclasses.replace(scenario, floor=0.0, floor_by="", best=0.0, best_log=())
        again = generate(difficulty, SEEDS[split], split, int(scenario.id.split("-")[3]))
        assert dumps(again) == dumps(bare)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_searching_it_again_gives_the_same_log_and_floor(difficulty):
    scenario = load_file(set_path("eval", difficulty))[0]
    again = with_references(generate(difficulty, SEEDS["eval"], "eval", int(scenario.id.split("-")[3])))
    assert dumps(again) == dumps(scenario)


@pytest.mark.parametrize(("split", "difficulty"), SETS, ids=IDS)
def test_every_stored_return_comes_out_when_its_log_is_replayed_and_the_floor_is_that_of_the_blind(
    split, difficulty
):
    scenarios = load_file(set_path(split, difficulty))
    assert list(verify(scenarios if split == "eval" else scenarios[::7])) == []


@pytest.mark.parametrize(("split", "difficulty"), SETS, ids=IDS)
def test_looking_pays_in_every_scenario_and_more_on_average(split, difficulty):
    gaps = [scenario.best - scenario.floor for scenario in load_file(set_path(split, difficulty))]
    assert min(gaps) >= MIN_GAP == 0.05 and sum(gaps) / len(gaps) >= 0.10


def static_calls(rungs: dict[str, int], dead: bool):
    """A static rule, written again from its description."""

    def decide(seen: dict) -> list[Call]:
        rows = [dict(zip(seen["columns"], row, strict=True)) for row in seen["rows"]]
        gone = [row for row in rows if dead and row["type"] in ("think", "ephemeral")]
        calls = [Call("evict", row["id"]) for row in gone]
        kept = [row for row in rows if row not in gone and row["place"] == "gpu" and row["type"] != "system"]
        above = [row for row in kept if row["bits"] > rungs[row["class"]]]
        above.sort(key=lambda row: -row["pages"] * row["bits"])
        return (calls + [Call("compress", row["id"]) for row in above])[:16]

    return decide


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_floor_is_the_best_of_the_blind_and_of_every_static_rule(difficulty):
    blind = {"keep", "evict_all", "swap_all", "compress_int8", "compress_int4"}
    assert set(FLOOR) == blind | set(STATIC) and len(STATIC) == 3**4 * 2
    for scenario in load_file(set_path("test", difficulty))[:3]:
        floors = {name: policy_return(scenario, name) for name in FLOOR}
        assert scenario.floor == max(floors.values()) == floors[scenario.floor_by]
    for name in ("static_8_4_4_16", "static_4_4_8_8_dead", "static_16_16_16_16_dead"):
        _, *bits = name.removesuffix("_dead").split("_")
        rungs = dict(zip(CLASSES, map(int, bits), strict=True))
        told = rollout(scenario, static_calls(rungs, name.endswith("_dead"))).total
        assert told == floors[name] == rollout(scenario, decider(name)).total


def test_a_window_of_a_trace_has_the_least_pressure_at_which_looking_pays(monkeypatch):
    asked = []

    def with_gap(scenario, width):
        asked.append(scenario.budget_pages)
        return dataclasses.replace(scenario, floor=0.1, best=0.1 + gaps[len(asked) - 1])

    monkeypatch.setattr(sets, "with_references", with_gap)
    window = tuple(
        dataclasses.replace(generate("easy", 5, "eval", 4), budget_pages=pages) for pages in (900, 700, 500)
    )
    gaps = [0.01, 0.06, 0.3]
    assert sets.pressed(window, 1).budget_pages == 700 and asked == [900, 700]
    gaps, asked = [0.01, 0.04, 0.02], []
    largest = sets.pressed(window, 1)
    assert largest.budget_pages == 700 and not sets.kept(largest), "none suffices: the largest gap is told"


def test_a_trace_whose_windows_cannot_be_pressed_is_refused_with_the_numbers(monkeypatch, tmp_path):
    flat = generate("easy", 5, "eval", 4)
    monkeypatch.setattr(sets, "windows_of", lambda *_: iter([(flat,)] * 99))
    monkeypatch.setattr(
        sets, "with_references", lambda scenario, _: dataclasses.replace(scenario, floor=0.1, best=0.12)
    )
    (tmp_path / "trace.jsonl").touch()
    with pytest.raises(ScenarioError, match=r"none of 60 windows can be pressed: .* at most 0\.020 above"):
        scenarios_from_trace(tmp_path / "trace.jsonl", "easy", 1)


@pytest.mark.parametrize(("prompt", "fits"), [(6_000, False), (30_000, True)])
def test_a_window_of_short_contexts_is_no_scenario(tmp_path, prompt, fits):
    """Its budget would be so small that what a context leaves room for exceeds a sequence's share of it."""
    rows = [f"{at},s{at % 30},m,{prompt + at % 97},40,{prompt + at % 97 + 40},Chat log" for at in range(900)]
    trace = tmp_path / "burst.csv"
    trace.write_text(
        "\n".join(["Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type", *rows])
    )
    found = [one for window in windows_of(trace, "easy", 0) for one in window]
    assert bool(found) == fits and all(one.tokens >= 0 for made in found for one in made.sessions)
    if not fits:
        with pytest.raises(
            ScenarioError, match="no window has four calls, and contexts for a budget of 16,896"
        ):
            scenarios_from_trace(trace, "easy", 1)


def test_a_wrong_floor_and_a_wrong_best_are_found():
    scenario = load_file(set_path("eval", "hard"))[0]
    assert (
        "the stored log returns"
        in next(iter(verify([dataclasses.replace(scenario, best=scenario.best + 0.001)])))[1]
    )
    assert (
        "the stored floor is"
        in next(iter(verify([dataclasses.replace(scenario, floor=scenario.floor - 0.001)])))[1]
    )
    other = (*scenario.best_log[:3], *scenario.best_log[:12])
    for log, fault in (
        (other, "the stored log returns"),
        (scenario.best_log[:3], "the log has 3 windows, eviction-eval-hard-0000-v2 has 15"),
        ((), "the log has 0 windows"),
    ):
        assert fault in next(iter(verify([dataclasses.replace(scenario, best_log=log)])))[1]


def test_splits_and_tiers_never_share_a_scenario():
    assert len(set(SEEDS.values())) == 3
    seen = [scenario.sessions for pair in SETS for scenario in load_file(set_path(*pair))]
    assert len(set(seen)) == len(seen) == 900
    assert generate("easy", 5, "train", 0).sessions != generate("easy", 5, "eval", 0).sessions


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_same_arguments_same_bytes_and_other_arguments_other_demand(difficulty):
    one = generate(difficulty, 8, "train", 3)
    assert dumps(one) == dumps(generate(difficulty, 8, "train", 3))
    others = [
        generate(difficulty, 9, "train", 3),
        generate(difficulty, 8, "eval", 3),
        generate(difficulty, 8, "train", 4),
    ]
    assert len({x.sessions for x in (one, *others)}) == 4


@pytest.mark.parametrize(
    ("difficulty", "share"), [("easy", (0.90, 1.0)), ("medium", (0.75, 0.90)), ("hard", (0.65, 0.80))]
)
def test_the_budget_is_the_share_of_the_gpu_that_the_tier_grants(difficulty, share):
    for scenario in load_file(set_path("eval", difficulty)):
        assert share[0] - 1e-3 <= scenario.budget_pages / scenario.gpu_pages <= share[1] + 1e-3


def test_taking_all_tiers_takes_them_in_turn_and_the_seed_orders_the_choice():
    some = load_scenarios("all", "eval", 7, seed=1)
    assert [x.difficulty for x in some] == ["easy", "medium", "hard", "easy", "medium", "hard", "easy"]
    assert some == load_scenarios("all", "eval", 7, seed=1) != load_scenarios("all", "eval", 7, seed=2)
    assert load_scenarios("hard", "eval", 3, seed=1) == load_scenarios("hard", "eval", 9, seed=1)[:3]
    assert len(load_scenarios()) == 150 and len({x.id for x in load_scenarios()}) == 150


def test_a_set_holds_the_first_scenarios_that_are_kept_and_says_how_many_it_tried():
    scenarios, tried = make_set("hard", "train", 3, 77, width=1, workers=2)
    everything = [with_references(generate("hard", 77, "train", k), 1) for k in range(tried)]
    nameless = [dataclasses.replace(x, id="") for x in scenarios]
    assert [dataclasses.replace(x, id="") for x in everything if kept(x)] == nameless and kept(everything[-1])
    assert all(x.id.startswith("eviction-train77-hard-") for x in scenarios), (
        "a set of another seed has ids of its own"
    )


def test_a_decider_that_does_not_exist_is_named_with_those_that_do(made):
    for ask in (decider, lambda name: policy_return(made("easy", 0), name)):
        with pytest.raises(ValueError, match="unknown decider 'nope'; use one of keep, "):
            ask("nope")
