"""What the package promises the Hub and its users, in its metadata, its configs and its README."""

import re
import tomllib
import zipfile

import kv_cache_eviction
import pytest
import verifiers.v1 as vf
from conftest import PACKAGE
from kv_cache_eviction.taskset import EvictionTasksetConfig
from prime_rl_schema import Run, merged
from pydantic import ValidationError
from verifiers.v1.configs.cli.eval import EvalConfig
from verifiers.v1.gepa import GEPAConfig

from kv_cache_rl.sim.eviction import METRICS, REWARDS, load_scenarios

PYPROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text())
README = (PACKAGE / "README.md").read_text()


def config(name: str) -> dict:
    return tomllib.loads((PACKAGE / "configs" / f"{name}.toml").read_text())


def first_column(after: str) -> list[str]:
    """The names in the first column of the tables under a heading of the README."""
    section = README.split(f"### {after}\n")[1].split("\n### ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_verifiers_is_pinned_to_the_version_the_hub_reads_as_v1():
    assert "verifiers>=0.4.0,<0.5" in PYPROJECT["project"]["dependencies"]
    assert "kv-cache-rl[eval]" in PYPROJECT["project"]["dependencies"]
    assert {"eval", "train", "tool-use"} <= set(PYPROJECT["project"]["tags"])
    assert set(PYPROJECT["tool"]["verifiers"]["eval"]) == {"num_examples", "rollouts_per_example"}


def test_verifiers_finds_one_taskset_one_env_and_one_harness():
    assert vf.environment_class("kv-cache-eviction") is kv_cache_eviction.EvictionEnv
    assert vf.environment_class("owner/kv-cache-eviction@0.1.0") is kv_cache_eviction.EvictionEnv
    assert vf.default_harness_id("kv-cache-eviction") == "kv-cache-eviction"
    assert vf.task_type("kv-cache-eviction").__name__ == "EvictionTask"
    assert all(hasattr(kv_cache_eviction, name) for name in kv_cache_eviction.__all__)


def test_by_default_nothing_leaves_this_machine():
    env = vf.resolve_env_config({"taskset": {"id": "kv-cache-eviction"}})
    assert isinstance(env.agent.runtime, vf.SubprocessConfig)
    assert env.agent_harnesses()["agent"].id == "kv-cache-eviction"


def test_a_knob_of_the_default_harness_needs_no_id_and_another_harness_takes_none_of_them():
    def seat(**harness) -> vf.HarnessConfig:
        return vf.resolve_env_config(
            {"taskset": {"id": "kv-cache-eviction"}, "agent": {"harness": harness}}
        ).agent.harness

    assert seat(max_retries=7).max_retries == 7
    assert seat(id="null").model_dump(exclude_unset=True) == {"id": "null"}


@pytest.mark.parametrize("name", ["hosted", "local"])
def test_the_eval_configs_are_valid(name):
    loaded = EvalConfig.model_validate(config(name))
    assert loaded.env.taskset.id == "kv-cache-eviction" and loaded.client.timeout.read


def test_the_gepa_config_is_valid_and_shows_the_diagnosis():
    loaded = GEPAConfig.model_validate(config("gepa"))
    assert loaded.reflection_columns == ["diagnosis"]
    taskset = loaded.env.taskset
    assert (taskset.split, taskset.view, taskset.reward_profile) == ("train", "brief", "normalized")
    assert loaded.num_train + loaded.num_val <= len(load_scenarios(split="train"))


STAGES = ("easy", "medium", "hard")


def test_every_config_is_one_that_a_test_loads():
    known = {"hosted", "local", "gepa", "prime-rl", *(f"prime-rl-{stage}" for stage in STAGES)}
    assert {path.stem for path in (PACKAGE / "configs").iterdir()} == known


def test_the_training_sources_are_valid_and_train_on_the_normalised_score():
    orchestrator = Run.model_validate(config("prime-rl")).orchestrator
    [train], [evaluation] = orchestrator.train.source, orchestrator.eval.source
    learned, measured = train.resolved.taskset, evaluation.resolved.taskset
    assert (learned.reward_profile, learned.split, learned.view) == ("normalized", "train", "brief")
    assert (measured.reward_profile, measured.split, measured.view) == ("original", "eval", "brief")
    assert train.sampler.type == "difficulty_pool"
    assert max(pool.threshold for pool in train.sampler.pools.values()) == 1.0, "the best known"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_the_curriculum_goes_on_with_the_same_run(stage):
    below, above = config("prime-rl"), config(f"prime-rl-{stage}")
    whole, first = Run.model_validate(merged(below, above)), Run.model_validate(below)
    [source], [usual] = whole.orchestrator.train.source, first.orchestrator.train.source
    assert source.resolved.taskset.difficulty == stage
    assert source.name == usual.name, "a checkpoint knows its sources by name"
    same = usual.resolved.taskset.model_copy(update={"difficulty": stage})
    assert source.resolved.taskset == same
    assert whole.run == first.run and whole.model == first.model
    assert whole.max_steps <= first.max_steps and whole.max_steps % whole.ckpt.interval == 0


def test_a_later_stage_has_more_steps():
    steps = [config(f"prime-rl-{stage}")["max_steps"] for stage in STAGES]
    assert steps == sorted(set(steps)) and steps[-1] == config("prime-rl")["max_steps"]


def test_a_field_that_prime_rl_does_not_know_is_found():
    wrong = merged(config("prime-rl"), {"orchestrator": {"group_size": 8}})
    with pytest.raises(ValidationError, match=r"orchestrator\.group_size"):
        Run.model_validate(wrong)


def test_the_readme_lists_every_argument_reward_and_metric_in_order():
    own = [name for name in EvictionTasksetConfig.model_fields if name not in vf.TasksetConfig.model_fields]
    assert first_column("Environment arguments") == own
    assert [name for name in first_column("Rewards and metrics") if name in REWARDS] == list(REWARDS)
    assert set(METRICS) <= set(first_column("Rewards and metrics"))
    for name, weight in REWARDS.items():
        assert f"| `{name}` | {weight:.2f} |" in README


def test_the_staged_copy_needs_no_core_package_and_holds_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    import hub

    staged = hub.stage(tmp_path / "staged")
    project = tomllib.loads((staged / "pyproject.toml").read_text())
    assert not any(line.startswith("kv-cache-rl") for line in project["project"]["dependencies"])
    assert any(line.startswith("numba") for line in project["project"]["dependencies"])
    assert project["project"]["tags"] == PYPROJECT["project"]["tags"]
    with zipfile.ZipFile(hub.wheel_of(staged, tmp_path)) as wheel:
        names = set(wheel.namelist())
    assert {
        "kv_cache_eviction/task.py",
        "kv_cache_rl/sim/eviction/episode.py",
        "kv_cache_rl/scenarios/eval/hard.jsonl",
    } <= names


def test_a_pyproject_that_hub_does_not_know_is_refused(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    import hub

    with pytest.raises(SystemExit, match="not once"):
        hub.standalone("[project]\n", ["numpy"])
