"""Runs the package against scripted models; every test here needs verifiers and the package itself."""

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "environments" / "kv_cache_eviction"
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(PACKAGE))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))

pytest.importorskip(
    "verifiers", reason="verifiers is not installed; `pip install -e environments/kv_cache_eviction`"
)

import verifiers.v1 as vf  # noqa: E402
from scripted_model import serving  # noqa: E402
from verifiers.v1.runtimes.subprocess import SubprocessRuntime  # noqa: E402

from kv_cache_rl.adapters import patience  # noqa: E402


def environment(harness: dict | None = None, agent: dict | None = None, **taskset) -> vf.Env:
    """The env as the command line would load it, with the full view, whose fields the scripts read."""
    taskset = {"view": "full", **taskset}
    seat = {**({"harness": harness} if harness else {}), **(agent or {})}
    config = {"taskset": {"id": "kv-cache-eviction", "num_examples": 1, **taskset}, "agent": seat}
    return vf.load_environment(vf.resolve_env_config(config))


def episodes(
    env: vf.Env, base_url: str, tasks: list[vf.Task] | None = None, model: str = "scripted", **sampling
) -> list[vf.Episode]:
    """Plays every task of the env once, all of them at the same time."""
    client = vf.EvalClientConfig(base_url=base_url, api_key_var="NO_KEY_NEEDED")
    context = vf.ModelContext(model=model, client=client, sampling=vf.Sampling(**sampling))

    async def run() -> list[vf.Episode]:
        chosen = list(env.taskset) if tasks is None else tasks
        async with env.serving():
            return await asyncio.gather(
                *(env.run_slot(slot, context) for task in chosen for slot in env.slots(task))
            )

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A server that fails for good is given up within a second instead of a minute."""
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.002)


@pytest.fixture
def play():
    """play(script, **options) → (trace, the requests the model got); options as for `environment`."""

    def play(script, **options):
        with serving(script) as model:
            [episode] = episodes(environment(**options), model.base_url)
        assert len(episode.traces) == 1, episode.errors
        return episode.traces[0], model.requests

    return play


@pytest.fixture
def null_harness(tmp_path, monkeypatch) -> dict:
    """The `null` harness of verifiers, whose program runs with this interpreter: a stand-in for `uv` says so,
    since the real one would fetch from a package index what is installed here already."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\ncase "$*" in *--help*) echo --script;; "python find"*) echo {sys.executable};; esac\n'
    )
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{uv.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(SubprocessRuntime, "_interpreters", {})
    monkeypatch.setattr(SubprocessRuntime, "scripts_dir", str(tmp_path / "scripts"))
    return {"id": "null"}
