"""What an agent of a user's own prints stays out of a command's own output."""

import pytest

TALKER = """print("imported")

class Talker:
    name = "talker"
    def __init__(self):
        print("made")
    def reset(self, seed=0):
        print("reset")
    def act(self, seen, mask):
        print("act")
        return 17
"""


@pytest.mark.parametrize("more", [(), ("--log", "ticks.jsonl")])
def test_simulate_prints_its_json_alone(kv, tmp_path, more):
    (tmp_path / "talker_once.py").write_text(TALKER)
    given = ("--task", "easy", "--ticks", 20, "--json", *more)
    said = kv("serving", "simulate", "--agent", "talker_once.py:Talker", *given)
    assert said.code == 0 and said.json["agent"] == "talker_once.py:Talker"
    assert {"made", "reset", "act"} <= set(said.err.split())


@pytest.mark.parametrize("workers", [1, 2])
def test_evaluate_prints_its_json_alone(kv, tmp_path, capfd, workers):
    (tmp_path / "talker_twice.py").write_text(TALKER)
    given = ("--task", "easy", "--seeds", 2, "--ticks", 20, "--workers", workers, "--json")
    said = kv("serving", "evaluate", "--agent", "talker_twice.py:Talker", *given)
    assert said.code == 0 and len(said.json["episodes"]) == 2
    assert "act" not in capfd.readouterr().out.split(), "nor does a worker print there"
