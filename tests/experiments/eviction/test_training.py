"""A training learns, is the same bytes for the same seed, and goes on where it was stopped."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kv_cache_rl.experiments.eviction import courses, sets
from kv_cache_rl.experiments.eviction.evolving import MOVED, Evolving, decoding, learned_in, play
from kv_cache_rl.experiments.eviction.separable import Separable
from kv_cache_rl.experiments.eviction.training import Lessons, parted, school
from kv_cache_rl.experiments.eviction.tuning import Tuning, decoded, encoded, player, tune, tuned_in
from kv_cache_rl.experiments.journal import Journal, JournalError
from kv_cache_rl.sim.eviction import DIFFICULTIES, load_scenarios
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, Verb
from kv_cache_rl.sim.eviction.constants import LABELS, START
from kv_cache_rl.sim.eviction.network import SIZE, untrained

pytest.importorskip("cma")
TINY = Tuning(generations=2, population=4, look_every=1)


@pytest.fixture(scope="module")
def small():
    return school(load_scenarios(split="train", num_examples=24), load_scenarios(num_examples=6))


class Stopped(Exception):
    pass


def tune_tiny(found, **options):
    return tuned_in(found, TINY, **options)


def evolve_tiny(found, **options):
    plan = Evolving(generations=2, population=4, look_every=1)
    return learned_in(found, plan, START, **options)


@pytest.mark.parametrize("train", [tune_tiny, evolve_tiny])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_training_that_goes_on_ends_with_the_same_bytes(tmp_path, small, train, after):
    whole, curve = train(small)

    def until(done, total):
        if done == after:
            raise Stopped

    with Journal(tmp_path) as journal, pytest.raises(Stopped):
        train(small, journal=journal, tell=until)
    with Journal(tmp_path) as journal:
        assert f"look {after}" in journal.rows
        weights, again = train(small, journal=journal)
    assert weights.tobytes() == whole.tobytes() and again == curve


def pooled(learn: dict, select: dict) -> float:
    """The mean of scores by tier, as many to a scenario: three quarters of them are learned from."""
    return 0.75 * np.mean(list(learn.values())) + 0.25 * np.mean(list(select.values()))


def test_what_is_kept_is_what_did_best_on_all_but_the_held_out_scenarios(small):
    weights, curve = tuned_in(small, Tuning(generations=6, population=8, look_every=1))
    scores = [pooled(point["learn"], point["select"]) for point in curve]
    kept = pooled(*(part.by_tier(player(TINY), weights) for part in (small.learn, small.select)))
    assert kept == pytest.approx(max(scores), abs=1e-8) and max(scores) > scores[0]
    assert [point["generation"] for point in curve] == list(range(7))
    assert all(set(point) == {"generation", "learn", "select", "held_out"} for point in curve)


def test_another_seed_is_another_search_and_a_verb_can_be_left_out():
    scenarios = load_scenarios("hard", "train", 8)
    one, again, other = (tune(scenarios, 1, seed)[0] for seed in (0, 0, 1))
    assert one.tobytes() == again.tobytes() != other.tobytes()
    without = tune(scenarios, 1, 0, allowed=ALL_VERBS & ~(1 << Verb.COMPRESS))[1]
    assert without[0]["learn"]["hard"] < tune(scenarios, 1, 0)[1][0]["learn"]["hard"]


def test_a_generation_plays_some_of_each_tier_and_others_than_the_last(small):
    first, same, next_one = (small.learn.some(2, (7, g)) for g in (0, 0, 1))
    ids = [[made.id for made in part.scenarios] for part in (first, same, next_one)]
    assert ids[0] == ids[1] != ids[2]
    assert [made.difficulty for made in first.scenarios] == ["easy"] * 2 + ["medium"] * 2 + ["hard"] * 2
    assert all(state.scn.tolist() == small.learn.states[small.learn.scenarios.index(made)].scn.tolist()
               for made, state in zip(first.scenarios, first.states, strict=True))  # fmt: skip
    assert small.learn.some(99, (7, 0)).scenarios == small.learn.scenarios


def test_every_generation_of_a_training_draws_its_own_lessons(small, monkeypatch):
    drawn, some = [], Lessons.some
    monkeypatch.setattr(Lessons, "some", lambda one, *of: drawn.append(of) or some(one, *of))
    tuned_in(small, replace(TINY, generations=3, seed=5, lessons=2))
    assert drawn == [(2, (5, 0)), (2, (5, 1)), (2, (5, 2))]


def test_the_usual_school_learns_from_fresh_scenarios_and_finds_them_again(tmp_path, monkeypatch):
    monkeypatch.setattr(courses, "FRESH", 3)
    told: list = []
    found = courses.usual_school(tmp_path, lambda done, total: told.append((done, total)))
    assert [made.difficulty for made in found.learn.scenarios] == [t for t in DIFFICULTIES for _ in range(3)]
    committed = {made.id for split in ("train", "eval", "test") for made in load_scenarios(split=split)}
    assert not committed & {made.id for made in found.learn.scenarios} and told[-1] == (9, 9)
    assert len(found.select.scenarios) == 600 and {made.split for made in found.held_out.scenarios} == {
        "eval"
    }
    monkeypatch.setattr(sets, "with_references", None)  # found in the journal
    again = courses.usual_school(tmp_path)
    assert again.learn.scenarios == found.learn.scenarios
    assert found.share == pytest.approx(600 / 609)


def test_the_scenarios_that_choose_are_not_learned_from():
    scenarios = load_scenarios(split="train", num_examples=60)
    learn, select = parted(scenarios)
    assert len(learn) == 45 and len(select) == 15
    assert {made.id for made in learn} | {made.id for made in select} == {made.id for made in scenarios}
    assert [made.difficulty for made in select].count("easy") == 5


def test_the_search_moves_constants_there_and_back():
    assert decoded(encoded(START)) == pytest.approx(START, rel=1e-5)
    assert decoded(np.full(len(LABELS), 99.0)).max() <= 99.0 * 300
    assert all(float(f"{value:.6g}") == value for value in decoded(encoded(START) + 0.1234567891))


def test_a_journal_of_another_training_is_refused(tmp_path):
    with Journal(tmp_path) as journal:
        journal.check_plan({"seed": 1, "code": "a"}, "a training")
        journal.check_plan({"seed": 1, "code": "a"}, "a training")
        with pytest.raises(JournalError, match=r"with another seed \(1, now 2\); give the same, delete the"):
            journal.check_plan({"seed": 2, "code": "a"}, "a training")


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


def test_a_network_begins_as_its_constants_and_moves_them_and_its_last_layers_alone():
    first = np.concatenate([encoded(START), np.zeros(MOVED.sum())])
    start = untrained(decoded(encoded(START)), 0)
    decode = decoding(start)
    assert decode(first).tolist() == start.tolist()
    moved = decode(first + 0.1)
    assert (moved != start).tolist() == [*[True] * len(LABELS), *MOVED.tolist()] and len(moved) == SIZE
    layers = moved[len(LABELS) :]
    assert layers.astype(np.float32).astype(np.float64).tolist() == layers.tolist()


def test_the_search_goes_where_scores_are_higher_and_draws_the_same_for_the_same_seed():
    state = np.random.get_state()[1].tolist()
    made = []
    for _ in range(2):
        search = Separable(np.ones(5), lambda x: x.copy(), 0.3, 8, seed=4)
        for _ in range(40):
            search.tell(-np.square(search.ask()).sum(axis=1))
        made.append(search.mean())
    assert made[0].tobytes() == made[1].tobytes() and np.abs(made[0]).max() < 0.1
    assert np.random.get_state()[1].tolist() == state, "the global generator is left alone"


def test_the_course_of_a_network_begins_with_the_committed_constants(tmp_path, small):
    from kv_cache_rl.sim.eviction.trained import TUNED, read_learned

    files, record = courses.follow("learned", small, 1, 0, tmp_path, lambda done, total: None)
    found = read_learned(files[0])
    parts = (small.learn, small.select)
    before = pooled(*(part.by_tier(player(TINY), TUNED.weights) for part in parts))
    assert found.about["training"]["generations"] == 1 and found.about["scores"] in record["curve"]
    first, scores = record["curve"][0], found.about["scores"]
    after = pooled(*(part.by_tier(play, found.weights) for part in parts))
    assert after >= before - 1e-3 and pooled(first["learn"], first["select"]) == pytest.approx(
        before, abs=1e-3
    )
    assert after == pytest.approx(pooled(scores["learn"], scores["select"]), abs=1e-8)
