"""One server as a Gymnasium environment: the checkers, the rules of the interface, bad input."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import kv_cache_rl.gym
from kv_cache_rl.gym import IDS, ServingEnv
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH
from kv_cache_rl.sim.serving.spec import ServingError, task

SHORT = {"ticks": 300}


def follow(env, actions):
    """What a sequence of actions leads to: observations, rewards, flags, masks."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append((observation.tobytes(), reward, terminated, truncated, info["action_mask"].tobytes()))
        if terminated or truncated:
            break
    return seen


def lawful(env, n, seed=0):
    """Actions that were allowed when they were taken, and what they led to."""
    rng, actions, seen = np.random.default_rng(seed), [], []
    for _ in range(n):
        actions.append(int(rng.choice(np.flatnonzero(env.action_masks()))))
        seen += follow(env, actions[-1:])
        if seen[-1][2] or seen[-1][3]:
            break
    return actions, seen


@pytest.mark.parametrize("observation", ["plain", "rich"])
@pytest.mark.parametrize("name", IDS)
def test_both_environment_checkers_accept_it_without_a_warning(name, observation):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    env = gymnasium.make(name, observation=observation, render_mode="ansi", **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_env_sb3(env.unwrapped)


def test_the_three_tasks_are_registered_by_importing_the_package():
    assert IDS == ("KVServing-easy-v0", "KVServing-medium-v0", "KVServing-hard-v0")
    assert all(name in gymnasium.registry for name in IDS)
    assert isinstance(gymnasium.make("KVServing-hard-v0").unwrapped, kv_cache_rl.gym.ServingEnv)


@pytest.mark.parametrize(("observation", "names"), [("plain", OBSERVATION), ("rich", RICH)])
def test_every_observation_of_a_hard_episode_lies_in_its_box(observation, names):
    env = ServingEnv("hard", observation, ticks=600)
    seen, _ = env.reset(seed=4)
    assert env.observation_space.shape == (len(names),)
    rng, over = np.random.default_rng(0), False
    while not over:
        assert env.observation_space.contains(seen)
        seen, _, terminated, truncated, _ = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
        over = terminated or truncated


def test_the_plain_observation_is_the_beginning_of_the_rich_one():
    plain, rich = ServingEnv("medium", **SHORT), ServingEnv("medium", "rich", **SHORT)
    (a, _), (b, _) = plain.reset(seed=9), rich.reset(seed=9)
    for _ in range(200):
        assert np.array_equal(a, b[:20])
        action = int(np.flatnonzero(plain.action_masks())[0])
        a, b = plain.step(action)[0], rich.step(action)[0]


def test_the_same_seed_and_actions_give_the_same_bytes_again():
    env = ServingEnv("hard", "rich", **SHORT)
    env.reset(seed=7)
    actions, first = lawful(env, 500)
    env.reset(seed=7)
    assert follow(env, actions) == first


def test_without_a_seed_the_next_episode_is_another_and_follows_from_the_last_seed():
    env = ServingEnv("medium", **SHORT)

    def seed_of(seed=None):
        env.reset(seed=seed)
        return env.unwrapped.episode_seed

    assert env.episode_seed is None
    episodes = [seed_of(1), *(seed_of() for _ in range(3))]
    assert episodes[0] == 1
    assert len(set(episodes)) == 4
    assert [seed_of(1), *(seed_of() for _ in range(3))] == episodes


def test_no_info_of_an_episode_under_way_tells_the_seed_of_its_traffic():
    env = ServingEnv("medium", **SHORT)
    infos = [env.reset(seed=77)[1], *(env.step(17)[4] for _ in range(20))]
    assert all(set(info) == {"action_mask"} for info in infos)


def test_the_mask_is_exactly_what_is_not_refused():
    env = ServingEnv("hard", ticks=200)
    env.reset(seed=2)
    rng = np.random.default_rng(1)
    for _ in range(300):
        mask = env.action_masks()
        for action in np.flatnonzero(~mask):
            other = copy.deepcopy(env)
            rows, pools = other.state.columns.rows.copy(), other.state.columns.book["pools"].copy()
            if other.state.columns.book["decisions"] < env.scenario.actions_per_tick - 1:
                other.step(int(action))
                assert np.array_equal(other.state.columns.rows, rows)
                assert np.array_equal(other.state.columns.book["pools"], pools)
        _, _, terminated, truncated, info = env.step(int(rng.choice(np.flatnonzero(mask))))
        assert np.array_equal(info["action_mask"], env.action_masks())
        if terminated or truncated:
            break


def test_a_collapse_terminates_and_the_end_of_time_truncates():
    env = ServingEnv("easy", queue_free=2, queue_vip=2, gpu_blocks=1_000, rho=0.7)
    env.reset(seed=0)
    info, flags = {}, (False, False)
    while not any(flags):
        mask = env.action_masks()
        _, _, *flags, info = env.step(9 if mask[9] else 8 if mask[8] else 17)
    assert (flags, info["crashed"]) == ([True, False], "queues full and no memory")
    env = ServingEnv("easy", ticks=50)
    env.reset(seed=0)
    flags = (False, False)
    while not any(flags):
        _, _, *flags, info = env.step(17)
    assert (flags, info["crashed"]) == ([False, True], "")
    assert info["score"] == info["report"]["score"]


def test_a_copy_and_a_pickle_in_the_middle_go_on_alike_and_leave_the_original_alone():
    env = ServingEnv("hard", "rich", **SHORT)
    env.reset(seed=3)
    lawful(env, 150)
    copied, pickled = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    before = [array.copy() for array in env.state.buffers]
    actions, seen = lawful(copied, 200, seed=5)
    assert all(np.array_equal(a, b) for a, b in zip(before, env.state.buffers, strict=True))
    assert follow(pickled, actions) == seen
    assert follow(env, actions) == seen


def test_settings_of_one_environment_never_reach_another_nor_the_next_episode():
    small, usual = ServingEnv("medium", gpu_blocks=2_000), ServingEnv("medium")
    small.reset(seed=0)
    usual.reset(seed=0, options={"settings": {"gpu_blocks": 5_000}})
    assert (small.state.scenario.gpu_blocks, usual.state.scenario.gpu_blocks) == (2_000, 5_000)
    usual.reset(seed=0)
    assert usual.state.scenario == task("medium")
    assert ServingEnv("medium").scenario == task("medium")


def test_a_reset_in_the_middle_begins_from_nothing():
    env = ServingEnv("medium", **SHORT)
    env.reset(seed=5)
    lawful(env, 100)
    env.reset(seed=6)
    fresh = new_state(task("medium", **SHORT), 6)
    assert all(np.array_equal(a, b) for a, b in zip(env.state.buffers, fresh.buffers, strict=True))


def test_seeds_up_to_two_to_the_64_are_taken_and_others_refused():
    env = ServingEnv("easy", ticks=20)
    for seed in (0, 2**63, 2**64 - 1, np.int64(5)):
        env.reset(seed=seed)
        assert env.episode_seed == seed
    for seed in (-1, 2**64, 1.5, "7", float("nan")):
        with pytest.raises(ServingError, match=r"seed is .*; give a whole number from 0 to 2\*\*64 - 1"):
            env.reset(seed=seed)


@pytest.mark.parametrize("action", [np.int64(9), np.array(9), 9.0, np.float32(9), np.array(9.0)], ids=repr)
def test_a_whole_number_of_any_kind_is_an_action(action):
    env, same = ServingEnv("easy", ticks=20), ServingEnv("easy", ticks=20)
    for one in (env, same):
        one.reset(seed=0)
    assert follow(env, [action]) == follow(same, [9])


@pytest.mark.parametrize(
    "action", [-1, 18, 18.0, 2.5, None, float("nan"), float("inf"), "admit", "3", [3], [1, [2]], 3j]
)
def test_an_action_that_is_none_of_the_eighteen_is_an_error_and_changes_nothing(action):
    env = ServingEnv("easy", ticks=20)
    env.reset(seed=0)
    before = env.state.live.copy()
    with pytest.raises(ServingError, match=r"action is .*; give a whole number from 0 to 17"):
        env.step(action)
    assert np.array_equal(env.state.live, before)


def test_steps_outside_an_episode_say_what_to_do():
    env = ServingEnv("easy", ticks=5)
    with pytest.raises(ServingError, match=r"no episode is under way; call reset\(\) first"):
        env.step(17)
    env.reset(seed=0)
    while not any(env.step(17)[2:4]):
        pass
    with pytest.raises(ServingError, match=r"no episode is under way"):
        env.step(17)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "extreme"}, "unknown task 'extreme'"),
        ({"observation": "pixels"}, "unknown observation 'pixels'; use 'plain' .* or 'rich'"),
        ({"observation": ["q"]}, r"unknown observation \['q'\]; use 'plain' .* or 'rich'"),
        ({"task": ["easy"]}, r"unknown task \['easy'\]; did you mean easy"),
        ({"gpu_blocks": 0}, "gpu_blocks is 0; give a whole number from"),
        ({"rho": float("nan")}, "rho is nan; give a number from"),
        ({"sla_free": 0}, "sla_free is 0; give a positive number"),
        ({"colour": "red"}, "unknown setting 'colour'"),
    ],
)
def test_bad_settings_are_refused_with_a_remedy(arguments, message):
    with pytest.raises(ServingError, match=message):
        ServingEnv(**arguments)


def test_options_meant_for_another_environment_give_a_warning_and_change_nothing():
    env = ServingEnv("easy", ticks=5)
    usual, _ = env.reset(seed=0)
    with pytest.warns(UserWarning, match="the option 'ticks' is not known here and changes nothing"):
        seen, _ = env.reset(seed=0, options={"ticks": 3})
    assert np.array_equal(seen, usual) and env.state.scenario == env.scenario


@pytest.mark.parametrize("settings", [None, 5, ["rho"], {7: 1}], ids=str)
def test_settings_of_an_episode_that_are_not_given_by_name_are_refused(settings):
    env = ServingEnv("easy", ticks=5)
    with pytest.raises(
        ServingError,
        match=r"the option settings is .*; give settings by name, e.g. {'settings': {'rho': 0.9}}",
    ):
        env.reset(seed=0, options={"settings": settings})
    with pytest.raises(ServingError, match=r"options are 5; give {'settings'"):
        env.reset(seed=0, options=5)
    for name in ("name", "task"):
        with pytest.raises(ServingError, match=f"unknown setting '{name}'"):
            env.reset(seed=0, options={"settings": {name: "hard"}})


def test_it_goes_on_from_a_server_in_the_middle_of_its_episode_and_leaves_that_alone():
    first, other = ServingEnv("hard", "rich", **SHORT), ServingEnv("easy", "rich")
    first.reset(seed=3)
    lawful(first, 150)
    state = first.state.copy()
    before = [array.copy() for array in state.buffers]
    other.resume(state)
    actions, seen = lawful(other, 100, seed=5)
    assert follow(first, actions) == seen
    assert all(np.array_equal(a, b) for a, b in zip(before, state.buffers, strict=True))
    assert other.episode_seed == 3


def test_actions_are_sampled_with_the_mask_that_the_environment_gives():
    env = ServingEnv("easy", ticks=20)
    _, info = env.reset(seed=0)
    env.action_space.seed(3)
    for mask in (env.action_masks(), info["action_mask"], list(env.action_masks())):
        assert {env.action_space.sample(mask=mask) for _ in range(30)} == set(np.flatnonzero(mask))
    assert env.action_space == gymnasium.spaces.Discrete(18)
    assert env.action_space.sample() in env.action_space
