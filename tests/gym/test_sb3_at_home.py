"""What users of Stable-Baselines3 have at home: callbacks, the Zoo's files, the script that beats lru."""

import importlib
import json
import sys

import numpy as np
import pytest
from editing import ROOT, execute
from typer.testing import CliRunner

from kv_cache_rl.cli import app

pytest.importorskip("stable_baselines3", reason="the extra `serving` with Stable-Baselines3 is not installed")

from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3 import DQN, PPO

from kv_cache_rl.gym import IDS
from kv_cache_rl.gym.sb3 import ServingVecEnv

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; datasets brings it")
ZOO = ROOT / "examples" / "rl_zoo"
ALGORITHMS = {"ppo": PPO, "maskable_ppo": MaskablePPO, "dqn": DQN}
SMALL = {"n_steps": 16, "batch_size": 32, "learning_starts": 16, "buffer_size": 200}


def test_the_masked_evaluation_callback_takes_the_batch(tmp_path, monkeypatch):
    # What SB3 saves names the version of the old gym, for which it would take the folder of these tests.
    monkeypatch.setitem(sys.modules, "gym", None)
    servers = ServingVecEnv("KVServing-hard-v0", 4, ticks=20)
    judged = ServingVecEnv("KVServing-hard-v0", 2, ticks=5)
    watch = MaskableEvalCallback(
        judged,
        n_eval_episodes=3,
        eval_freq=16,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    model = MaskablePPO("MlpPolicy", servers, n_steps=16, batch_size=64, seed=0, device="cpu")
    model.learn(128, callback=watch)
    found = np.load(tmp_path / "evaluations.npz")["results"]
    assert found.shape == (2, 3) and np.isfinite(found).all() and (tmp_path / "best_model.zip").exists()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_hyper_parameter_file_of_the_zoo_holds_every_task_and_trains(name):
    found = yaml.safe_load((ZOO / f"{name}.yml").read_text())
    assert set(found) == {"defaults", *IDS}
    for task in IDS:
        words = dict(found[task])
        count, steps, policy = int(words.pop("n_envs")), words.pop("n_timesteps"), words.pop("policy")
        assert count > 0 and steps >= 1e6
        # As the Zoo reads them.
        words["policy_kwargs"] = eval(words["policy_kwargs"])
        rate = words["learning_rate"]
        words["learning_rate"] = float(rate.removeprefix("lin_")) if isinstance(rate, str) else rate
        assert 0 < words["learning_rate"] < 0.01
        words |= {key: small for key, small in SMALL.items() if key in words}
        servers = ServingVecEnv(task, 4, observation="rich", ticks=8)
        model = ALGORITHMS[name](policy, servers, seed=0, device="cpu", **words)
        assert model.learn(128).num_timesteps >= 128


def test_the_script_that_beats_lru_runs_and_what_it_made_is_an_agent(tmp_path, monkeypatch):
    example = ROOT / "examples" / "learn_to_serve.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SB3_MODEL", "masked.zip")
    words = ("--decisions", "400", "--rounds", "2", "--servers", "4", "--ticks", "30", "--ppo", "1024")
    said = execute(ROOT, example, *words, "--out", tmp_path).splitlines()
    assert [line.partition(":")[0] for line in said[:2]] == ["round 1 of 2", "round 2 of 2"]
    command = ["serving", "evaluate", "--agent", "lru", "--agent", f"{example}:Learned", "--task", "medium"]
    done = CliRunner().invoke(app, [*command, "--seeds", "2", "--ticks", "20", "--workers", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    assert all(row["error"] is None for row in json.loads(done.stdout)["episodes"])


def test_imitation_learns_what_the_teacher_does(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    recipe = importlib.import_module("learn_to_serve")
    servers = ServingVecEnv("KVServing-medium-v0", 8, observation="rich", ticks=300)
    servers.seed(10_000)
    student = MaskablePPO("MlpPolicy", servers, n_steps=16, batch_size=64, seed=0, device="cpu")
    rng = np.random.default_rng(1)
    views, masks, told = recipe.watched(servers, "watermark_90", student, 1.0, 2_000, rng)

    def agreement():
        own, _ = student.predict(views, action_masks=masks, deterministic=True)
        return (own == told).mean()

    before = agreement()
    recipe.imitate(student, servers, rounds=2, decisions=2_000)
    assert agreement() > 0.9 > before + 0.1
