"""Without an extra, whatever needs it says which pip command installs it, in one line, with exit code 2."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import EXTRAS, MissingExtra, need

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
ABLATION = Path(__file__).parents[1] / "results" / "hierarchy" / "ablation"


def name_of(requirement: str) -> str:
    return re.split(r"[\[><=; ]", requirement)[0].replace("-", "_")


def without(package: str, code: str) -> subprocess.CompletedProcess:
    """Python code run where a package is not installed."""
    hidden = f"import sys; sys.modules[{package!r}] = None\n"
    return subprocess.run([sys.executable, "-c", hidden + code], capture_output=True, text=True)


def test_the_base_install_needs_four_packages():
    assert {name_of(one) for one in PROJECT["dependencies"]} == {"numpy", "numba", "typer", "rich"}


NAMED_OTHERWISE = {"zmq": "pyzmq"}
"""Package as it is imported → the distribution that holds it."""


@pytest.mark.parametrize("package", EXTRAS)
def test_an_extra_installs_what_it_is_named_for(package):
    assert NAMED_OTHERWISE.get(package, package) in {
        name_of(one) for one in PROJECT["optional-dependencies"][EXTRAS[package]]
    }


COMMANDS = {
    "fastapi": (["serve-policy", "--port", "0"], "serving a policy as a chat model needs fastapi"),
    "prometheus_client": (["serve", "--port", "0"], "kv-cache-rl serve needs prometheus_client"),
    "openai": (["eviction", "serve-policy", "--port", "0"], "needs openai"),
    "datasets": (["export-sft", "--out", "x.parquet", "-n", "1"], "export-sft needs datasets"),
    "matplotlib": (["hierarchy", "plot", str(ABLATION)], "drawing figures needs matplotlib"),
    "torch": (["paged", "demo"], "paged attention needs torch"),
    "safetensors": (["paged", "generate", "a"], "paged attention needs safetensors"),
    "gymnasium": (["serving", "bench", "--part", "gym"], "--part gym needs gymnasium"),
    "cma": (["train", "--policy", "tuned", "--out", "o"], "training tuned needs cma"),
    "zmq": (["engine", "attach", "tcp://127.0.0.1:5557"], "attaching to an engine needs zmq"),
    "msgspec": (["engine", "attach", "tcp://127.0.0.1:5557"], "attaching to an engine needs msgspec"),
    "ray": (["hierarchy", "sweep", "--ray", "local", "--out", "sweep"], "--ray needs ray"),
}


@pytest.mark.parametrize("package", COMMANDS)
def test_a_command_without_its_extra_ends_with_two_and_one_line(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = COMMANDS[package]
    done = without(package, f"from kv_cache_rl.cli import app\napp({arguments!r})")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr and f"pip install 'kv-cache-rl[{EXTRAS[package]}]'" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["serving", "simulate", "--plot", "x.png"],
        ["serving", "evaluate", "--plot", "x.svg"],
        ["stability", "validate", "--fast", "--out", "o"],
        ["paged", "bench", "--fast", "--part", "throughput", "--out", "o"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_command_asks_for_matplotlib_before_it_begins(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = without("matplotlib", f"from kv_cache_rl.cli import app\napp({arguments!r})")
    assert done.returncode == 2 and "needs matplotlib; pip install 'kv-cache-rl[plots]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("torch", "kv_cache_rl.paged"),
        ("torch", "kv_cache_rl.paged.model"),
        ("gymnasium", "kv_cache_rl.gym"),
        ("gymnasium", "kv_cache_rl.gym.vector"),
        ("fastapi", "kv_cache_rl.adapters.endpoint"),
        ("uvicorn", "kv_cache_rl.adapters.endpoint"),
        ("openai", "kv_cache_rl.adapters.replies"),
        ("zmq", "kv_cache_rl.adapters.kv_feed"),
        ("msgspec", "kv_cache_rl.adapters.kv_feed"),
        ("matplotlib", "kv_cache_rl.reports.canvas"),
        ("matplotlib", "kv_cache_rl.reports.stability"),
        ("matplotlib", "kv_cache_rl.reports.paged"),
        ("matplotlib", "kv_cache_rl.reports.serving.scores"),
        ("matplotlib", "kv_cache_rl.reports.hierarchy"),
    ],
)
def test_a_module_without_its_extra_names_the_remedy(package, module):
    done = without(package, f"import {module}")
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("kv_cache_rl.extras.MissingExtra: ")
    assert f"needs {package}; pip install 'kv-cache-rl[{EXTRAS[package]}]'" in last


def test_a_missing_extra_is_refused_and_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtra, match=r"^this needs ray; pip install 'kv-cache-rl\[ray\]', or wait$"
    ) as caught:
        need("this", "ray", instead="or wait")
    assert isinstance(caught.value, Refused) and isinstance(caught.value, ImportError)
    assert caught.value.name == "ray"
    need("this", "rich", "typer")


def test_nothing_of_the_extras_is_loaded_where_policies_play(tmp_path):
    code = (
        (
            "import sys\nfrom kv_cache_rl.cli import app\n"
            "try:\n    app(['eviction', 'baselines', '-n', '1', '-p', 'lru'])\nexcept SystemExit as end:\n "
            "   assert not end.code\n"
            f"print('LOADED', sorted({sorted(EXTRAS)!r} & sys.modules.keys()))"
        )
        .replace("sorted([", "sorted({")
        .replace("] & sys", "} & sys")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
