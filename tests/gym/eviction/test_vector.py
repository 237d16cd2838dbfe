"""The batch plays what its caches would play one by one, in every mode; Stable-Baselines3 trains on it."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from editing import ROOT, execute
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.gym import EvictionEnv, EvictionVectorEnv
from kv_cache_rl.sim.eviction import load_scenarios
from kv_cache_rl.sim.eviction.decisions import STOP, DecisionError
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import check

ID = "KVEviction-hard-v0"
MODES = list(AutoresetMode)


def chosen(rng, masks, stop=0.5):
    """For each row of masks one allowed action, half of them `STOP`."""
    actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
    return np.where(rng.random(len(actions)) < stop, STOP, actions)


@pytest.mark.parametrize("limit", [None, 17])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_in_every_mode_it_does_what_gymnasium_does_with_single_caches(mode, limit):
    ours = gymnasium.make_vec(ID, num_envs=4, autoreset_mode=mode, max_episode_steps=limit)
    single = {} if limit is None else {"max_episode_steps": limit}
    theirs = SyncVectorEnv([lambda: gymnasium.make(ID, **single)] * 4, autoreset_mode=mode)
    (a, info), (b, expected) = ours.reset(seed=11), theirs.reset(seed=11)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(110):
        assert np.array_equal(a, b)
        # After a partial reset Gymnasium's own batch speaks of what was reset alone.
        said = expected["_window"]
        for name in ("action_mask", "window", "failures"):
            assert np.array_equal(info[name][said], expected[name][said]), name
        actions = chosen(rng, ours.action_masks())
        a, *three, info = ours.step(actions)
        b, *same, expected = theirs.step(actions)
        assert all(np.array_equal(x, y) for x, y in zip(three, same, strict=True))
        assert set(info) | {"_action_mask", "_window", "_failures"} == set(expected)
        over = three[1] | three[2]
        ends += int(over.sum())
        for k in np.flatnonzero(over):
            mine, wanted = info, expected
            if mode is AutoresetMode.SAME_STEP:
                assert np.array_equal(info["final_obs"][k], expected["final_obs"][k])
                mine, wanted = info["final_info"], expected["final_info"]
                assert set(mine) == set(wanted)
                assert np.array_equal(mine["action_mask"][k], wanted["action_mask"][k])
            if "score" in mine:
                assert mine["score"][k] == wanted["score"][k]
                assert mine["report"]["total"][k] == wanted["report"]["total"][k]
        if mode is AutoresetMode.DISABLED and over.any():
            for_each = [{"options": {"reset_mask": over.copy()}} for _ in range(2)]
            (a, info), (b, expected) = ours.reset(**for_each[0]), theirs.reset(**for_each[1])
    assert ends >= 8, "no end was compared"


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.gym.eviction.seats.WORTH_A_THREAD", 8)
    alone, together = (EvictionVectorEnv(24, "medium", threads=n) for n in (1, 3))
    rng = np.random.default_rng(3)
    (_, info), _ = alone.reset(seed=1), together.reset(seed=1)
    for _ in range(60):
        actions = chosen(rng, info["action_mask"])
        one, other = alone.step(actions), together.step(actions)
        info = one[4]
        assert all(np.array_equal(x, y) for x, y in zip(one[:4], other[:4], strict=True))
    for k in range(24):
        check(alone.state(k))


def test_scenarios_of_very_different_sizes_share_a_batch():
    by_size = sorted(load_scenarios("all", "test", 30), key=lambda one: len(one.sessions))
    small, large = by_size[0], by_size[-1]
    env = EvictionVectorEnv(3, "easy")
    env.reset(seed=0)
    env.set_attr("scenario", [small, large, small])
    seen, info = env.reset(seed=0)
    assert env.get_attr("playing") == (small, large, small)
    alone, rng = EvictionEnv("easy"), np.random.default_rng(0)
    first, _ = alone.reset(options={"scenario": large})
    assert np.array_equal(seen[1], first)
    over = False
    while not over:
        actions = chosen(rng, info["action_mask"])
        seen, rewards, terminated, _, info = env.step(actions)
        expected, reward, over, *_ = alone.step(actions[1])
        assert np.array_equal(seen[1], expected) and rewards[1] == reward and terminated[1] == over
    assert env.get_attr("log")[1] == alone.log


def test_one_scenario_everywhere_and_fresh_ones_for_every_seed():
    env = EvictionVectorEnv(3, "hard", split="eval")
    known = load_scenarios("hard", "eval", 1)[0].id
    env.reset(options={"scenario": known})
    assert {one.id for one in env.get_attr("playing")} == {known}
    fresh = gymnasium.make_vec("KVEviction-easy-v0", num_envs=3, source="generated")
    fresh.reset(seed=5)
    alone = EvictionEnv("easy", source="generated")
    alone.reset(seed=6)
    assert fresh.get_attr("playing")[1] == alone.playing
    assert fresh.episode_seeds.tolist() == [5, 6, 7]


def test_it_is_made_by_gymnasium_and_pickled_in_the_middle():
    env = gymnasium.make_vec(ID, num_envs=4, vectorization_mode="vector_entry_point", threads=1)
    assert isinstance(env, EvictionVectorEnv) and env.episode_seeds is None
    seen, info = env.reset(seed=2)
    assert env.observation_space.contains(seen) and env.action_space.sample(mask=env.action_masks()).shape
    rng = np.random.default_rng(0)
    for _ in range(20):
        *_, info = env.step(chosen(rng, info["action_mask"]))
    copies = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    before = env.state(3).live.copy()
    results = [[one.step(np.full(4, STOP))[0].tobytes() for _ in range(9)] for one in copies]
    assert np.array_equal(env.state(3).live, before)
    assert results[0] == results[1] == [env.step(np.full(4, STOP))[0].tobytes() for _ in range(9)]
    env.close()


def test_each_cache_is_drawn_and_asked_as_it_stands():
    env = EvictionVectorEnv(2, "medium", render_mode="ansi")
    env.reset(seed=1)
    env.step([STOP, STOP])
    alone = EvictionEnv("medium", render_mode="ansi")
    alone.reset(seed=2)
    alone.step(STOP)
    assert env.render()[1] == alone.render()
    assert env.get_attr("episode_seed") == (1, 2)
    assert np.array_equal(env.call("action_masks")[1], alone.action_masks())
    assert env.call("log")[1] == alone.log == [[["keep"]]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda env: env.step(np.full(3, STOP)), "actions have shape .*; give 2 whole numbers from 0 to 96"),
        (lambda env: env.step([STOP, 97]), "action is 97; give a whole number from 0 to 96"),
        (lambda env: env.step([STOP, np.nan]), "action is nan"),
        (lambda env: env.reset(seed=[1]), "1 seeds for 2 caches; give one number, or one for each"),
        (lambda env: env.reset(options={"reset_mask": [1, 0]}), "True for the caches to reset"),
        (lambda env: env.reset(options={"scenario": "x"}), "unknown scenario of the train set, hard"),
        (lambda env: env.set_attr("scenario", "x"), "scenario is 'x'; give a sim.eviction.Scenario, such as"),
        (lambda env: env.set_attr("playing", None), "playing is the same for all caches and fixed"),
        (lambda env: env.call("reset"), "reset cannot be called for single caches; reset the batch"),
        (lambda env: EvictionVectorEnv(0), "num_envs is 0; give a whole number from 1"),
        (lambda env: EvictionVectorEnv(2, "extreme"), "unknown difficulty 'extreme'"),
        (lambda env: EvictionVectorEnv(2, autoreset_mode="later"), "autoreset_mode is 'later'; use one of"),
    ],
)
def test_bad_requests_are_refused_and_change_nothing(call, words):
    env = EvictionVectorEnv(2, "hard")
    with pytest.raises(DecisionError, match=r"call reset\(\) first"):
        env.step([STOP, STOP])
    env.reset(seed=3)
    before = [env.state(k).live.copy() for k in range(2)]
    with pytest.raises(Refused, match=words):
        call(env)
    assert all(np.array_equal(env.state(k).live, before[k]) for k in range(2))
    assert isinstance(env.get_attr("playing")[0], Scenario)


def test_the_batch_does_what_sb3s_own_vector_environment_does():
    pytest.importorskip("stable_baselines3")
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
    from stable_baselines3.common.env_util import make_vec_env

    from kv_cache_rl.gym.sb3 import EvictionVecEnv, ServingVecEnv

    ours, theirs = EvictionVecEnv(ID, 3), make_vec_env(ID, n_envs=3)
    assert is_masking_supported(ours)
    for env in (ours, theirs):
        env.seed(11)
    assert np.array_equal(ours.reset(), theirs.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(80):
        masks = get_action_masks(ours)
        assert np.array_equal(masks, get_action_masks(theirs))
        actions = chosen(rng, masks)
        *seen, infos = ours.step(actions)
        *expected, others = theirs.step(actions)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(seen, expected, strict=True))
        for k, (info, other) in enumerate(zip(infos, others, strict=True)):
            assert np.array_equal(info["action_mask"], other["action_mask"])
            assert (info["window"], info["failures"]) == (other["window"], other["failures"])
            if seen[2][k]:
                ends += 1
                assert set(info) == set(other) and info["score"] == other["score"]
                assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
                assert info["report"] == other["report"]
    assert ends > 3
    with pytest.raises(
        Refused, match="EvictionVectorEnv is not the compiled batch; give an id, such as 'KVS"
    ):
        ServingVecEnv(ID)
    known = load_scenarios("hard", "train", 1)[0].id
    ours.set_options({"scenario": known})
    ours.reset()
    assert {one.id for one in ours.get_attr("playing")} == {known}


def test_the_example_trains_and_plays_scenarios_that_it_has_not_seen(tmp_path):
    pytest.importorskip("sb3_contrib")
    example = ROOT / "examples" / "train_eviction_with_sb3.py"
    words = ("--steps", "256", "--caches", "2", "--difficulty", "easy", "--games", "2", "--out", tmp_path)
    said = execute(ROOT, example, *words).splitlines()
    assert (
        said[-1].startswith("score on 2 scenarios of the eval set: ") and (tmp_path / "masked.zip").exists()
    )
