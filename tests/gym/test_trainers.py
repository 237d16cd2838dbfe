"""Stable-Baselines3 and sb3-contrib train on it as it is: by id, one by one, and on the compiled batch."""

import json
import warnings

import gymnasium
import numpy as np
import pytest
from editing import ROOT, execute
from typer.testing import CliRunner

import kv_cache_rl.gym  # noqa: F401
from kv_cache_rl.cli import app
from kv_cache_rl.sim.serving.spec import ServingError, task

pytest.importorskip("stable_baselines3", reason="the extra `serving` with Stable-Baselines3 is not installed")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

from kv_cache_rl.gym.sb3 import ServingVecEnv

TINY = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
HARD = "KVServing-hard-v0"


def parameters(model):
    return [parameter.detach().clone() for parameter in model.policy.parameters()]


def changed(model, before):
    return any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))


@pytest.mark.parametrize("observation", ["plain", "rich"])
def test_a_short_ppo_run_trains(observation):
    model = PPO("MlpPolicy", gymnasium.make("KVServing-medium-v0", observation=observation, ticks=60), **TINY)
    before = parameters(model)
    model.learn(128)
    assert changed(model, before)


def test_a_short_masked_ppo_run_trains_and_never_takes_a_refused_action():
    taken = []

    class Watched(gymnasium.Wrapper):
        def step(self, action):
            taken.append(bool(self.unwrapped.action_masks()[action]))
            return super().step(action)

        def action_masks(self) -> np.ndarray:
            return self.unwrapped.action_masks()

    envs = DummyVecEnv([lambda: Watched(gymnasium.make(HARD, ticks=60))] * 2)
    MaskablePPO("MlpPolicy", envs, **TINY).learn(256)
    assert len(taken) >= 256
    assert all(taken)


@pytest.mark.parametrize("algorithm", [PPO, MaskablePPO], ids=lambda one: one.__name__)
def test_environments_that_sb3_makes_by_id_train_without_a_warning(algorithm):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_vec_env(HARD, n_envs=2, seed=3, env_kwargs={"ticks": 60})
        assert env.render_mode == "rgb_array"
        algorithm("MlpPolicy", env, **TINY).learn(128)
        assert env.render().shape[2] == 3


def test_an_id_is_enough_for_an_algorithm():
    PPO("MlpPolicy", HARD, **TINY)


@pytest.mark.parametrize("settings", [{"ticks": 40}, {"ticks": 400, "max_episode_steps": 23}], ids=str)
def test_the_batch_does_what_sb3s_own_vector_environment_does(settings):
    ours = ServingVecEnv(HARD, 4, observation="rich", **settings)
    theirs = make_vec_env(HARD, n_envs=4, env_kwargs={"observation": "rich", **settings})
    for env in (ours, theirs):
        env.seed(11)
    assert np.array_equal(ours.reset(), theirs.reset())
    rng, ends = np.random.default_rng(0), 0
    for _ in range(250):
        masks = get_action_masks(ours)
        assert np.array_equal(masks, get_action_masks(theirs))
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        *seen, infos = ours.step(actions)
        *expected, others = theirs.step(actions)
        assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(seen, expected, strict=True))
        for k, (info, other) in enumerate(zip(infos, others, strict=True)):
            assert np.array_equal(info["action_mask"], other["action_mask"])
            assert info.get("TimeLimit.truncated", False) == other["TimeLimit.truncated"]
            if seen[2][k]:
                ends += 1
                assert set(info) == set(other)
                assert np.array_equal(info["terminal_observation"], other["terminal_observation"])
                assert info["episode"]["r"] == pytest.approx(other["episode"]["r"], abs=1e-5)
                assert info["episode"]["l"] == other["episode"]["l"]
                assert info.get("report", {}).get("score") == other.get("report", {}).get("score")
                assert np.array_equal(
                    ours.reset_infos[k]["action_mask"], theirs.reset_infos[k]["action_mask"]
                )
    assert ends > 10


@pytest.mark.parametrize("algorithm", [PPO, A2C, DQN, MaskablePPO], ids=lambda one: one.__name__)
def test_an_algorithm_trains_on_the_compiled_batch_in_one_line(algorithm):
    words = TINY if algorithm in (PPO, MaskablePPO) else {"seed": 0, "device": "cpu"}
    words = words | ({"learning_starts": 20} if algorithm is DQN else {})
    model = algorithm("MlpPolicy", ServingVecEnv("KVServing-medium-v0", 4, ticks=8), **words)
    before = parameters(model)
    model.learn(512)
    assert changed(model, before)
    assert len(model.ep_info_buffer) > 0, "returns of episodes are recorded without a Monitor"


def test_a_batch_that_is_there_already_is_taken_and_masked_actions_are_never_refused():
    batch = gymnasium.make_vec(HARD, num_envs=3, ticks=60)
    env, step, taken = ServingVecEnv(batch), batch.step, []

    def watched(actions):
        taken.extend(batch.action_masks()[np.arange(3), actions])
        return step(actions)

    batch.step = watched
    assert is_masking_supported(env)
    MaskablePPO("MlpPolicy", env, **TINY).learn(192)
    assert len(taken) >= 192 and all(taken)


def test_it_is_evaluated_and_wrapped_as_any_vector_environment_of_sb3():
    env = VecFrameStack(VecNormalize(ServingVecEnv(HARD, 2, ticks=30)), 3)
    model = PPO("MlpPolicy", env, **TINY).learn(128)
    assert env.observation_space.shape == (60,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_policy(PPO("MlpPolicy", HARD, **TINY), ServingVecEnv(HARD, 2, ticks=30), 3)
    assert np.isfinite(mean) and model.num_timesteps == 128
    counted = VecMonitor(ServingVecEnv(HARD, 2, ticks=5))
    counted.reset()
    while not (infos := [info for info in counted.step(np.full(2, 17))[3] if "episode" in info]):
        pass
    assert infos[0]["episode"]["l"] > 0


def test_servers_are_asked_and_changed_by_index():
    env = ServingVecEnv(HARD, 3, ticks=30)
    env.seed(5)
    env.set_options([{}, {"settings": {"rho": 0.4}}, {}])
    first = env.reset()
    assert [state.scenario.rho for state in env.get_attr("state")] == [1.0, 0.4, 1.0]
    assert env.get_attr("episode_seed", [0, 2]) == [5, 7] and env.env_method("render", indices=1) == [None]
    assert env.get_attr("action_masks")[0]().shape == (18,)
    alone = gymnasium.make(HARD, ticks=30)
    seen, _ = alone.reset(seed=6, options={"settings": {"rho": 0.4}})
    assert np.array_equal(first[1], seen)
    env.set_attr("scenario", task("hard", ticks=30, rho=0.2), indices=[2])
    env.seed(9)
    env.reset()
    assert [state.scenario.rho for state in env.get_attr("state")] == [1.0, 1.0, 0.2]
    assert not env.has_attr("colour")
    with pytest.raises(ServingError, match="reset cannot be called for single servers; reset the batch"):
        env.env_method("reset")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("KVServing-hard-v0", 0), "num_envs is 0"),
        (
            (gymnasium.make_vec("CartPole-v1", num_envs=2),),
            "CartPoleVectorEnv is not the compiled batch; give an id",
        ),
        ((None,), "NoneType is not the compiled batch"),
        ((gymnasium.make_vec(HARD, num_envs=2), 3), "a batch has its servers and settings already"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_batch_is_refused(arguments, words):
    with pytest.raises(ServingError, match=words):
        ServingVecEnv(*arguments)


def test_the_example_trains_and_what_it_learned_is_evaluated_beside_lru(tmp_path, monkeypatch):
    example = ROOT / "examples" / "train_with_sb3.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SB3_MODEL", "masked.zip")
    command = ["serving", "evaluate", "--agent", "lru", "--agent", f"{example}:Learned", "--task", "easy"]
    command += ["--seeds", "2", "--ticks", "9", "--workers", "2", "--json"]
    for task_name, kept in (("easy", 4), ("medium", 6)):
        words = ("--steps", "64", "--servers", "2", "--ticks", "4", "--task", task_name, "--out", tmp_path)
        said = execute(ROOT, example, *words)
        assert [line.split(":")[0] for line in said.splitlines()] == ["plain", "masked"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.stderr
        rows = json.loads(result.stdout)["episodes"]
        assert len(rows) == 4 and all(row["error"] is None for row in rows)
        saved = (tmp_path / "runs/serving/evaluate/rows.jsonl").read_text().splitlines()
        assert len(saved) == kept, "weights that were trained anew are asked anew"
