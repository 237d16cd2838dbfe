"""What each heuristic does, and that it does so through every door."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kv_cache_rl.agents import AGENTS, CANARIES, agent
from kv_cache_rl.gym import ServingEnv
from kv_cache_rl.search.serving.rollout import episode, episode_of
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import RICH, VIEW
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import ServingError, task

VIEWS = arrays(np.float32, 24, elements=st.floats(0, 1, width=32))
MASKS = arrays(np.int8, 18, elements=st.integers(0, 1)).map(lambda mask: np.r_[mask[:17], np.int8(1)])


def view(**numbers):
    """A rich observation with these numbers and zeros elsewhere."""
    seen = np.zeros(24, np.float32)
    for name, value in numbers.items():
        seen[RICH.index(name)] = value
    return seen


def mask(*allowed):
    """Which actions have a target; doing nothing always has."""
    one = np.zeros(18, np.int8)
    one[[*allowed, 17]] = 1
    return one


def act(name, seen, allowed):
    one = agent(name)
    one.reset(0)
    return one.act(seen, allowed)


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_takes_only_actions_that_have_a_target(name):
    env, one = ServingEnv("hard", "rich", ticks=400), agent(name)
    seen, info = env.reset(seed=8)
    one.reset(8)
    over = False
    while not over:
        action = one.act(seen, info["action_mask"])
        assert info["action_mask"][action]
        seen, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated


@pytest.mark.parametrize("name", AGENTS)
def test_python_and_the_compiled_loop_play_the_same_episode(name):
    env, one = ServingEnv("hard", "rich", ticks=300), agent(name)
    for seed in (1, 2**63):
        seen, info = env.reset(seed=seed)
        one.reset(agent_seed(seed))
        over = False
        while not over:
            seen, _, terminated, truncated, info = env.step(one.act(seen, info["action_mask"]))
            over = terminated or truncated
        if name in HEURISTICS:
            end = episode(env.scenario, seed, name)
        else:
            end = episode_of(env.scenario, seed, one.which, one.start)
        assert all(np.array_equal(a, b) for a, b in zip(env.state.buffers, end.buffers, strict=True))


@pytest.mark.parametrize(
    "name", [name for name, one in HEURISTICS.items() if not one.rich and not one.remembers]
)
@given(seen=VIEWS, allowed=MASKS)
def test_a_heuristic_decides_by_the_plain_view_alone_unless_it_is_rich(name, seen, allowed):
    assert act(name, seen, allowed) == act(name, seen[:20], allowed)


@pytest.mark.parametrize("name", HEURISTICS)
@given(seen=VIEWS, allowed=MASKS)
def test_the_compiled_dispatch_calls_the_heuristic_of_that_name(name, seen, allowed):
    one, ours, theirs = HEURISTICS[name], new_memory(name, 3), new_memory(name, 3)
    for _ in range(3):
        action = choose(one.which, seen, allowed, ours)
        assert action == one.function(seen.view(VIEW)[0], allowed, theirs)
        assert np.array_equal(ours, theirs)


def plain_lru(seen, allowed):
    """The rule in plain words."""
    for action in (9, 8):
        if allowed[action]:
            return action
    somebody_waits = seen[RICH.index("free_queue_pressure")] > 0 or seen[RICH.index("vip_queue_pressure")] > 0
    ages = {2: seen[RICH.index("free_age_max")], 3: seen[RICH.index("vip_age_max")]}
    caches = [action for action in ages if allowed[action]]
    return max(caches, key=lambda action: (ages[action], -action)) if somebody_waits and caches else 17


@given(seen=VIEWS, allowed=MASKS)
def test_lru_is_the_rule_in_plain_words(seen, allowed):
    assert act("lru", seen, allowed) == plain_lru(seen, allowed)


def test_size_weighted_takes_the_largest_where_lru_takes_the_oldest():
    seen = view(
        vip_queue_pressure=0.1, free_age_max=0.9, vip_age_max=0.1, free_size_max=0.1, vip_size_max=0.4
    )
    assert act("lru", seen, mask(0, 1, 2, 3)) == 2
    assert act("size_weighted", seen, mask(0, 1, 2, 3)) == 1


def test_fifo_lets_no_request_overtake_the_longest_waiting():
    seen = view(
        free_queue_pressure=0.1, vip_queue_pressure=0.1, free_max_wait_time_pct=0.6, vip_max_wait_time_pct=0.2
    )
    assert act("fifo", seen, mask(8, 9)) == 8
    assert act("fifo", seen, mask(9)) == 17
    assert act("fifo", seen, mask(3, 9)) == 3
    assert act("lru", seen, mask(3, 9)) == 9


@pytest.mark.parametrize(
    ("name", "mark"), [("watermark_80", 0.8), ("watermark_90", 0.9), ("watermark_95", 0.95)]
)
def test_above_its_watermark_no_request_comes_in_and_the_oldest_cache_goes(name, mark):
    below, above = (
        view(gpu_utilization_pct=mark - 0.01),
        view(gpu_utilization_pct=mark + 0.01, vip_age_max=0.1),
    )
    assert act(name, below, mask(2, 3, 8)) == 8
    assert act(name, above, mask(2, 3, 8)) == 3
    assert act(name, above, mask(8)) == 17


def test_stability_swaps_ahead_of_need_and_evicts_where_it_cannot():
    short = view(stability_margin=-0.05, free_age_max=0.2, vip_age_max=0.5, gpu_utilization_pct=0.5)
    assert act("stability", short, mask(2, 3, 6, 7, 8, 9)) == 7
    assert act("stability", short, mask(2, 3, 8, 9)) == 3
    assert act("stability", short, mask(8, 9)) == 9
    assert act("stability", view(stability_margin=0.05), mask(2, 3, 6, 7)) == 17


def test_stability_holds_admissions_back_that_would_eat_the_growth_of_what_runs():
    assert act("stability", view(gpu_utilization_pct=0.5, rho=0.5), mask(8)) == 8
    assert act("stability", view(gpu_utilization_pct=0.999, rho=0.5), mask(8)) == 17


def test_stability_collects_garbage_when_the_cpu_is_nearly_full():
    assert act("stability", view(cpu_utilization_pct=0.99), mask(16)) == 16
    assert act("stability", view(cpu_utilization_pct=0.5), mask(16)) == 17


def test_stability_needs_the_rich_view_and_says_so():
    with pytest.raises(
        ServingError, match=r"stability needs an observation of 24 numbers, got 20; .* observation='rich'"
    ):
        act("stability", np.zeros(20, np.float32), mask(8))


def test_random_takes_every_action_as_often_and_follows_its_seed():
    one, allowed = agent("random"), mask(0, 5, 8)
    one.reset(3)
    drawn = [one.act(np.zeros(24, np.float32), allowed) for _ in range(4_000)]
    counts = np.bincount(drawn, minlength=18)
    assert set(np.flatnonzero(counts)) == {0, 5, 8, 17}
    # 4,000 draws of probability 1/4: a standard deviation is 27.
    assert np.all(np.abs(counts[[0, 5, 8, 17]] - 1_000) < 150)
    one.reset(3)
    assert [one.act(np.zeros(24, np.float32), allowed) for _ in range(50)] == drawn[:50]
    one.reset(4)
    assert [one.act(np.zeros(24, np.float32), allowed) for _ in range(50)] != drawn[:50]


def test_an_unknown_agent_is_refused_with_the_list():
    with pytest.raises(ServingError, match="unknown agent 'belady'; use one of random, fifo, lru"):
        agent("belady")


def test_canaries_are_agents_and_the_heuristics_say_the_same():
    assert set(CANARIES) == {name for name, one in HEURISTICS.items() if one.canary}
    assert set(HEURISTICS) | {"qlearning", "neural", "ppo"} == set(AGENTS)


def test_admit_once_admits_one_and_reject_all_none():
    admitted = {
        name: int((episode(task("easy", ticks=200), 3, name).columns.rows["found"] >= 0).sum())
        for name in HEURISTICS
    }
    assert admitted["admit_once"] == 1
    assert admitted["reject_all"] == admitted["do_nothing"] == 0
    assert admitted["lru"] > 10
