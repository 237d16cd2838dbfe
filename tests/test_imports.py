"""What importing the package costs, and what is defined exactly once."""

import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from pages import SOURCES

import kv_cache_rl

PACKAGE = Path(kv_cache_rl.__file__).parent
HEAVY = ("numpy", "numba", "torch", "verifiers", "fastapi", "openai", "typer", "rich", "datasets", "pydantic")


@pytest.mark.parametrize("module", ["kv_cache_rl", "kv_cache_rl.sim.eviction"])
def test_importing_the_package_pulls_in_nothing_heavy_and_takes_less_than_a_third_of_a_second(module):
    program = (
        f"import sys, time; t = time.process_time(); import {module}; s = time.process_time() - t;"
        f"print(s, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    best = 9.0
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        seconds, loaded = out.split(" ", 1)
        assert loaded.strip() == "[]"
        best = min(best, float(seconds))
        time.sleep(0.05)
    assert best < 0.3


ONCE = {
    "bytes_per_token": ("core/geometry.py", r"def bytes_per_token\b"),
    "block_bytes": ("core/geometry.py", r"def block_bytes\(model"),
    "bytes_held": ("core/geometry.py", r"def bytes_held\b"),
    "geometry_of a configuration": ("models/configs.py", r"def geometry_of\(values"),
    "model_at": ("models/reading.py", r"def model_at\b"),
    "Refused": ("core/errors.py", r"class Refused\b"),
    "need": ("extras.py", r"def need\(what: str"),
    "Interval": ("intervals.py", r"class Interval\b"),
    "mean_interval": ("intervals.py", r"def mean_interval\b"),
    "finite": ("files.py", r"def finite\(value: Any"),
    "write_json": ("files.py", r"def write_json\b"),
    "write_whole": ("files.py", r"def write_whole\b"),
    "slug": ("files.py", r"def slug\b"),
    "print_json": ("cli/terminal.py", r"def print_json\b"),
    "plain_table": ("reports/tables.py", r"def plain_table\b"),
    "markdown_table": ("reports/tables.py", r"def _?markdown_table\b"),
    "the tables' box": ("reports/tables.py", r"from rich\.box import"),
    "names_of": ("cli/options.py", r"def names_of\b"),
    "command_line": ("cli/options.py", r"def command_line\b"),
    "registering commands": ("cli/tree.py", r"app\.command\("),
    "lazy": ("lazy.py", r"def lazy\b"),
    "folded": ("jit.py", r"def folded\(functions"),
    "mixed": ("core/draws.py", r"def mixed\b"),
    "PRECISIONS": ("core/precision.py", r"PRECISIONS\s*[:=]"),
    "LADDER": ("core/precision.py", r"LADDER\s*[:=]"),
    "prefill_seconds": ("core/hardware.py", r"def prefill_seconds\b"),
    "blocks_for": ("core/blocks.py", r"def blocks_for\b"),
    "chained_hash": ("core/blocks.py", r"def chained_hash\b"),
    "the pool's check": ("core/pool.py", r"def check\(ledger"),
    "taking from a pool": ("core/pool.py", r"def take\(ledger"),
    "RANKS": ("policies/rank.py", r"RANKS\s*[:=]"),
    "QUEUES": ("sim/hierarchy/queues/__init__.py", r"QUEUES: dict"),
    "REWARDS": ("sim/eviction/score.py", r"REWARDS\s*[:=]"),
    "DECIDERS": ("sim/eviction/deciders.py", r"DECIDERS\s*[:=]"),
    "the step": ("sim/eviction/dynamics.py", r"def step\(scn, "),
    "play": ("sim/eviction/episode.py", r"def play\(episode"),
    "rollout": ("sim/eviction/episode.py", r"def rollout\b"),
    "replay": ("sim/eviction/episode.py", r"def replay\(scenario"),
    "window_message": ("sim/eviction/messages.py", r"def window_message\b"),
    "text_only_reply": ("sim/eviction/messages.py", r"(?:def text_only_reply|TEXT_ONLY_REPLY =)"),
    "MIN_GAP": ("sim/eviction/spec.py", r"MIN_GAP\s*[:=]"),
    "ORACLE": ("sim/eviction/spec.py", r"(?:\w+, )?ORACLE\s*="),
    "NORM": ("sim/eviction/build.py", r"NORM\s*="),
    "SYSTEM_PROMPTS": ("sim/eviction/prompt.py", r"SYSTEM_PROMPTS\s*[:=]"),
}

CALLED = {
    "the tables' box": "plain_table",
    "registering commands": "register",
    "the pool's check": "check",
    "taking from a pool": "take",
    "the step": "step",
    "geometry_of a configuration": "geometry_of",
}
"""The names in code of what `ONCE` describes in words."""


@pytest.mark.parametrize("name", ONCE)
def test_it_is_defined_in_exactly_one_module(name):
    home, pattern = ONCE[name]
    definition = re.compile(rf"^\s*{pattern}", re.MULTILINE)
    found = [
        (path.relative_to(PACKAGE.parent).as_posix(), len(definition.findall(path.read_text())))
        for path in SOURCES
    ]
    assert [hit for hit in found if hit[1]] == [(f"kv_cache_rl/{home}", 1)]


@pytest.mark.parametrize("name", ONCE)
def test_what_is_defined_once_is_used_outside_its_module(name):
    home = PACKAGE / ONCE[name][0]
    module = ".".join(("kv_cache_rl", *home.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    package = module.rpartition(".")[0]
    imported = re.compile(rf"from (?:{re.escape(module)}|{re.escape(package)}) import|import_module")
    used = re.compile(rf"^(?!\s*(?:#|from |import )).*\b{CALLED.get(name, name)}\b", re.MULTILINE)
    others = [path.read_text() for path in SOURCES if path != home]
    assert any(imported.search(text) and used.search(text) for text in others)


def test_metrics_are_named_once_in_each_simulator_where_they_are_scored():
    named = [
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        if re.search(r"^METRICS\s*[:=]", path.read_text(), re.M)
    ]
    assert sorted(named) == ["sim/eviction/score.py", "sim/hierarchy/score.py", "sim/serving/score.py"]


def test_one_thing_has_one_name():
    from kv_cache_rl.sim import eviction

    assert not hasattr(eviction, "TIERS"), "the names of the tiers are DIFFICULTIES"
    assert not hasattr(eviction, "TEXT_ONLY_REPLY"), "the function is text_only_reply"


def test_no_public_name_of_a_package_is_the_name_of_a_module_in_it():
    """Else what `from package import name` gives depends on what was imported before."""
    clashes = []
    for init in PACKAGE.rglob("__init__.py"):
        package = ".".join((PACKAGE.name, *init.parent.relative_to(PACKAGE).parts))
        public = getattr(import_module(package), "__all__", ())
        inside = {path.stem for path in init.parent.glob("*.py")} | {
            path.parent.name for path in init.parent.glob("*/__init__.py")
        }
        clashes += [f"{package}.{name}" for name in public if name in inside]
    assert clashes == []


def test_a_package_gives_its_function_after_its_module_was_imported_too():
    program = (
        "import kv_cache_rl.paged.sequences; from kv_cache_rl.paged import block_table; block_table.__call__"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
