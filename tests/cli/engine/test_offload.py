"""``kv-cache-rl engine offload``: what it asks for, and what it shows; a stand-in plays vLLM's host tier."""

import json
import types

import pytest

from kv_cache_rl.cli.engine import offload
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.experiments.engine.arc_rules import PlainArc
from kv_cache_rl.experiments.engine.offload import LabHost


@pytest.fixture
def engine(monkeypatch):
    """A package of the engine whose own policies are those of the lab, but for arc."""
    module = types.SimpleNamespace(
        EngineHost=lambda name, blocks: PlainArc(blocks) if name == "arc" else LabHost(name, blocks),
        named=lambda name: name,
        version=lambda: "vllm 0",
    )
    monkeypatch.setattr(offload, "engine_module", lambda name, command: module)


def test_policies_and_rooms_are_compared_and_written(kv, engine, tmp_path):
    words = ["--policy", "lru,arc", "--gpu", 6, "--host", "20%,30", "--out", "found.json", "--json"]
    found = kv("engine", "offload", "workload:rag_burst", *words).json
    assert [(row["policy"], row["host_blocks"]) for row in found["rows"]] == [
        ("lru", 14),
        ("lru", 30),
        ("arc", 14),
        ("arc", 30),
    ]
    for row in found["rows"]:
        assert row["gpu_blocks"] == 6 and row["requests"] == 320
        assert (row["equal"] == 320) == (row["policy"] == "lru") == (row["first"] == "")
        assert row.get("equal_by_its_rules", 320) == 320
    assert (tmp_path / "found.json").exists() and "--json" not in found["command"]
    table = kv("engine", "offload", "workload:rag_burst", "--policy", "arc", "--host", 30).out
    assert "of 320" in table and "arc by vLLM's three rules, 30 blocks: 320 of 320 requests equal" in table


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--host", "many"], "--host many is no room; write blocks (700) or a share"),
        (["--gpu", "0"], "--gpu 0: 0 of 69 blocks; give 1 to"),
        (["--host", "0.1%"], "--host 0.1%: 0 of 69 blocks"),
        (["--policy", "lruu"], "unknown policy 'lruu'; did you mean lru?"),
        (["--policy", "belady"], "unknown policy 'belady'"),
    ],
)
def test_bad_input_ends_with_two_and_one_line(kv, engine, words, problem):
    said = kv("engine", "offload", "workload:rag_burst", *words)
    assert said.code == 2 and problem in said.err and said.err.count("\n") == 1


def test_without_vllm_the_way_to_it_is_named(kv):
    said = kv("engine", "offload", "workload:rag_burst")
    assert said.code == 2 and "engine offload needs vllm" in said.err and "make engine" in said.err


def test_a_room_is_blocks_or_a_share():
    assert (offload.room("700", 10, "--gpu"), offload.room("12.5%", 80, "--gpu")) == (700, 10)
    with pytest.raises(BadInput, match="--gpu 1e9 is no room"):
        offload.room("1e9", 10, "--gpu")


def test_page_accesses_and_requests_with_answers_are_served_alike(kv, engine, tmp_path):
    pages = [f"{at},{page},4096" for at, page in enumerate("abcabdacbd")]
    (tmp_path / "pages.csv").write_text("\n".join(["time,obj_id,obj_size", *pages]) + "\n")
    found = kv("engine", "offload", "pages.csv", "--gpu", 1, "--host", 2, "--policy", "lru", "--json")
    assert (found.code, found.json["accesses"], found.json["blocks"]) == (0, 10, 4), found.err
    turns = [
        {
            "timestamp": 1000 * k,
            "input_length": 512 * (k + 1),
            "output_length": 512,
            "hash_ids": list(range(k + 1)),
        }
        for k in range(4)
    ]
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in turns))
    served = kv("engine", "offload", "turns.jsonl", "--gpu", 1, "--host", 2, "--policy", "lru", "--json")
    assert (served.code, served.json["accesses"], served.json["blocks"]) == (0, 10, 4), (
        "answers ask for nothing"
    )
