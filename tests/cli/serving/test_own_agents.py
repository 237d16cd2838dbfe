"""Agents of a user's own: named by module and factory, played beside the others, never given old scores."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from kv_cache_rl import agents
from kv_cache_rl.experiments.journal import JOURNAL
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory

SHORT = ("--task", "easy", "--seeds", "2", "--ticks", "60", "--workers", "1", "--json")
AGENT = """import json
from pathlib import Path

ORDER = (9, 8)

class Patient:
    name = "patient"
    def reset(self, seed=0):
        pass
    def act(self, seen, mask):
        return next((i for i in ORDER if mask[i]), 17)

def idle():
    agent = Patient()
    agent.act = lambda seen, mask: 17
    return agent

class Reads(Patient):
    weights = Path(__file__).parent / "order.json"
    def act(self, seen, mask):
        return next((i for i in json.loads(self.weights.read_text()) if mask[i]), 17)

class Held(Patient):
    def __init__(self):
        self.file = Path(__file__).open()

class Fails(Patient):
    def act(self, seen, mask):
        return {}["no such key"]

class Leaves(Patient):
    def act(self, seen, mask):
        raise SystemExit

class Wild(Patient):
    def act(self, seen, mask):
        return 18

class Writes(Patient):
    def act(self, seen, mask):
        seen[:], mask[:] = 0, 1
        return super().act(seen, [0] * 18)

def broken():
    raise ValueError("no table")

def leaves():
    raise SystemExit

def number():
    return 5

VALUE = 7

class Stopped(Patient):
    def act(self, seen, mask):
        raise KeyboardInterrupt

class Cut(Patient):
    def act(self, seen, mask):
        raise BrokenPipeError(32, "its server hung up")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine(name) → how an agent of the file is named; the file may be edited and loaded anew."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = tmp_path / "mine.py"
    path.write_text(AGENT)

    def named(name, text=None):
        if text is not None:
            path.write_text(text)
        for module in [name for name in sys.modules if name.startswith("mine")]:
            del sys.modules[module]
        return f"{path}:{name}"

    yield named
    named("")


def scores(said):
    return {
        (row["agent"].rpartition(":")[2], row["seed"]): row["report"]["score"]
        for row in said.json["episodes"]
    }


def kept(folder):
    return len((Path(folder) / "runs/serving/evaluate" / JOURNAL).read_text().splitlines())


def test_an_agent_is_named_by_file_or_module_beside_registered_ones(kv, mine, tmp_path):
    said = kv(
        "serving", "evaluate", "--agent", "lru", "--agent", mine("Patient"), "--agent", "mine:idle", *SHORT
    )
    assert said.code == 0, said.err
    found = scores(said)
    assert {name for name, _ in found} == {"lru", "Patient", "idle"}
    assert found["idle", 30_000] < 0.01 < found["Patient", 30_000]
    alone = kv(
        "serving",
        "simulate",
        "--agent",
        mine("Patient"),
        "--task",
        "easy",
        "--seed",
        "30000",
        *SHORT[4:6],
        "--json",
    )
    assert alone.json["score"] == found["Patient", 30_000]


def test_workers_play_the_same_episodes(kv, mine):
    command = ["serving", "evaluate", "--agent", mine("Patient"), *SHORT]
    one = kv(*command, "--out", "one").json["episodes"]
    command[command.index("--workers") + 1] = "2"
    assert kv(*command, "--out", "two").json["episodes"] == one


def test_an_agent_whose_code_was_changed_is_played_anew(kv, mine, tmp_path):
    command = ("serving", "evaluate", "--agent", mine("Patient"), *SHORT)
    first = scores(kv(*command))
    assert kept(tmp_path) == 2
    assert scores(kv(*command)) == first and kept(tmp_path) == 2
    mine("Patient", AGENT.replace("ORDER = (9, 8)", "ORDER = (17,)"))
    assert scores(kv(*command))["Patient", 30_000] < 0.01 and kept(tmp_path) == 4
    mine("Patient", AGENT)
    assert scores(kv(*command)) == first and kept(tmp_path) == 4


def test_an_agent_whose_declared_weights_were_changed_is_played_anew(kv, mine, tmp_path):
    (tmp_path / "order.json").write_text("[9, 8]")
    command = ("serving", "evaluate", "--agent", mine("Reads"), *SHORT)
    first = scores(kv(*command))
    (tmp_path / "order.json").write_text("[]")
    assert scores(kv(*command))["Reads", 30_000] < 0.01 < first["Reads", 30_000]
    (tmp_path / "order.json").unlink()
    said = kv(*command)
    assert said.code == 2 and "order.json: there is no such file; check the path" in said.err


def test_a_registered_agent_that_was_changed_is_played_anew(kv, monkeypatch):
    def heuristic(name):
        class Mine:
            def reset(self, seed=0):
                self.memory = new_memory(name)

            def act(self, seen, mask):
                return choose(HEURISTICS[name].which, seen, np.ascontiguousarray(mask, np.int8), self.memory)

        return Mine

    monkeypatch.setitem(agents.AGENTS, "mine", heuristic("lru"))
    command = ("serving", "evaluate", "--agent", "lru", "--agent", "mine", *SHORT)
    found = scores(kv(*command))
    assert found["mine", 30_000] == found["lru", 30_000] > 0.01
    monkeypatch.setitem(agents.AGENTS, "mine", heuristic("do_nothing"))
    assert scores(kv(*command))["mine", 30_000] < 0.01
    monkeypatch.setitem(agents.AGENTS, "lru", heuristic("do_nothing"))
    assert scores(kv(*command))["lru", 30_000] < 0.01


def test_an_agent_that_no_digest_covers_is_played_each_time_and_says_why(kv, mine, tmp_path):
    command = ("serving", "evaluate", "--agent", mine("Held"), *SHORT)
    for _ in range(2):
        said = kv(*command)
        assert said.code == 0 and len(said.json["episodes"]) == 2 and kept(tmp_path) == 0
        assert (
            "Held is played anew and not kept: it.file is a _io.TextIOWrapper. Its results are kept once"
            in said.err
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Fails", "KeyError: 'no such key'"),
        ("Wild", "ServingError: action is 18; give a whole number from 0 to 17"),
        ("Leaves", "SystemExit"),
    ],
)
def test_an_agent_that_fails_is_a_row_that_says_so(kv, mine, name, words):
    said = kv("serving", "evaluate", "--agent", "lru", "--agent", mine(name), *SHORT)
    assert said.code == 1 and words in said.err
    rows = {row["agent"].rpartition(":")[2]: row for row in said.json["episodes"]}
    assert rows["lru"]["error"] is None and words in rows[name]["error"]


@pytest.mark.parametrize("log", [(), ("--log", "log.jsonl")], ids=["plain", "log"])
def test_an_agent_that_fails_in_one_episode_is_named_with_the_line(kv, mine, log):
    said = kv("serving", "simulate", "--agent", mine("Fails"), "--ticks", "9", *log)
    assert said.code == 2 and said.err.count("\n") == 1
    assert "mine.py:Fails failed: KeyError: 'no such key' (mine.py, line 29); mend it" in said.err


@pytest.mark.parametrize("log", [(), ("--log", "log.jsonl")], ids=["plain", "log"])
def test_an_agent_that_loses_its_server_or_a_file_is_named_and_no_file_of_the_command_is(kv, mine, log):
    said = kv("serving", "simulate", "--agent", mine("Cut"), "--ticks", "9", *log)
    assert said.code == 2 and said.err.count("\n") == 1
    assert "mine.py:Cut failed: BrokenPipeError: [Errno 32] its server hung up (mine.py" in said.err


def test_a_log_that_an_interrupt_cuts_short_is_said_to_be_one(kv, mine, tmp_path):
    said = kv("serving", "simulate", "--agent", mine("Stopped"), "--ticks", "9", "--log", "log.jsonl")
    assert said.code == 130
    assert said.err == "interrupted: log.jsonl holds the ticks that were played, not the whole episode\n"


def test_what_an_agent_writes_into_its_views_changes_nothing(kv, mine):
    command = ("serving", "evaluate", "--agent", mine("Writes"), "--agent", "do_nothing", *SHORT)
    rows = kv(*command).json["episodes"]
    assert rows[0]["report"] == rows[2]["report"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Patien", "mine.py has no 'Patien'; did you mean Patient?"),
        ("Missing.part", "has no 'Missing.part'; it defines Patient, idle, Reads"),
        ("VALUE", "is of type int; name a class, or a function that gives an agent"),
        ("number", "gives an object of type int without reset(); an agent has reset(seed) and act("),
        ("broken", "gives no agent: ValueError: no table (mine.py, line 45); mend it"),
        ("leaves", "gives no agent: SystemExit"),
        ("", "names no factory; write MODULE:FACTORY or FILE.py:FACTORY"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "simulate"])
def test_what_is_no_agent_is_refused_with_a_remedy(kv, mine, command, name, words):
    said = kv("serving", command, "--agent", mine(name))
    assert (said.code, said.out) == (2, "") and said.err.count("\n") == 1
    assert words in said.err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not_there:Agent", "there is no module 'not_there' in "),
        ("not_there.py:Agent", "not_there.py: there is no such file; check the path"),
        ("torn.py:Agent", "torn.py cannot be imported: SyntaxError"),
        ("exits.py:Agent", "exits.py cannot be imported: SystemExit: 3"),
        ("needs.py:Agent", "needs.py needs the module no_such_library, which is not installed; install it"),
        (":Agent", "agent ':Agent' names no factory"),
        ("torn.py", "agent 'torn.py' names no factory; write torn.py:FACTORY"),
        ("json:loads", "json:loads gives no agent: TypeError"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_refused_with_a_remedy(kv, tmp_path, monkeypatch, name, words):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "torn.py").write_text("class Agent(:\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "needs.py").write_text("import no_such_library\n")
    said = kv("serving", "evaluate", "--agent", name)
    assert (said.code, said.out) == (2, "") and said.err.count("\n") == 1
    assert words in said.err


@pytest.mark.parametrize("change", ["number", "null", "nan", "twice", "deep", "empty"])
def test_a_row_that_was_altered_by_hand_is_named_and_never_shown(kv, tmp_path, change):
    command = ("serving", "evaluate", "--policy", "lru", *SHORT)
    kv(*command)
    path = tmp_path / "runs/serving/evaluate" / JOURNAL
    first, *others = path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    texts = {
        "number": first.replace(str(record["row"]["report"]["score"]), "1.0"),
        "null": json.dumps(record | {"row": None}) + "\n",
        "nan": json.dumps(record | {"row": record["row"] | {"work_arrived": float("nan")}}) + "\n",
        "twice": first.replace('"seed": 30000', '"seed": 1, "seed": 30000'),
        "deep": "[" * 100_000 + "\n",
        "empty": "{}\n",
    }
    assert texts[change] != first
    path.write_text("".join([texts[change], *others]))
    said = kv(*command)
    assert (said.code, said.out) == (2, "") and said.err.count("\n") == 1
    assert f"{JOURNAL}, line 1: is no finished row, or was changed; delete that line" in said.err


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (5, "own.py:Own: its `weights` is 5; give the path of a file, or a list of paths"),
        ("nope.npz", "own.py:Own names weights that cannot be read: nope.npz: there is no such file"),
    ],
)
def test_weights_that_are_none_are_refused_with_the_agent(kv, tmp_path, weights, words):
    (tmp_path / "own.py").write_text(
        f"class Own:\n    name, weights = 'own', {weights!r}\n"
        "    def reset(self, seed=0): pass\n    def act(self, seen, mask): return 17\n"
    )
    said = kv("serving", "evaluate", "--agent", "own.py:Own", *SHORT)
    assert (said.code, said.out) == (2, "") and words in said.err


def test_an_agent_that_fails_in_an_evaluation_is_shown_with_file_and_line(kv, mine):
    said = kv("serving", "evaluate", "--agent", mine("Fails"), *SHORT)
    assert said.code == 1 and "KeyError: 'no such key' (mine.py, line 29)" in said.err


def test_two_agents_whose_helpers_share_a_name_are_refused_and_play_alone(kv, tmp_path):
    for folder, wanted in (("first", "(9, 8)"), ("second", "()")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.py").write_text(
            f"from {tmp_path.name}_orders import ORDER\n{AGENT.replace('ORDER = (9, 8)', '')}"
        )
        (tmp_path / folder / f"{tmp_path.name}_orders.py").write_text(f"ORDER = {wanted}\n")
    both = [f"{folder}/one.py:Patient" for folder in ("first", "second")]
    assert kv("serving", "evaluate", "--agent", both[0], *SHORT).code == 0
    said = kv("serving", "evaluate", "--agent", both[0], "--agent", both[1], *SHORT)
    assert said.code == 2 and f"are two modules named {tmp_path.name}_orders" in said.err
    (tmp_path / "second" / f"{tmp_path.name}_orders.py").rename(tmp_path / "second" / "their_orders.py")
    text = (tmp_path / "second" / "one.py").read_text().replace(f"{tmp_path.name}_orders", "their_orders")
    (tmp_path / "second" / "one.py").write_text(text)
    assert kv("serving", "evaluate", "--agent", both[0], "--agent", both[1], *SHORT).code == 0
