"""One function and one line: a new heuristic or agent is on the command line and in the contract tests."""

import json

import pytest
from editing import ROOT, command, edited, execute

HEURISTIC = '''@uncounted
def vip_only(view, mask, memory):
    """Admits VIPs only."""
    return ADMIT + 1 if mask[ADMIT + 1] else NOTHING


'''
AGENT = '''def impatient() -> CompiledAgent:
    """A watermark of our own."""
    memory = new_memory("watermark_80")
    memory[0] = 0.5
    return CompiledAgent("impatient", HEURISTICS["watermark_80"].which, memory)


'''
ADDED = ("vip_only", "impatient")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A copy of the package with both."""
    folder = tmp_path_factory.mktemp("added")
    edited(
        folder,
        "sim/serving/heuristics.py",
        ("@dataclass(frozen=True, slots=True)\n", HEURISTIC),
        ('    "do_nothing": Heuristic(do_nothing, canary=True),\n', '    "vip_only": Heuristic(vip_only),\n'),
    )
    return edited(
        folder,
        "agents/__init__.py",
        ("AGENTS: dict", "from kv_cache_rl.sim.serving.heuristics import new_memory\n\n\n" + AGENT),
        ('    "qlearning": qlearning,\n', '    "impatient": impatient,\n'),
    )


def test_the_command_line_knows_both(package):
    helped = command(package, "serving simulate --agent vip_only --task easy --ticks 3 --json")
    assert json.loads(helped)["agent"] == "vip_only"
    played = command(package, "serving simulate --agent impatient --task easy --ticks 3 --json")
    assert json.loads(played)["agent"] == "impatient"


def test_the_contract_tests_take_both_up(package):
    listed = execute(
        package, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
        "-o", "addopts=", ROOT / "tests/agents/test_heuristics.py",
    )  # fmt: skip
    for name in ADDED:
        assert f"test_every_agent_takes_only_actions_that_have_a_target[{name}]" in listed
        assert f"test_python_and_the_compiled_loop_play_the_same_episode[{name}]" in listed
    assert "test_a_heuristic_decides_by_the_plain_view_alone_unless_it_is_rich[vip_only]" in listed


def test_a_heuristic_that_means_to_serve_is_no_canary_and_a_base_of_the_oracle(package):
    program = (
        "from kv_cache_rl.agents import AGENTS, CANARIES\n"
        "from kv_cache_rl.search.serving.oracle import bases\n"
        "print('vip_only' in AGENTS, 'vip_only' in CANARIES, 'vip_only' in bases())"
    )
    assert execute(package, "-c", program, NUMBA_DISABLE_JIT="1").split() == ["True", "False", "True"]
