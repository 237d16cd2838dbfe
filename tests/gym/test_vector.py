"""The batch plays what its servers would play one by one."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import kv_cache_rl.gym  # noqa: F401
from kv_cache_rl.gym import ServingEnv, ServingVectorEnv
from kv_cache_rl.sim.serving.audit import check
from kv_cache_rl.sim.serving.spec import ServingError


def chosen(rng, masks):
    """One allowed action for each row of masks."""
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_a_batch_gives_the_same_trajectories_as_single_environments_through_autoresets(name):
    settings = {"ticks": 40, "observation": "rich"}
    ours = ServingVectorEnv(5, name, threads=2, **settings)
    theirs = SyncVectorEnv([lambda: ServingEnv(name, **settings)] * 5)
    (a, info_a), (b, info_b) = ours.reset(seed=11), theirs.reset(seed=11)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(400):
        assert np.array_equal(a, b)
        assert np.array_equal(info_a["action_mask"], info_b["action_mask"])
        actions = chosen(rng, info_a["action_mask"])
        a, *flags_a, info_a = ours.step(actions)
        b, *flags_b, info_b = theirs.step(actions)
        for x, y in zip(flags_a, flags_b, strict=True):
            assert np.array_equal(x, y)
        over = flags_a[1] | flags_a[2]
        ends += over.sum()
        if over.any():
            assert np.array_equal(info_a["_score"], info_b["_score"])
            assert np.array_equal(info_a["score"][over], info_b["score"][over])
    assert ends > 10, "no autoreset was compared"


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.gym.stacks.WORTH_A_THREAD", 32)
    alone, together = (ServingVectorEnv(96, "hard", threads=n, ticks=100) for n in (1, 3))
    rng = np.random.default_rng(3)
    (_, info), _ = alone.reset(seed=1), together.reset(seed=1)
    for _ in range(300):
        actions = chosen(rng, info["action_mask"])
        one, other = alone.step(actions), together.step(actions)
        info = one[4]
        assert all(np.array_equal(x, y) for x, y in zip(one[:4], other[:4], strict=True))


def test_episodes_of_very_different_lengths_share_a_batch():
    env = ServingVectorEnv(3, "medium", ticks=200)
    env.reset(seed=0)
    env.reset(seed=[1, None, 5], options={"settings": {"rho": 1.7}})
    alone = ServingEnv("medium", ticks=200)
    alone.reset(seed=5, options={"settings": {"rho": 1.7}})
    for _ in range(500):
        _, _, terminated, truncated, _ = env.step(np.full(3, 17))
        single = alone.step(17)
        assert np.array_equal(env.state(2).live, alone.state.live)
        assert (terminated[2], truncated[2]) == single[2:4]
        if single[2] or single[3]:
            break
    check(env.state(2))


def test_it_is_made_by_gymnasium_and_says_how_it_resets():
    env = gymnasium.make_vec("KVServing-easy-v0", num_envs=4, ticks=20)
    assert isinstance(env, ServingVectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    env.reset(seed=0)
    over = np.zeros(4, bool)
    while not over.all():
        _, _, terminated, truncated, _ = env.step(np.full(4, 17))
        over = terminated | truncated
    observation, rewards, terminated, truncated, _ = env.step(np.full(4, 8))
    assert not (terminated | truncated).any()
    assert np.array_equal(rewards, np.zeros(4))
    assert env.observation_space.contains(observation)
    assert [env.state(k).seconds for k in range(4)] == [0.0] * 4
    env.close()


def test_a_copy_goes_on_alike_and_leaves_the_original_alone():
    env = ServingVectorEnv(40, "hard", ticks=100)
    _, info = env.reset(seed=2)
    for _ in range(30):
        *_, info = env.step(chosen(np.random.default_rng(0), info["action_mask"]))
    copies = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    before = env.state(39).live.copy()
    results = [[one.step(np.full(40, 17))[0].tobytes() for _ in range(20)] for one in copies]
    assert np.array_equal(env.state(39).live, before)
    assert results[0] == results[1] == [env.step(np.full(40, 17))[0].tobytes() for _ in range(20)]


def test_two_thousand_servers_run_side_by_side():
    env = ServingVectorEnv(2_000, "easy", ticks=10)
    env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(np.full(2_000, 17))
    assert observation.shape == (2_000, 20)
    assert len({env.state(k).columns.requests.tobytes() for k in range(2_000)}) > 1_000


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.full(3, 17), r"actions have shape \(3,\) .*; give 4 whole numbers from 0 to 17"),
        (np.full(4, "17"), "<U2; give 4 whole numbers"),
        ([[1], [2], [3, 4], [5]], r"actions have shape \(4,\) and type object; give 4 whole numbers"),
        (np.full(4, 16.5), "action is 16.5; give a whole number from 0 to 17"),
        (np.full(4, np.nan), "action is nan; give a whole number"),
        (np.array([17, 17, 18, 17]), "action is 18; give a whole number from 0 to 17"),
        (np.array([17, -2, 17, 17]), "action is -2"),
    ],
)
def test_bad_actions_are_refused(actions, message):
    env = ServingVectorEnv(4, "easy", ticks=10)
    with pytest.raises(ServingError, match=r"call reset\(\) first"):
        env.step(np.full(4, 17))
    env.reset(seed=0)
    with pytest.raises(ServingError, match=message):
        env.step(actions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"num_envs": True}, "num_envs is True; give a whole number from 1"),
        ({"num_envs": 2.0}, "num_envs is 2.0; give a whole number from 1"),
        ({"num_envs": 2, "queue_free": -1}, "queue_free is -1"),
    ],
)
def test_bad_settings_of_a_batch_are_refused(arguments, message):
    with pytest.raises(ServingError, match=message):
        ServingVectorEnv(**arguments)


def test_seeds_have_to_be_one_for_each_and_in_range():
    env = ServingVectorEnv(3, "easy", ticks=10)
    with pytest.raises(ServingError, match="2 seeds for 3 servers"):
        env.reset(seed=[1, 2])
    with pytest.raises(ServingError, match="seed is -1"):
        env.reset(seed=-1)
    with pytest.raises(ServingError, match="seed is 18446744073709551616"):
        env.reset(seed=2**64)
    env.reset(seed=2**64 - 2)
    assert env.episode_seeds.tolist() == [2**64 - 2, 2**64 - 1, 0], "seeds go round"


def test_numbers_of_numpy_are_numbers():
    env = ServingVectorEnv(np.int64(3), "easy", threads=np.int32(2), ticks=np.int64(10))
    env.reset(seed=0)
    assert env.step(np.full(3, 17))[0].shape == (3, 20)
    assert env.step(np.full(3, 17.0, np.float32))[0].shape == (3, 20)
    assert type(env.scenario.ticks) is int and env.scenario == ServingEnv("easy", ticks=10).scenario


def test_the_seeds_of_the_episodes_are_an_attribute_and_in_no_info():
    ours = ServingVectorEnv(3, "easy", ticks=20)
    theirs = [ServingEnv("easy", ticks=20) for _ in range(3)]
    assert ours.episode_seeds is None
    _, info = ours.reset(seed=2**64 - 3)
    assert ours.episode_seeds.tolist() == [2**64 - 3, 2**64 - 2, 2**64 - 1]
    over, infos = np.zeros(3, bool), [info]
    while not over.any():
        *_, over, info = ours.step(np.full(3, 17))
        infos.append(info)
    assert over.all() and all(set(one) == {"action_mask"} for one in infos[:-1])
    ours.step(np.full(3, 17))
    for k, env in enumerate(theirs):
        env.reset(seed=2**64 - 3 + k)
        env.reset()
    assert ours.episode_seeds.tolist() == [env.episode_seed for env in theirs]


def test_it_goes_on_from_servers_in_the_middle_of_their_episodes():
    states, singles = [], []
    for k in range(40):
        one = ServingEnv("medium", ticks=200)
        one.reset(seed=k)
        for _ in range(3 * k):
            one.step(int(np.flatnonzero(one.action_masks())[0]))
        states.append(one.state.copy())
        singles.append(one)
    env = ServingVectorEnv(40, "medium", ticks=200)
    with pytest.raises(ServingError, match="39 states for 40 servers"):
        env.resume(states[:39])
    _, info = env.resume(states)
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert np.array_equal(info["action_mask"], [one.action_masks() for one in singles])
        actions = chosen(rng, info["action_mask"])
        observation, *_, info = env.step(actions)
        assert np.array_equal(
            observation, [one.step(int(a))[0] for one, a in zip(singles, actions, strict=True)]
        )
    check(env.state(39))
