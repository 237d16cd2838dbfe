"""The clairvoyant reference: better than all it is made of, on every episode, and the same every time."""

import pytest

from kv_cache_rl.agents import agent
from kv_cache_rl.search.serving.oracle import VARIANTS, bases, solve
from kv_cache_rl.search.serving.rollout import episode, episode_of
from kv_cache_rl.sim.serving.audit import check
from kv_cache_rl.sim.serving.bound import fluid_bound
from kv_cache_rl.sim.serving.heuristics import HEURISTICS
from kv_cache_rl.sim.serving.score import EDGE, parts_of, report, weighed
from kv_cache_rl.sim.serving.spec import ServingError, task

SHORT = task("hard", ticks=1_000)
TABLE = agent("qlearning")
LEARNED = {"qlearning": (TABLE.which, TABLE.start)}


@pytest.mark.parametrize("seed", range(4))
def test_it_is_at_least_as_good_as_everything_it_is_made_of(seed):
    plan, made_of = solve(SHORT, seed, segments=4, learned=LEARNED), bases(LEARNED)
    alone = {
        name: report(episode_of(SHORT, seed, which, memory)).score
        for name, (which, memory) in made_of.items()
    }
    assert plan.report.score >= max(alone.values())
    assert alone[plan.best_base] == max(alone.values())


def test_changing_hands_once_beats_every_policy_that_plays_an_episode_of_full_length_alone():
    for seed in range(2):
        plan, alone = (solve(task("hard"), seed, segments, learned=LEARNED) for segments in (2, 1))
        assert plan.report.score > alone.report.score + 0.0005
        assert len(set(plan.policies)) == 2


def test_more_passes_never_lower_it():
    scores = [solve(SHORT, 5, segments=6, passes=passes).report.score for passes in (1, 2, 3)]
    assert scores == sorted(scores)


def test_the_plan_played_again_gives_the_same_end_whatever_the_number_of_workers():
    before = TABLE.start.tobytes()
    one, other = (solve(SHORT, 1, segments=4, workers=workers, learned=LEARNED) for workers in (1, 3))
    assert TABLE.start.tobytes() == before
    assert one.policies == other.policies
    assert one.report == other.report
    check(one.state)


def test_what_it_maximises_is_the_score():
    for name in ("lru", "do_nothing", "stability"):
        state = episode(SHORT, 2, name)
        value = weighed("hard", parts_of(state.columns, fluid_bound(state.columns)))
        assert report(state).score == EDGE + (1 - 2 * EDGE) * value


def test_it_is_made_of_every_heuristic_that_serves_of_variants_and_of_what_was_learned():
    serving = {"fifo", "lru", "size_weighted", "stability", "watermark_80", "watermark_90", "watermark_95"}
    assert set(bases()) == serving | set(VARIANTS)
    assert set(bases(LEARNED)) == serving | set(VARIANTS) | {"qlearning"}
    assert all(set(changes) <= set(HEURISTICS["stability"].names) for changes in VARIANTS.values())


@pytest.mark.parametrize("arguments", [{"segments": 0}, {"passes": 0}])
def test_it_refuses_a_search_of_nothing(arguments):
    with pytest.raises(ServingError, match="is 0; give a whole number from 1"):
        solve(SHORT, 0, **arguments)
