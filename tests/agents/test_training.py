"""Training of the networks: what it repeats, where it goes on, what it refuses."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from kv_cache_rl.agents import networks
from kv_cache_rl.agents.checkpoint import CheckpointError
from kv_cache_rl.agents.training.course import LEARNERS, loaded, save, train
from kv_cache_rl.agents.training.demonstrator import CONTROLLER, demonstrated, memory_like
from kv_cache_rl.agents.training.imitation import states_of
from kv_cache_rl.agents.training.learner import TrainingError
from kv_cache_rl.agents.training.plan import USUAL, first_seed, planned, scenarios_of, seeds_of
from kv_cache_rl.agents.training.servers import CAN, Servers
from kv_cache_rl.cli import app
from kv_cache_rl.search.serving.rollout import episode, episode_of
from kv_cache_rl.sim.serving.actions import ADMIT, NOTHING
from kv_cache_rl.sim.serving.heuristics import NEURAL
from kv_cache_rl.sim.serving.network import INPUTS
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import task


def tiny(agent, **changes):
    """Three short rounds, of which the first imitates."""
    usual = USUAL[agent]
    small = (
        {"n_steps": 64, "batch_size": 64} if agent == "ppo" else {"learning_starts": 128, "batch_size": 32}
    )
    plan = replace(usual, rounds=3, imitated=1, decisions=512, tasks={"easy": 2}, select=1)
    return replace(plan, settings=usual.settings | small, **changes)


def flat(layers):
    return np.concatenate([layer.reshape(-1) for layer in layers.values()]).tobytes()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("agent", LEARNERS)
def test_a_training_repeats_and_goes_on_with_the_same_weights(agent, tmp_path):
    plan = tiny(agent)
    told, last, lines = [], {}, tmp_path / "a"

    def note(progress):
        last[len(progress.curve)] = flat(progress.arrays)

    whole, curve = train(plan, keep=note, tell=lambda *now: told.append(now))
    assert told[-1] == (1536, 1536) and sorted(told) == told and len(curve) == 3

    def until(progress):
        save(lines, plan, "code", progress)
        if len(progress.curve) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(plan, keep=until)
    again = {}
    layers, more = train(
        plan, loaded(lines, plan, "code"), keep=lambda p: again.setdefault(3, flat(p.arrays))
    )
    assert again[3] == last[3] and flat(layers) == flat(whole) and more == curve
    assert last[1] != last[2] != last[3], "a round changed nothing"
    other = train(replace(plan, seed=1))[0]
    assert flat(other) != flat(whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    from kv_cache_rl.agents.training.course import Progress

    plan = tiny("ppo")
    save(tmp_path / "a", plan, "code", Progress())
    assert loaded(tmp_path / "none", plan, "code") is None
    with pytest.raises(CheckpointError, match=r"other settings \(learning_rate"):
        loaded(tmp_path / "a", replace(plan, learning_rate=1.0), "code")
    with pytest.raises(CheckpointError, match="other code"):
        loaded(tmp_path / "a", plan, "other")
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cut off; delete it"):
        loaded(tmp_path / "a", plan, "code")


@pytest.mark.parametrize("agent", LEARNERS)
def test_a_gradient_that_is_no_number_is_named(agent, monkeypatch):
    plan = tiny(agent)
    learner = LEARNERS[agent](plan, None)
    learner.learn(0, lambda made: None)
    step = Servers.step_wait

    def broken(self):
        seen, rewards, over, infos = step(self)
        return seen, rewards * np.nan, over, infos

    monkeypatch.setattr(Servers, "step_wait", broken)
    with pytest.raises(TrainingError, match=r"no number any more; give a lower --learning-rate"):
        learner.learn(1, lambda made: None)


def test_no_training_sees_a_test_seed_and_rounds_begin_apart():
    for plan in (*USUAL.values(), planned("ppo", seed=41), planned("neural", rounds=999, seed=7)):
        begun = [first_seed(plan, k) for k in range(plan.rounds)]
        servers = sum(plan.tasks.values())
        assert min(begun) in SEEDS["train"] and max(begun) + servers - 1 in SEEDS["train"]
        assert seeds_of(plan)["select"][1] in SEEDS["select"]
        if plan.rounds * servers < len(SEEDS["train"]):
            assert len(set(begun)) == plan.rounds


def test_the_demonstrator_decides_as_it_does_in_its_own_episode():
    scenarios = [task("medium", ticks=400)]
    teacher = memory_like({})
    x = states_of(scenarios, 3, (CONTROLLER.which, teacher), 10**9, np.random.default_rng(0))
    labels = demonstrated(x, teacher)
    assert x.shape[1] == INPUTS and len(x) == len(labels)
    assert all(x[k, CAN][label] for k, label in enumerate(labels))
    # As often as the episode itself admits and lets ticks pass.
    ended = episode(scenarios[0], 3, "stability")
    admitted = int(np.isin(labels, (ADMIT, ADMIT + 1)).sum())
    assert admitted >= int((ended.columns.rows["found"] >= 0).sum())
    assert int((labels == NOTHING).sum()) <= int(ended.columns.book["ticks"])
    assert (demonstrated(x, memory_like({"base": 0.99})) != labels).any()


def test_servers_show_features_and_charge_for_waiting():
    plan = tiny("ppo")
    free, dear = (Servers(scenarios_of(plan), 5, waiting=cost) for cost in (0.0, 1.0))
    assert (free.reset() == dear.reset()).all()
    less = 0.0
    for _ in range(300):
        act = np.full(2, NOTHING)
        seen, reward, _, _ = free.step(act)
        other, charged, _, _ = dear.step(act)
        assert (seen == other).all() and (charged <= reward).all()
        less += float((reward - charged).sum())
    assert less > 100


def test_servers_that_have_served_begin_in_the_middle_and_repeat():
    from kv_cache_rl.sim.serving.network import LAYERS, memory_of_layers

    memory = memory_of_layers({name: np.zeros(shape) for name, shape in LAYERS.items()})
    begun = [
        Servers(scenarios_of(tiny("ppo")), 5, memory=memory, rng=np.random.default_rng(1)) for _ in range(2)
    ]
    seen = [one.reset() for one in begun]
    assert (seen[0] == seen[1]).all() and (begun[0].clocks > 0).all()


class TestCommand:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch, tmp_path):
        from kv_cache_rl.agents.training import plan

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(plan, "USUAL", {name: tiny(name) for name in plan.USUAL})

    def run(self, *words):
        return CliRunner().invoke(app, ["serving", "train", *words])

    def test_it_writes_weights_that_play_and_a_picture(self):
        said = self.run("--agent", "ppo", "--out", "made", "--plot", "curve.png", "--json")
        assert said.exit_code == 0, said.output
        found = json.loads(said.stdout)
        assert found["files"] == ["made/ppo.safetensors", "made/ppo.json", "curve.png"]
        assert os.path.getsize("curve.png") > 1000 and not os.path.exists("made/ppo.checkpoint")
        memory, about = networks.read_network(networks.Path("made/ppo.safetensors"), "ppo")
        assert about["training"] == found["training"] and len(found["curve"]) == 3
        words = ["--agent", "made/ppo.safetensors", "--task", "easy", "--seeds", "2", "--ticks", "60"]
        played = CliRunner().invoke(app, ["serving", "evaluate", *words, "--json"])
        assert {row["agent"] for row in json.loads(played.stdout)["episodes"]} == {"made/ppo.safetensors"}
        best = max(point["select"]["easy"] for point in found["curve"])
        assert report(episode_of(task("easy"), SEEDS["select"][0], NEURAL, memory)).score == best

    def test_an_interrupt_names_the_command_that_goes_on_and_it_ends_with_the_same_bytes(self, monkeypatch):
        from kv_cache_rl.agents.training import course

        assert self.run("--agent", "neural", "--out", "whole").exit_code == 0
        kept = course.save

        def until(path, plan, code, progress):
            if len(progress.curve) == 2:
                raise KeyboardInterrupt
            kept(path, plan, code, progress)

        monkeypatch.setattr(course, "save", until)
        stopped = self.run("--agent", "neural", "--out", "made")
        assert stopped.exit_code == 130
        assert "1 of 3 rounds are saved in made; go on with: kv-cache-rl" in stopped.stderr
        monkeypatch.setattr(course, "save", kept)
        said = self.run("--agent", "neural", "--out", "made")
        assert said.exit_code == 0
        assert said.stderr == "going on after round 1 of 3: made/neural.checkpoint\n"
        one, other = (networks.Path(f"{name}/neural.safetensors").read_bytes() for name in ("whole", "made"))
        assert one == other

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("--agent", "ppoo"), "unknown agent to train 'ppoo'; did you mean ppo?"),
            (
                ("--agent", "ppo", "--episodes", "3"),
                "--episodes is for qlearning, and ppo has none; leave it out",
            ),
            (
                ("--agent", "qlearning", "--rounds", "3"),
                "--rounds is for neural and ppo, and qlearning has none",
            ),
            (("--agent", "neural", "--learning-rate", "0"), "--learning-rate is 0.0; give a number above 0"),
            (
                ("--agent", "neural", "--learning-rate", "nan"),
                "--learning-rate is nan; give a number, or leave it out",
            ),
            (("--agent", "ppo", "--task", "hardd"), "unknown task 'hardd'; did you mean hard?"),
        ],
    )
    def test_what_cannot_be_trained_is_refused_with_the_remedy(self, words, said):
        found = self.run(*words)
        assert found.exit_code == 2 and said in found.stderr

    def test_without_the_trainer_it_says_what_to_install(self, monkeypatch):
        from kv_cache_rl import extras

        monkeypatch.setattr(extras, "find_spec", lambda name: None)
        found = self.run("--agent", "ppo")
        assert found.exit_code == 2 and "pip install 'kv-cache-rl[serving]'" in found.stderr
