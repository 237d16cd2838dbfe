"""Stages the environment for the Hub as one package with the simulator inside; proves that it works alone.

    python environments/kv_cache_eviction/hub.py            # stage, build, install alone, evaluate there
    python environments/kv_cache_eviction/hub.py --stage-only && prime env push --path dist/hub

The proof installs the staged wheel and nothing else into a new virtual environment (its
dependencies come from pip's index), serves a policy of the project as a chat model there, and
evaluates it with `vf-eval`."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parents[1]

EVALUATE = """
import subprocess, sys
import kv_cache_rl
from kv_cache_rl.adapters.endpoint import serving

print("kv_cache_rl is", kv_cache_rl.__file__, flush=True)
with serving(sys.argv[1], process=True) as base_url:
    sys.exit(subprocess.call([*sys.argv[2:], "--client.base-url", base_url, "--model", sys.argv[1]]))
"""


def run(*command: object, **options) -> None:
    """Runs a command. Raises SystemExit with its last words if it fails."""
    line = [str(word) for word in command]
    done = subprocess.run(line, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(
            f"failed ({done.returncode}): {' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )


def wheel_of(project: Path, where: Path) -> Path:
    """The wheel built from a project folder."""
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", where, project)
    name = tomllib.loads((project / "pyproject.toml").read_text())["project"]["name"].replace("-", "_")
    return next(where.glob(f"{name}-*.whl"))


def standalone(pyproject: str, core_dependencies: list[str]) -> str:
    """The package's pyproject with the core's dependencies in place of the core, and its folder too."""
    changes = {
        '"kv-cache-rl[eval]"': ", ".join(json.dumps(requirement) for requirement in core_dependencies),
        'packages = ["kv_cache_eviction"]': 'packages = ["kv_cache_eviction", "kv_cache_rl"]',
    }
    for old, new in changes.items():
        if pyproject.count(old) != 1:
            raise SystemExit(
                f"pyproject.toml has {old} {pyproject.count(old)} times, not once; adapt hub.py to it"
            )
        pyproject = pyproject.replace(old, new)
    # The staged folder usually lies under one that git ignores; hatchling would leave it out.
    return pyproject + "\n[tool.hatch.build]\nignore-vcs = true\n"


def stage(folder: Path) -> Path:
    """Writes the self-contained copy.

    The core comes out of its own wheel, so exactly what is installed is staged.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel_of(ROOT, Path(scratch))) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if name.startswith("kv_cache_rl/")])
    for name in ("kv_cache_eviction", "configs"):
        shutil.copytree(PACKAGE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PACKAGE / "README.md", folder)
    core = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core_dependencies = [*core["dependencies"], *core["optional-dependencies"]["eval"]]
    (folder / "pyproject.toml").write_text(
        standalone((PACKAGE / "pyproject.toml").read_text(), core_dependencies)
    )
    return folder


def prove(folder: Path, policy: str, examples: int) -> list[dict]:
    """Builds the staged wheel, installs it alone, evaluates there; the saved rollouts."""
    wheel = wheel_of(folder, folder / "dist")
    print(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        venv.create(home / "venv", with_pip=True)
        python = home / "venv" / "bin" / "python"
        print("installing it alone in a new virtual environment ...", flush=True)
        run(python, "-m", "pip", "install", "--quiet", wheel)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        command = [python.with_name("vf-eval"), "kv-cache-eviction", "--env.taskset.num-examples", examples]
        command += ["--client.api-key-var", "NO_KEY_NEEDED", "--no-push", "--no-rich"]
        command += ["--output-dir", home, "--run.name", "run"]
        done = subprocess.run(
            [str(word) for word in (python, "-c", EVALUATE, policy, *command)],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
        )
        traces = home / "run" / "traces.jsonl"
        if done.returncode or not traces.exists():
            raise SystemExit(
                f"the evaluation failed ({done.returncode})\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        print(done.stdout.splitlines()[0])
        return [json.loads(line) for line in traces.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist" / "hub", help="the staged folder (is overwritten)"
    )
    parser.add_argument("--stage-only", action="store_true", help="do not build, install and evaluate")
    parser.add_argument("--policy", default="learned", help="the policy that plays in the proof")
    parser.add_argument("--examples", type=int, default=6, help="how many scenarios it plays")
    options = parser.parse_args()
    folder = stage(options.out)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"staged {folder}, {size / 1e6:.1f} MB; publish it with: prime env push --path {folder}", flush=True
    )
    if options.stage_only:
        return
    episodes = prove(folder, options.policy, options.examples)
    print(f"{'scenario':34} {'ok':>5} {'reward':>8} {'normalized':>11}")
    for episode in sorted(episodes, key=lambda episode: episode["task"]["data"]["idx"]):
        rewards = episode["traces"][0]["rewards"]
        total = sum(reward["score"] * reward["weight"] for reward in rewards.values())
        key, normalized = episode["task"]["key"], rewards["normalized_score"]["score"]
        print(f"{key:34} {episode['ok']!s:>5} {total:8.4f} {normalized:11.4f}")
    if len(episodes) != options.examples or not all(episode["ok"] for episode in episodes):
        raise SystemExit("the staged package does not evaluate cleanly; see the rollouts above")
    print("the staged package works on its own")


if __name__ == "__main__":
    main()
