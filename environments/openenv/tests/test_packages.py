"""The packages on disk: their manifests, what they ship, and what a Space is made of."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.adapters.openenv.plays import WORLDS

FOLDER = Path(__file__).resolve().parents[1]
PACKAGES = [FOLDER.parent / name for name in WORLDS]


def module(name: str):
    """A script of this folder, imported."""
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found and found.loader
    loaded = importlib.util.module_from_spec(found)
    found.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_manifest_says_what_the_grader_holds_the_server_to(package: Path):
    manifest = yaml.safe_load((package / "openenv.yaml").read_text())
    told, world = manifest["validation"], WORLDS[package.name]
    counts = {split: len(world.tasks.ids(split)) for split in world.tasks.splits}
    assert manifest["name"] == package.name and tuple(told["reward"]["range"]) == world.reward
    assert told["capabilities"]["declared_task_count"] == counts
    for part in (told["capabilities"]["canaries"], told["capabilities"]["oracle"]["location"]):
        assert (package / part).is_file()
    for part in (told["execution"]["probe_path"], told["execution"]["dockerfile"]):
        assert (package / part).is_file()
    if "eviction" in package.name:
        assert told["task_distribution"]["dataset_version"] == ENVIRONMENT_VERSION


def test_the_committed_canaries_and_probes_are_what_the_project_plays():
    for path, text in module("probes").files().items():
        assert path.read_text() == text, f"{path} differs; run python environments/openenv/probes.py"


def test_the_port_is_the_same_in_the_manifest_the_container_and_the_readme():
    for package in PACKAGES:
        port = yaml.safe_load((package / "openenv.yaml").read_text())["port"]
        front = yaml.safe_load((package / "README.md").read_text().split("---")[1])
        assert (front["app_port"], front["sdk"]) == (port, "docker")
        docker = (package / "server" / "Dockerfile").read_text()
        assert f"EXPOSE {port}" in docker and f'"--port", "{port}"' in docker


def test_both_containers_are_made_alike():
    one, other = ((package / "server" / "Dockerfile").read_text() for package in PACKAGES)
    assert one == other


def test_a_staged_package_holds_what_its_dockerfile_installs(tmp_path: Path):
    staged = module("stage").stage(tmp_path / "staged")
    assert [path.name for path in staged] == list(WORLDS) and not list(tmp_path.rglob("uv.lock"))
    wheels = {next((path / "wheels").iterdir()).read_bytes() for path in staged}
    assert len(wheels) == 1
    package, wheel = staged[0], next((staged[0] / "wheels").iterdir())
    names = zipfile.ZipFile(wheel).namelist()
    assert {"kv_cache_rl/scenarios/train/hard.jsonl", "kv_cache_rl/adapters/openenv/serving.py"} < set(names)
    alone = tmp_path / "alone"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", alone, wheel, package]
    subprocess.run(pip, check=True, capture_output=True)
    code = f"import sys; sys.path.insert(0, {str(alone)!r}); import kv_cache_rl, {package.name} as found\n"
    code += "print(kv_cache_rl.__file__, found.KvCacheEvictionEnv.__module__, found.__file__)"
    said = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert said.count(str(alone)) == 2
