"""What holds for every command: help with an example that parses, --json, and a fast start."""

import inspect
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from click_tree import commands, options

from kv_cache_rl.cli import app
from kv_cache_rl.sim.eviction import DECIDERS

ROOT = typer.main.get_command(app)
WORLDS = ("eviction", "hierarchy", "serving", "stability", "paged")
ENGINES = ("engine",)
FILES = ("traces",)
COMMANDS = [path for path, _ in commands()]


def command_of(path: tuple[str, ...]):
    found = ROOT
    for name in path:
        found = found.commands[name]
    return found


def names_in(*path: str) -> set[str]:
    return set(command_of(path).commands)


def test_the_commands_are_those_that_were_promised():
    eviction = {
        "eval",
        "baselines",
        "report",
        "replay",
        "oracle",
        "planner",
        "landscape",
        "export-sft",
        "serve-policy",
        "train",
        "tokens",
        "bench",
        "scenarios",
        "submit",
        "leaderboard",
    }
    assert set(ROOT.commands) == {*WORLDS, *ENGINES, *FILES, *eviction, "models", "serve"}
    assert names_in("eviction") == eviction
    assert names_in("leaderboard") == {"build"}
    assert names_in("scenarios") == {"generate", "verify", "from-trace", "show"}
    hierarchy = {
        "replay",
        "sweep",
        "ablation",
        "heldout",
        "mrc",
        "curve",
        "reproduce",
        "plot",
        "bench",
        "workload",
    }
    assert names_in("hierarchy") == hierarchy
    assert names_in("serving") == {"simulate", "evaluate", "bench", "train", "transfer"}
    assert names_in("stability") == {"plan", "validate", "compare"}
    assert names_in("engine") == {"record", "compare", "attach", "offload", "hints", "policies"}
    assert names_in("traces") == {"show", "convert"}
    assert names_in("paged") == {"demo", "bench", "generate", "show", "calibrate"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_whose_words_and_options_exist(kv, path):
    said = kv(*path, "--help")
    assert said.code == 0
    example = re.search(r"^\s*Example: (kv-cache-rl .+)$", command_of(path).help, re.MULTILINE).group(1)
    words = shlex.split(example)
    short = path[1:] if path[0] == "eviction" else path
    assert words[: 1 + len(short)] == ["kv-cache-rl", *short]
    options = {option for parameter in command_of(path).params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    assert "Example" in said.out


@pytest.mark.parametrize("name", sorted(names_in("eviction")))
def test_a_short_form_is_the_eviction_command_itself(name):
    long, short = command_of(("eviction", name)), command_of((name,))
    if hasattr(long, "commands"):
        assert names_in("eviction", name) == names_in(name)
    else:
        assert inspect.unwrap(long.callback) is inspect.unwrap(short.callback)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_paragraph_of_a_help_is_one_line_that_the_terminal_wraps(path):
    paragraphs = command_of(path).help.strip().split("\n\n")
    assert [paragraph for paragraph in paragraphs if "\n" in paragraph.strip()] == []


def test_a_reader_that_has_seen_enough_is_no_error():
    command = (
        f"{sys.executable} -c 'from kv_cache_rl.cli import app; app()' hierarchy replay --help | head -1"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_speaks_json_and_every_option_is_explained(path):
    parameters = {parameter.name: parameter for parameter in command_of(path).params}
    assert "--json" in parameters["as_json"].opts
    assert [name for name, parameter in parameters.items() if name != "help" and not parameter.help] == []


def test_version_names_the_environment_version(kv):
    assert re.fullmatch(r"kv-cache-rl \S+ \(environment version \S+\)\n", kv("--version").out)


def test_help_comes_without_loading_anything_heavy():
    heavy = {"numba", "torch", "datasets", "openai", "fastapi", "pyarrow", "pandas", "verifiers"}
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
        (["eval", "--policy", "lruu"], "unknown policy 'lruu'; did you mean lru? use one of keep"),
        (
            ["eval", "--model", "gpt", "--base-url", "nonsense"],
            "give something like http://127.0.0.1:8000/v1",
        ),
        (["eval", "--base-url", "http://127.0.0.1:1/v1"], "name the model"),
        (["eval", "--api-key-var", "MY_KEY"], "--api-key-var is given without --model"),
        (["eval", "--policy", "lru", "--temperature", "0"], "--temperature is given without --model"),
        (["eval", "--max-tokens", "9"], "--max-tokens is given without --model"),
        (
            ["eval", "--model", "gpt", "--base-url", "https://example.org/v1", "--api-key-var", "NO_KEY"],
            "NO_KEY is not set",
        ),
        (["eval", "--difficulty", "brutal"], "brutal"),
        (["eval", "--num-examples", "0"], "give a positive number, or -1"),
        (["eval", "--trace", "nothing.jsonl"], "nothing.jsonl"),
        (["eval", "--resume", "nothing"], "nothing is not a run folder"),
        (["baselines", "--policy", "weigh_valu"], "did you mean weigh_value?"),
        (["baselines", "--difficulty", "brutal"], "brutal"),
        (["baselines", "--split", "secret"], "secret"),
        (["baselines", "--num-examples", "-7"], "--num-examples is -7"),
        (["baselines", "--trace", "."], "."),
        (["report", "nothing"], "give one that eval or baselines --out made"),
        (["replay", "eviction-eval-hard-9999-v2"], "did you mean eviction-eval-hard-"),
        (
            ["export-sft", "-o", "x.jsonl", "--min-normalized", "nan"],
            "--min-normalized is nan; give a number",
        ),
        (["replay", "seven"], "give an id such as eviction-eval-hard-0007-v2"),
        (["replay", "eviction-eval-hard-0000-v2", "--policy", "best"], "unknown policy 'best'"),
        (["replay", "eviction-eval-hard-0000-v2", "--run", "nothing"], "nothing"),
        (["oracle", "nothing.jsonl"], "nothing.jsonl"),
        (["oracle", "--difficulty", "brutal"], "brutal"),
        (["oracle", "eviction-eval-hard-0000-v2", "-d", "easy"], "--difficulty selects scenarios, and evi"),
        (["oracle", "eviction-eval-hard-0000-v2", "--seed", "42"], "--seed selects scenarios"),
        (["planner", "eviction-eval-hard-0000-v2", "--trace", "x"], "--trace selects scenarios"),
        (["planner", "eviction-eval-hard-9999-v2"], "did you mean eviction-eval-hard-"),
        (["planner", "--difficulty", "brutal"], "brutal"),
        (["export-sft", "--out", "x.parquet", "--policy", "me"], "unknown expert 'me'"),
        (["export-sft", "--out", "."], ". is a folder"),
        (
            ["export-sft", "--out", "x.txt"],
            "x.txt is neither .parquet nor .jsonl; give a name that ends in one of them",
        ),
        (
            ["export-sft", "--out", "x.parquet", "--split", "eval", "--min-normalized", "2", "-n", "1"],
            "lower it",
        ),
        (["scenarios", "verify", "nothing.jsonl"], "nothing.jsonl"),
        (["scenarios", "show", "seven"], "'seven' is not a scenario"),
        (["scenarios", "from-trace", "nothing.gz", "--out", "x.jsonl"], "nothing.gz"),
        (["scenarios", "generate", "--out", "x.jsonl", "--difficulty", "brutal"], "brutal"),
        (["serve-policy", "--policy", "lruu"], "did you mean lru?"),
        (["serve-policy", "--policy", "lru,learned"], "unknown policy 'lru,learned'"),
        (["serve", "--host", "0.0.0.0"], "name it as they do with --allow-host NAME"),
        (["serve", "--port", "70000"], "70000"),
        (["hierarchy", "replay", "nothing.jsonl", "--capacity", "9"], "nothing.jsonl: there is no such file"),
        (["hierarchy", "replay", ".", "--capacity", "9"], ".: this is a directory without trace files"),
        (["traces", "show", "nothing.jsonl"], "nothing.jsonl: there is no such file"),
        (["traces", "convert", "/dev/zero", "--out", "x.jsonl"], "/dev/zero: this is not a regular file"),
        (["hierarchy", "replay", "/dev/zero", "--capacity", "9"], "/dev/zero: this is not a regular file"),
        (["hierarchy", "mrc", "/dev/zero"], "/dev/zero: this is not a regular file"),
        (["hierarchy", "heldout", "/dev/zero"], "/dev/zero: this is not a regular file"),
        (["hierarchy", "mrc", "workload:rag_burst", "--limit", "9"], "--limit is for trace files; workload"),
        (["eval", "--block-size", "16"], "--block-size is for trace files; name one with --trace"),
        (
            ["stability", "plan", "--trace", "x", "--time-unit", "h"],
            "unknown unit of time 'h'; use one of s, ms",
        ),
        (["hierarchy", "replay", "workload:rag", "--capacity", "9"], "unknown workload 'rag'"),
        (["hierarchy", "replay", "workload:rag_burst", "-p", "lruu", "--capacity", "9"], "did you mean lru?"),
        (["hierarchy", "replay", "workload:rag_burst"], "give either --capacity BLOCKS"),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--tiers", "gpu=9"],
            "give either --capacity BLOCKS",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "0"],
            "the capacity is 0 blocks; give at least 1",
        ),
        (["hierarchy", "replay", "workload:rag_burst", "--capacity", "many"], "'many' is no capacity"),
        (["hierarchy", "replay", "workload:rag_burst", "--capacity", "5.5"], "no whole number of blocks"),
        (
            ["hierarchy", "replay", "workload:zipf,pages=50,pages=60", "--capacity", "4"],
            "gives pages twice; give it once",
        ),
        (
            ["hierarchy", "replay", "workload:zipf,seed=4", "--seed", "5", "--capacity", "4"],
            "zipf has a seed of its own and --seed 5; give one of them",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu=9", "--compute-s", "inf"],
            "--compute-s is inf; give a number, or leave it out",
        ),
        (["hierarchy", "workload", "zipf,seed=3", "--seed", "4", "--out", "x.jsonl"], "gives seed twice"),
        (["traces", "show", "nothing.jsonl", "--format", "lib"], "unknown format 'lib'"),
        (
            ["hierarchy", "replay", "workload:zipf", "--capacity", "1GB"],
            "the bytes of its blocks; name a model",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu=60KB,disk=9MB"],
            "unknown tier 'disk'; use one",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu"],
            "write each tier once as NAME=CAPACITY",
        ),
        (["hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu=1KB"], "enlarge the tier"),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--model", "gpt"],
            "unknown model 'gpt'",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--footprint", "fp17"],
            "unknown footprint",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--squeeze", "int4"],
            "--squeeze int4 is of bytes, and --capacity counts blocks here; give bytes (--capacity 60KB), or",
        ),
        (
            ["hierarchy", "replay", "workload:zipf", "--capacity", "9", "--squeeze", "int4"],
            "give a model",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--selection", "all"],
            "--selection is for trace",
        ),
        (["hierarchy", "mrc", "workload:rag_burst", "--sampled", "2"], "give a share above 0, at most 1"),
        (["hierarchy", "mrc", "nothing.jsonl", "--format", "azurr"], "unknown format 'azurr'"),
        (
            ["hierarchy", "heldout", "workload:rag_burst"],
            "are one session: there is nothing to hold out; give a trace whose requests name their sessions",
        ),
        (["hierarchy", "bench", "--part", "trees"], "name their file with --trace"),
        (["hierarchy", "sweep", "nothing.toml"], "nothing.toml: there is no such file"),
        (["hierarchy", "sweep", "--ray", "127.0.0.1:1"], "ay "),
        (["hierarchy", "ablation", "--semantics", "mine"], "unknown semantics 'mine'"),
        (
            ["hierarchy", "reproduce", "--golden", "nothing.json"],
            "give the path of default_sweep_metrics.json",
        ),
        (["hierarchy", "plot", "nothing"], "nothing is no finished sweep"),
        (["hierarchy", "bench", "--part", "lruu"], "did you mean lru?"),
        (["hierarchy", "bench", "--trace", "nothing.gz"], "nothing.gz: there is no such file"),
        (["hierarchy", "workload", "rag", "--out", "x.jsonl"], "unknown workload 'rag'"),
        (["hierarchy", "workload", "rag_burst", "--out", "."], ". is a folder"),
        (
            ["hierarchy", "workload", "rag_burst", "--set", "depth=3", "--out", "x.jsonl"],
            "cannot be made with",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--calibration", "lab"],
            "unknown calibration 'lab'",
        ),
        (["paged", "demo", "--model", "nothing"], "nothing"),
        (["paged", "bench", "--part", "memori"], "did you mean memory?"),
        (["paged", "bench", "--model", "nothing"], "nothing"),
        (["paged", "generate", "a", "--samples", "2", "--beams", "2"], "give one"),
        (["paged", "generate", "a", "--beams", "300", "-n", "2"], "a beam of width 300"),
        (["paged", "calibrate", "--name", "literature"], "give another name"),
        (["paged", "calibrate", "--out", "."], ". is a folder"),
        (["paged", "calibrate", "--text", "nothing.txt"], "nothing.txt: there is no such file"),
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
        (["traces", "show", ""], "what follows show is empty"),
        (["eval", "--fly"], "--fly"),
        (["scenarios", "fly"], "fly"),
        (["bench", "--seconds", "soon"], "--seconds"),
        (["replay", "eviction-eval-hard-0000-v2", "--delay", "1e12"], "--delay"),
        (["eval", "--seed", "1.5"], "--seed"),
        (["replay"], "scenario"),
        (["hierarchy", "fly"], "fly"),
        (["hierarchy", "replay"], "FILE"),
        (["hierarchy", "sweep", "--workers", "0"], "--workers"),
        (["paged", "fly"], "fly"),
        (["paged", "generate"], "prompt"),
        (["paged", "generate", ""], "what follows generate is empty"),
        (["paged", "generate", "a", "--tokens", "0"], "--tokens"),
        (
            ["eval", "--model", "a", "-m", "b", "--base-url", "http://127.0.0.1:9/v1"],
            "--model is given 2 times",
        ),
        (["serving", "simulate", "--policy", "lru", "--policy", "stability"], "--policy is given 2 times"),
        (
            ["baselines", "--trace", "any.jsonl", "--split", "train"],
            "--split and --trace are both given",
        ),
        (["baselines", "--json", "--markdown"], "--json and --markdown are both given"),
        (["replay", "eviction-eval-hard-0000-v2", "--json", "--delay", "1"], "JSON comes at once"),
        (["hierarchy", "bench", "--peer", "libcachesim", "--accesses", "100000"], "--accesses are both"),
        (["oracle", "--action-log"], "--action-log adds to the JSON object alone"),
        (
            ["scenarios", "generate", "--committed", "-o", "sets", "--seed", "4"],
            "--committed and --seed are both given",
        ),
        (
            ["hierarchy", "replay", "workload:rag_burst", "--capacity", "9", "--time-line", "5"],
            "--time-line adds to the JSON object alone",
        ),
    ],
)
def test_bad_usage_ends_with_two_and_names_the_word(kv, arguments, word):
    said = kv(*arguments)
    assert said.code == 2
    assert word in said.err


def test_an_unknown_policy_lists_every_policy(kv):
    said = kv("baselines", "--policy", "nobody")
    assert all(name in said.err for name in DECIDERS)


def test_an_unknown_scenario_names_the_nearest_ones_of_many(kv):
    said = kv("replay", "eviction-eval-hard-9999-v2")
    assert said.code == 2
    assert "use one of the 50, such as eviction-eval-hard-" in said.err
    assert len(said.err) < 300


def test_every_whole_number_has_an_upper_bound_that_compiled_code_can_hold(kv):
    whole = [
        (command, option)
        for command, option in options()
        if option.type_descriptor.annotation in (int, list[int])
    ]
    assert len(whole) > 30
    unbounded = {option.name for _, option in whole if option.max is None or option.max >= 2**63}
    assert unbounded <= {"seed", "seeds", "ticks", "port", "stop_token"}  # their readers say the range
    said = kv("stability", "plan", "--trace", "none.jsonl", "--chunk", 10**23)
    assert said.code == 2 and "2147483647" in said.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize(
    "words",
    [
        "serving simulate --trace pipe.json",
        "serving simulate --log pipe.json",
        "serving simulate --agent pipe.py:make",
        "hierarchy sweep pipe.json --out made",
        "hierarchy replay workload:rag_burst --capacity 5 --calibration pipe.json",
        "hierarchy replay workload:rag_burst --capacity 5 --plot pipe.png",
        "hierarchy replay pipe.json --capacity 5",
        "stability plan --trace pipe.json",
        "eviction scenarios verify pipe.json",
        "eviction oracle pipe.jsonl",
        "traces show pipe.json",
    ],
)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(kv, words):
    for name in ("pipe.json", "pipe.jsonl", "pipe.png", "pipe.py"):
        os.mkfifo(name)
    said = kv(*words.split())
    assert said.code == 2 and "regular file" in said.err
