"""A training learns, is the same bytes for the same seed, and goes on where it was stopped."""

import json

import numpy as np
import pytest

from kv_cache_rl.experiments.eviction import courses
from kv_cache_rl.experiments.eviction.training import check_plan, parted, school, turn_of
from kv_cache_rl.experiments.eviction.tuning import Tuning, decoded, encoded, tune, tuned_in
from kv_cache_rl.experiments.journal import Journal, JournalError
from kv_cache_rl.sim.eviction import load_scenarios
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, Verb
from kv_cache_rl.sim.eviction.constants import LABELS, START

pytest.importorskip("cma")
TINY = Tuning(generations=2, population=4, look_every=1)


@pytest.fixture(scope="module")
def small():
    return school(load_scenarios(split="train", num_examples=24), load_scenarios(num_examples=6))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_training_that_goes_on_ends_with_the_same_bytes(tmp_path, small, after):
    whole, curve = tuned_in(small, TINY)

    def until(done, total):
        if done == after:
            raise Stopped

    with Journal(tmp_path) as journal, pytest.raises(Stopped):
        tuned_in(small, TINY, journal=journal, tell=until)
    with Journal(tmp_path) as journal:
        assert f"look {after}" in journal.rows
        weights, again = tuned_in(small, TINY, journal=journal)
    assert weights.tobytes() == whole.tobytes() and again == curve


def test_what_is_kept_is_what_did_best_on_the_scenarios_that_choose(small):
    weights, curve = tuned_in(small, Tuning(generations=6, population=8, look_every=1))
    chosen = [np.mean(list(point["select"].values())) for point in curve]
    from kv_cache_rl.experiments.eviction.tuning import player

    kept = np.mean(list(small.select.by_tier(player(TINY), weights).values()))
    assert kept == pytest.approx(max(chosen), abs=1e-8) and max(chosen) > chosen[0]
    assert [point["generation"] for point in curve] == list(range(7))
    assert all(set(point) == {"generation", "learn", "select", "held_out"} for point in curve)


def test_another_seed_is_another_search_and_a_verb_can_be_left_out():
    scenarios = load_scenarios("hard", "train", 8)
    one, again, other = (tune(scenarios, 1, seed)[0] for seed in (0, 0, 1))
    assert one.tobytes() == again.tobytes() != other.tobytes()
    without = tune(scenarios, 1, 0, allowed=ALL_VERBS & ~(1 << Verb.COMPRESS))[1]
    assert without[0]["learn"]["hard"] < tune(scenarios, 1, 0)[1][0]["learn"]["hard"]


def test_the_scenarios_that_choose_are_not_learned_from():
    scenarios = load_scenarios(split="train", num_examples=60)
    learn, select = parted(scenarios)
    assert len(learn) == 45 and len(select) == 15
    assert {made.id for made in learn} | {made.id for made in select} == {made.id for made in scenarios}
    assert [made.difficulty for made in select].count("easy") == 5


def test_turns_go_round_all_scenarios():
    seen = [k for g in range(3) for k in turn_of(g, 24, 8)]
    assert sorted(seen) == list(range(24)) and turn_of(0, 24, None) is None and turn_of(0, 24, 24) is None


def test_the_search_moves_constants_there_and_back():
    assert decoded(encoded(START)) == pytest.approx(START, rel=1e-5)
    assert decoded(np.full(len(LABELS), 99.0)).max() <= 99.0 * 300
    assert all(float(f"{value:.6g}") == value for value in decoded(encoded(START) + 0.1234567891))


def test_a_journal_of_another_training_is_refused(tmp_path):
    with Journal(tmp_path) as journal:
        check_plan(journal, {"seed": 1, "code": "a"})
        check_plan(journal, {"seed": 1, "code": "a"})
        with pytest.raises(JournalError, match=r"with another seed \(1, now 2\); give the same, delete the"):
            check_plan(journal, {"seed": 2, "code": "a"})


def test_a_course_writes_weights_that_say_how_they_were_made(tmp_path, small, monkeypatch):
    from kv_cache_rl.sim.eviction.trained import read_tuned

    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        files, record = courses.follow("tuned", small, 1, 3, folder, lambda done, total: None)
        made.append(files[0].read_bytes())
    assert made[0] == made[1]
    found = json.loads(made[0])
    assert found["training"]["generations"] == 1 and found["training"]["seed"] == 3
    assert found["scenarios"]["learn"]["easy"] == 6 and found["scenarios"]["held_out"]["split"] == "eval"
    assert found["scores"] in record["curve"] and found["made_with"].startswith("cma 4")
    assert read_tuned(files[0]).weights.tolist() == list(found["constants"].values())
