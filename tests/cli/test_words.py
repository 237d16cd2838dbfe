"""One word per option: a thing is spelt alike in every command, and declared once."""

import ast
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from click_tree import commands, options
from rich.emoji import Emoji

import kv_cache_rl.cli
from kv_cache_rl.cli.terminal import console

CLI = Path(kv_cache_rl.cli.__file__).parent

FORBIDDEN = {
    "--output": "--out",
    "--output-dir": "--out",
    "--output-file": "--out",
    "--outdir": "--out",
    "--policies": "--policy",
    "--agents": "--policy",
    "--tasks": "--task",
    "--capacities": "--capacity",
    "--workloads": "--workload",
    "--traces": "--trace",
    "--trace-file": "--trace",
    "--claude-code": "--trace",
    "--parts": "--part",
    "--models": "--model",
    "--quick": "--fast",
    "--n": "--num-examples",
    "--as-json": "--json",
    "--format-json": "--json",
    "--random-seed": "--seed",
    "--jobs": "--workers",
    "--processes": "--workers",
    "--exit-code": "--check",
}
"""A second word for a thing that has one, and the one."""
HIDDEN = {"paged bench": {"--outdir"}}
"""Old words that stay as hidden options: the users of a seed project know them."""

SAYS_WHAT = {
    "--host": "an address to listen on, or the tier of that name",
    "--out": "the file or folder that the command writes",
    "--plot": "what the picture shows",
    "--policy": "what decides in this world, and the default",
    "--model": "served model, geometry, or checkpoint folder",
    "--trace": "the formats that the command reads, and what it takes from them",
    "--format": "the formats that the command reads",
    "--task": "one task, or several",
    "--seed": "what is drawn",
    "--seeds": "what is played with them",
    "--name": "a calibration's, or a submission's",
    "--part": "the parts of the benchmark",
    "--episodes": "measured, or trained on",
    "--set": "the settings there are",
    "--rate": "what is scaled",
    "--resume": "what goes on: a run folder, or what --out holds",
    "--token-budget": "whose tokens, and the default",
    "--requests": "how many of a trace, or a log of them",
}
"""Options whose help differs by command, and what it says there."""


def test_no_thing_has_a_second_spelling():
    found = [
        f"{command} {word}: say {FORBIDDEN[word]}"
        for command, option in options()
        for word in option.opts
        if word in FORBIDDEN and not (option.hidden and word in HIDDEN.get(command, ()))
    ]
    assert found == []


def test_hidden_options_are_those_old_words():
    hidden = defaultdict(set)
    for command, option in options():
        if option.hidden:
            hidden[command] |= set(option.opts)
    assert hidden == HIDDEN


def test_the_same_word_has_the_same_help_the_same_panel_and_the_same_short_form_everywhere():
    helps, forms, panels = defaultdict(set), defaultdict(set), defaultdict(set)
    for command, option in options():
        word = option.opts[0]
        helps[word].add(option.help)
        panels[word].add(option.rich_help_panel)
        if word != "--policy" or not command.startswith("serving"):  # there it is --agent as well
            forms[word].add(tuple(option.opts))
    assert {word: found for word, found in helps.items() if len(found) > 1 and word not in SAYS_WHAT} == {}
    assert {word: found for word, found in forms.items() if len(found) > 1} == {}
    several = {word: found for word, found in panels.items() if len(found) > 1}
    several = set(several) - {"--host"}  # servers listen on one, and memory tiers have one
    assert several <= {"--model"}, "a model decides, or its bytes are counted"


def test_serving_commands_take_the_policy_as_an_agent_too():
    agents = {command for command, option in options() if "--agent" in option.opts}
    assert agents == {"serving simulate", "serving evaluate", "serving train", "serving transfer"}
    assert all(option.opts[0] == "--policy" for _, option in options() if "--agent" in option.opts)


def test_a_table_can_be_had_as_json():
    tables = [command for command, option in options() if "--markdown" in option.opts]
    json = {command for command, option in options() if "--json" in option.opts}
    assert tables and set(tables) <= json


def own_options(path: Path) -> list[str]:
    """Names of the options that the functions of a module declare themselves, not by a shared one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.arg) and node.annotation is not None:
            for call in ast.walk(node.annotation):
                if isinstance(call, ast.Call) and ast.unparse(call.func) in (
                    "typer.Option",
                    "options.option",
                ):
                    words = [
                        a.value for a in call.args if isinstance(a, ast.Constant) and "--" in str(a.value)
                    ]
                    found.append(words[0] if words else f"--{node.arg.replace('_', '-')}")
    return found


def test_an_option_of_two_commands_is_declared_once_among_the_shared_ones():
    declared = Counter(
        word for path in CLI.rglob("*.py") if path.name != "options.py" for word in own_options(path)
    )
    commands_of = defaultdict(set)
    for command, option in options():
        commands_of[option.opts[0]].add(command)
    again = {word for word in declared if len(commands_of[word]) > 1}
    assert again == set()


@pytest.mark.parametrize(
    "command", ["hierarchy replay", "serving simulate", "eviction eval", "stability plan"]
)
def test_long_help_is_in_panels(command):
    panels = {
        option.rich_help_panel for name, option in options() if name == command and option.opts != ["--help"]
    }
    assert None not in panels and len(panels) >= 3


def test_commas_and_repetition_name_the_same(kv):
    apart = kv("baselines", "-n", "1", "-p", "lru", "-p", "keep", "--json").json["rows"]
    joined = kv("eviction", "baselines", "-n", "1", "--policy", "lru,keep", "--json").json["rows"]
    assert apart == joined


def test_no_command_is_left_out():
    assert len(list(commands())) > 30


def test_no_help_becomes_a_picture():
    """Rich reads `:factory:` as one."""
    texts = [
        (" ".join(path), text)
        for path, command in commands()
        for text in (command.help, *(getattr(one, "help", None) for one in command.params))
    ]
    assert [said for said in texts if said[1] and Emoji.replace(said[1]) != said[1]] == []


def test_no_name_in_a_table_becomes_a_picture():
    out = console()
    with out.capture() as caught:
        out.print("mine.py:factory: on medium")
    assert caught.get() == "mine.py:factory: on medium\n"
