"""A decider is one function and one line, a reward a term and a line: commands and reports know them then."""

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


def test_a_reward_is_a_term_and_a_line(tmp_path):
    folder = edited(
        tmp_path,
        "sim/eviction/score.py",
        ('}\n"""Reward name -> weight', '    "fewer_calls": 0.5,\n'),
        ("\n\n@uncounted\ndef weighted_return", "    terms[7] = -counters[Counter.CALLS] / 100.0\n"),
    )
    (folder / "scenarios").symlink_to(ROOT / "scenarios")
    program = (
        "from kv_cache_rl.sim.eviction import Call, Episode, load_scenarios\n"
        "from kv_cache_rl.sim.eviction.score import total_return\n"
        "episode = Episode(load_scenarios('easy', 'eval', 1)[0])\n"
        "while not episode.done:\n"
        "    episode.step([Call('keep')] * 2)\n"
        "report = episode.report()\n"
        "print(report.rewards['fewer_calls'], abs(total_return(*episode.state) - report.total) < 1e-5)"
    )
    assert execute(folder, "-c", program, NUMBA_DISABLE_JIT="1").split() == ["-0.3", "True"]
