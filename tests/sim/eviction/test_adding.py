"""A decider is one function and one line: it is on the command line and in the contract tests."""

import json

from editing import ROOT, command, edited, execute

FUNCTION = '''@uncounted
def evict_first(rows, head, out):
    """Evicts the first row of every window."""
    out[0].verb, out[0].entry = Verb.EVICT, 0
    return 1


'''
LINE = """    "evict_first": Registered(evict_first),
"""


def test_a_decider_is_one_function_and_one_line(tmp_path):
    before = "@dataclass(frozen=True, slots=True)\nclass Registered:\n"
    folder = edited(
        tmp_path, "sim/eviction/deciders.py", (before, FUNCTION), ('    "threshold_0.80": ', LINE)
    )
    (folder / "scenarios").symlink_to(ROOT / "scenarios")

    replay = json.loads(command(folder, "replay eviction-eval-easy-0020-v1 --policy evict_first --json"))
    assert {call["verb"] for window in replay["timeline"] for call in window["calls"]} == {"evict"}
    assert "evict_first" in command(folder, "baselines -n 1 --difficulty easy --markdown", COLUMNS="200")

    contracts = ROOT / "tests" / "sim" / "eviction" / "test_observe.py"
    collected = execute(folder, "-m", "pytest", "--collect-only", contracts, NUMBA_DISABLE_JIT="1")
    assert "test_calling_a_decider_twice_gives_the_same_calls[evict_first]" in collected
