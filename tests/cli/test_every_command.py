"""What holds for every command: help with an example that parses, --json, and a fast start."""

import re
import shlex
import subprocess
import sys

import pytest
import typer

from kv_cache_rl.cli import app
from kv_cache_rl.sim.eviction import DECIDERS

ROOT = typer.main.get_command(app)
SCENARIOS = ROOT.commands["scenarios"]
COMMANDS = [(name,) for name in ROOT.commands if name != "scenarios"] + [("scenarios", name) for name in SCENARIOS.commands]


def command_of(path: tuple[str, ...]):
    found = ROOT
    for name in path:
        found = found.commands[name]
    return found


def test_the_commands_are_those_that_were_promised():
    expected = ["eval", "baselines", "report", "replay", "oracle", "landscape", "export-sft", "serve-policy", "bench"]
    assert {path[0] for path in COMMANDS if len(path) == 1} == set(expected)
    assert set(SCENARIOS.commands) == {"generate", "verify", "from-trace", "show"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_whose_words_and_options_exist(kv, path):
    said = kv(*path, "--help")
    assert said.code == 0
    example = re.search(r"^\s*Example: (kv-cache-rl .+)$", command_of(path).help, re.MULTILINE).group(1)
    words = shlex.split(example)
    assert words[: 1 + len(path)] == ["kv-cache-rl", *path]
    options = {option for parameter in command_of(path).params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    assert "Example" in said.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_speaks_json_and_every_option_is_explained(path):
    parameters = {parameter.name: parameter for parameter in command_of(path).params}
    assert "--json" in parameters["as_json"].opts
    assert [name for name, parameter in parameters.items() if name != "help" and not parameter.help] == []


def test_version_names_the_environment_version(kv):
    assert re.fullmatch(r"kv-cache-rl \S+ \(environment version \S+\)\n", kv("--version").out)


def test_help_comes_without_loading_anything_heavy():
    heavy = {"numba", "datasets", "openai", "fastapi", "pyarrow", "pandas", "verifiers"}
    code = (
        "import sys\nfrom kv_cache_rl.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('LOADED', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["eval", "--policy", "lruu"], "there is no policy 'lruu'; did you mean lru? choose one of keep"),
        (["eval", "--model", "gpt", "--base-url", "nonsense"], "give something like http://127.0.0.1:8000/v1"),
        (["eval", "--base-url", "http://127.0.0.1:1/v1"], "name the model"),
        (
            ["eval", "--model", "gpt", "--base-url", "https://example.org/v1", "--api-key-var", "NO_KEY"],
            "NO_KEY is not set",
        ),
        (["eval", "--difficulty", "brutal"], "brutal"),
        (["eval", "--num-examples", "0"], "give a positive number, or -1"),
        (["eval", "--trace", "nothing.jsonl"], "nothing.jsonl"),
        (["eval", "--resume", "nothing"], "nothing is not a run folder"),
        (["baselines", "--policy", "value_awar"], "did you mean value_aware?"),
        (["baselines", "--difficulty", "brutal"], "brutal"),
        (["baselines", "--split", "secret"], "secret"),
        (["baselines", "--num-examples", "-7"], "--num-examples is -7"),
        (["baselines", "--trace", "."], "."),
        (["report", "nothing"], "give one that eval or baselines --out made"),
        (["replay", "eviction-eval-hard-9999-v1"], "did you mean eviction-eval-hard-"),
        (["replay", "seven"], "give an id such as eviction-eval-hard-0007-v1"),
        (["replay", "eviction-eval-hard-0000-v1", "--policy", "best"], "there is no policy 'best'"),
        (["replay", "eviction-eval-hard-0000-v1", "--run", "nothing"], "nothing"),
        (["oracle", "nothing.jsonl"], "nothing.jsonl"),
        (["oracle", "--difficulty", "brutal"], "brutal"),
        (["export-sft", "--out", "x.parquet", "--policy", "me"], "there is no expert 'me'"),
        (["export-sft", "--out", "."], ". is a folder"),
        (["export-sft", "--out", "x.parquet", "--split", "eval", "--min-normalized", "2", "-n", "1"], "lower it"),
        (["scenarios", "verify", "nothing.jsonl"], "nothing.jsonl"),
        (["scenarios", "show", "seven"], "'seven' is not a scenario"),
        (["scenarios", "from-trace", "nothing.gz", "--out", "x.jsonl"], "nothing.gz"),
        (["scenarios", "generate", "--out", "x.jsonl", "--difficulty", "brutal"], "brutal"),
        (["serve-policy", "--policy", "lruu"], "did you mean lru?"),
        (["serve-policy", "--port", "99999"], "give another --port, or 0 for a free one"),
    ],
)
def test_bad_input_ends_with_two_and_one_line_that_says_what_to_do(kv, environment, arguments, words):
    said = kv(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["fly"], "fly"),
        (["eval", "--fly"], "--fly"),
        (["scenarios", "fly"], "fly"),
        (["bench", "--seconds", "soon"], "--seconds"),
        (["eval", "--seed", "1.5"], "--seed"),
        (["replay"], "scenario"),
    ],
)
def test_bad_usage_ends_with_two_and_names_the_word(kv, arguments, word):
    said = kv(*arguments)
    assert said.code == 2
    assert word in said.err


def test_an_unknown_policy_lists_every_policy(kv):
    said = kv("baselines", "--policy", "nobody")
    assert all(name in said.err for name in DECIDERS)
