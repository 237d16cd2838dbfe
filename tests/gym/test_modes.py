"""The batch as Gymnasium 1.x defines one: autoreset modes, partial resets, single servers asked."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import kv_cache_rl.gym  # noqa: F401
from kv_cache_rl.gym import ServingEnv, ServingVectorEnv
from kv_cache_rl.sim.serving.spec import ServingError, task

ID = "KVServing-hard-v0"
MODES = list(AutoresetMode)


def chosen(rng, env):
    return np.array([rng.choice(np.flatnonzero(mask)) for mask in env.action_masks()])


@pytest.mark.parametrize("limit", [None, 17])
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_in_every_mode_it_does_what_gymnasium_does_with_single_servers(mode, limit):
    settings = {"ticks": 40, "observation": "rich"}
    ours = gymnasium.make_vec(ID, num_envs=5, autoreset_mode=mode, max_episode_steps=limit, **settings)
    single = {} if limit is None else {"max_episode_steps": limit}
    theirs = SyncVectorEnv([lambda: gymnasium.make(ID, **single, **settings)] * 5, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is theirs.metadata["autoreset_mode"] is mode
    (a, _), (b, _) = ours.reset(seed=11), theirs.reset(seed=11)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(300):
        assert np.array_equal(a, b)
        actions = chosen(rng, ours)
        a, *three, info = ours.step(actions)
        b, *same, expected = theirs.step(actions)
        assert all(np.array_equal(x, y) for x, y in zip(three, same, strict=True))
        assert set(info) | {"_action_mask"} == set(expected)
        over = three[1] | three[2]
        ends += int(over.sum())
        for k in np.flatnonzero(over):
            if mode is AutoresetMode.SAME_STEP:
                assert np.array_equal(info["final_obs"][k], expected["final_obs"][k])
                mine, wanted = info["final_info"], expected["final_info"]
                assert set(mine) == set(wanted)
                assert np.array_equal(mine["action_mask"][k], wanted["action_mask"][k])
                assert "score" not in mine or mine["score"][k] == wanted["score"][k]
            elif "score" in info:
                assert info["score"][k] == expected["score"][k]
        if mode is AutoresetMode.DISABLED and over.any():
            for_each = [{"options": {"reset_mask": over.copy()}} for _ in range(2)]
            (a, _), (b, _) = ours.reset(**for_each[0]), theirs.reset(**for_each[1])
    assert ends > 10, "no end was compared"


def test_without_autoreset_a_server_that_is_over_waits_for_its_reset():
    env = ServingVectorEnv(3, "easy", autoreset_mode="Disabled", ticks=9)
    env.reset(seed=0)
    over = np.zeros(3, bool)
    while not over.any():
        *_, terminated, truncated, _ = env.step(np.full(3, 17))
        over = terminated | truncated
    with pytest.raises(
        ServingError, match=r"the episode of server \d is over; reset it first, with options="
    ):
        env.step(np.full(3, 17))
    env.reset(options={"reset_mask": over})
    env.step(np.full(3, 17))


@pytest.mark.parametrize("given", ["SameStep", "SAME_STEP", AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("how", ["settings", "vector_kwargs"])
@pytest.mark.parametrize("vectorized", [None, "vector_entry_point"])
def test_a_mode_is_given_as_a_setting_or_as_to_gymnasiums_own_vector_environments(given, how, vectorized):
    words = {"autoreset_mode": given}
    kwargs = words if how == "settings" else {"vector_kwargs": words}
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=vectorized, ticks=9, **kwargs)
    assert isinstance(env, ServingVectorEnv) and env.autoreset_mode is AutoresetMode.SAME_STEP
    again = gymnasium.make_vec(env.spec)
    assert again.num_envs == 2 and again.autoreset_mode is AutoresetMode.SAME_STEP
    usual = gymnasium.make_vec(ID, num_envs=2, ticks=9)
    assert usual.autoreset_mode is AutoresetMode.NEXT_STEP, "a mode belongs to one batch"


def test_vector_kwargs_still_reach_gymnasiums_own_vector_environments():
    words = {"autoreset_mode": AutoresetMode.SAME_STEP}
    env = gymnasium.make_vec(ID, num_envs=2, vectorization_mode="sync", vector_kwargs=words, ticks=9)
    assert isinstance(env, SyncVectorEnv) and env.autoreset_mode is AutoresetMode.SAME_STEP


def test_an_unknown_mode_is_refused():
    with pytest.raises(ServingError, match="autoreset_mode is 'later'; use one of 'NextStep', 'SameStep'"):
        ServingVectorEnv(2, autoreset_mode="later")


def test_a_mask_resets_some_servers_and_leaves_the_others_as_they_are():
    env, alone = ServingVectorEnv(4, "hard", ticks=100), ServingEnv("hard", ticks=100)
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    for _ in range(30):
        env.step(chosen(rng, env))
    before = [env.state(k).copy() for k in range(4)]
    options = {"reset_mask": np.array([True, False, False, True]), "settings": {"rho": 0.4}}
    seen, info = env.reset(seed=[70, 71, 72, 73], options=options)
    first, _ = alone.reset(seed=73, options={"settings": {"rho": 0.4}})
    assert np.array_equal(seen[3], first) and list(options) == ["reset_mask", "settings"]
    assert env.episode_seeds.tolist() == [70, 4, 5, 73]
    for k in (1, 2):
        assert np.array_equal(env.state(k).live, before[k].live)
        assert np.array_equal(info["action_mask"][k], env.action_masks()[k])
    assert env.state(3).scenario.rho == 0.4 and env.state(1).scenario.rho == 1.0


@pytest.mark.parametrize(
    "mask",
    [np.array([True]), np.array([1, 0]), [[True], [True, False]], "all", np.zeros((2, 1), bool), True],
    ids=str,
)
def test_what_is_no_mask_is_refused_and_changes_nothing(mask):
    env = ServingVectorEnv(2, "easy", ticks=9)
    env.reset(seed=3)
    with pytest.raises(ServingError, match="give a bool array of length 2, True for the servers to reset"):
        env.reset(seed=8, options={"reset_mask": mask})
    assert env.episode_seeds.tolist() == [3, 4]


def test_a_mask_of_no_server_or_before_the_first_reset_is_refused():
    env = ServingVectorEnv(2, "easy", ticks=9)
    with pytest.raises(ServingError, match="server 0 has not begun; reset all servers first"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    with pytest.raises(ServingError, match="reset_mask names no server"):
        env.reset(options={"reset_mask": np.zeros(2, bool)})


def test_single_servers_are_asked_as_gymnasiums_vector_environments_are():
    env = ServingVectorEnv(3, "hard", "rich", ticks=100)
    theirs = SyncVectorEnv([lambda: ServingEnv("hard", "rich", ticks=100)] * 3)
    for one in (env, theirs):
        one.reset(seed=5)
        one.step(np.full(3, 17))
    assert np.array_equal(env.call("action_masks"), theirs.call("action_masks"))
    for name in ("task", "observation", "scenario", "episode_seed", "np_random_seed", "render_mode"):
        assert env.get_attr(name) == theirs.get_attr(name)
    assert env.np_random_seed == theirs.np_random_seed == (5, 6, 7)
    assert [a.random() for a in env.np_random] == [a.random() for a in theirs.np_random]
    seen = [state.live.tobytes() for state in env.get_attr("state")]
    assert seen == [state.live.tobytes() for state in theirs.get_attr("state")]
    with pytest.raises(AttributeError, match="colour"):
        env.get_attr("colour")


@pytest.mark.parametrize("name", ["reset", "step", "resume", "close", "set_wrapper_attr"])
def test_what_only_the_whole_batch_can_do_is_not_called_for_single_servers(name):
    env = ServingVectorEnv(2, "easy", ticks=9)
    with pytest.raises(ServingError, match=f"{name} cannot be called for single servers; "):
        env.call(name)


def test_each_server_can_have_a_scenario_of_its_own_from_its_next_episode_on():
    env = ServingVectorEnv(2, "easy", ticks=9)
    env.reset(seed=0)
    env.set_attr("scenario", [task("easy", ticks=9, rho=0.1), task("easy", ticks=4, rho=0.6)])
    assert [state.scenario.rho for state in env.get_attr("state")] == [0.35, 0.35]
    lengths, last = [[], []], np.zeros(2, int)
    for step in range(120):
        *_, terminated, truncated, _ = env.step(np.full(2, 17))
        for k in np.flatnonzero(terminated | truncated):
            lengths[k].append(step - last[k])
            last[k] = step
    assert [state.scenario.rho for state in env.get_attr("state")] == [0.1, 0.6]
    alone = ServingEnv("easy", ticks=4, rho=0.6)
    env.reset(seed=40)
    alone.reset(seed=41)
    assert env.state(1).load.table.tobytes() == alone.state.load.table.tobytes()


def test_an_attribute_of_ones_own_is_kept_and_a_fixed_one_refused():
    env = ServingVectorEnv(2, "easy", ticks=9)
    env.set_attr("level", [1, 2])
    env.set_attr("phase", "warm")
    assert env.get_attr("level") == (1, 2) and env.get_attr("phase") == ("warm", "warm")
    for name in ("task", "state", "action_masks", "observation_space"):
        with pytest.raises(ServingError, match=f"{name} is the same for all servers and fixed"):
            env.set_attr(name, None)
    with pytest.raises(ServingError, match="3 values for 2 servers; give one for all, or a list of 2"):
        env.set_attr("level", [1, 2, 3])
    with pytest.raises(ServingError, match="scenario is 'hard'; give a sim"):
        env.set_attr("scenario", "hard")


def test_wrappers_of_gymnasium_count_episodes_alike_in_every_mode():
    counted = {}
    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        env = ServingVectorEnv(2, "hard", autoreset_mode=mode, ticks=30)
        env = gymnasium.wrappers.vector.RecordEpisodeStatistics(env)
        env.reset(seed=5)
        found = counted[mode] = []
        while len(found) < 4:
            *_, terminated, truncated, info = env.step(np.full(2, 17))
            info = info.get("final_info", {}) if "episode" not in info else info
            for k in np.flatnonzero(terminated | truncated):
                found.append((float(info["episode"]["r"][k]), int(info["episode"]["l"][k])))
    assert counted[AutoresetMode.NEXT_STEP] == counted[AutoresetMode.SAME_STEP]


def test_actions_of_a_batch_are_sampled_with_its_masks():
    env = ServingVectorEnv(3, "easy", ticks=9)
    _, info = env.reset(seed=0)
    for masks in (env.action_masks(), info["action_mask"], tuple(info["action_mask"])):
        actions = env.action_space.sample(mask=masks)
        assert all(mask[action] for mask, action in zip(masks, actions, strict=True))
    assert env.action_space == gymnasium.spaces.MultiDiscrete([18] * 3)
