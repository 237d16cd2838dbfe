"""What the hierarchy commands say beside their numbers."""

import json

import pytest

from kv_cache_rl.cli.hierarchy.rows import offload_line
from kv_cache_rl.reports.hierarchy.folder import read
from kv_cache_rl.reports.hierarchy.rows import BYTES, LATENCY
from kv_cache_rl.sim.hierarchy.traces.load import LOADERS

TREE = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 64}
FREE = """
policies = ["lru", "fifo"]
[[workloads]]
file = "tree.jsonl"
name = "[/x]"
[[scenarios]]
name = "tiers [a]"
tiers = { gpu = 0.25, host = 0.5 }
"""


@pytest.fixture
def tree(tmp_path):
    """A trace of requests of 24 sessions in turns, each longer than its last."""
    lines = [TREE]
    for turn in range(120):
        session, length = turn * 7 % 24, 3 + turn // 24
        runs = [[0, 2], [1000 * (session + 1), length]]
        lines.append({"time_s": turn, "sequence": session, "input_tokens": 64 * (length + 2), "runs": runs})
    path = tmp_path / "tree.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_transfers_of_blocks_without_bytes_are_said_to_be_free(kv, tree):
    tiers = ("--tiers", "gpu=40,host=80", "--policy", "lru")
    assert "transfers count as free" in " ".join(kv("hierarchy", "replay", tree, *tiers).out.split())
    known = kv("hierarchy", "replay", tree, *tiers, "--model", "qwen3-8b")
    assert "offload gains" in known.out and "free" not in known.out


def test_a_sweep_says_where_transfers_are_free_and_lists_its_own_files(kv, tree, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    definition = (
        'policies = ["lru", "fifo"]\n[[workloads]]\nfile = "tree.jsonl"\nname = "[/x]"\n[[scenarios]]\n'
    )
    (tmp_path / "free.toml").write_text(
        definition + 'name = "tiers [a]"\ntiers = { gpu = 0.25, host = 0.5 }\n'
    )
    said = kv("hierarchy", "sweep", "free.toml", "--out", "out", "--workers", "1").out
    assert "[/x]: the bytes of its blocks are not known, and transfers count as free" in said
    assert "tiers [a]" in said and "notes.txt" not in said and "sweep.toml" in said
    results = read(tmp_path / "out")
    assert results.unsized == ["[/x]"] and results.values(BYTES, "tiers [a]", "[/x]", "lru") == []
    assert results.values(LATENCY, "tiers [a]", "[/x]", "lru") != []


def test_help_names_every_format_that_is_replayed(kv):
    assert f"{', '.join(LOADERS)}; default" in " ".join(
        kv("hierarchy", "replay", "--help").out.replace("│", "").split()
    )


def test_two_capacities_that_are_the_same_room_are_one_row(kv):
    line = ("hierarchy", "replay", "workload:rag_burst", "--policy", "lru", "--json", "--capacity")
    assert kv(*line, "20,20.0,20 blocks").json == kv(*line, "20").json


def test_a_workload_is_named_as_in_a_replay(kv):
    assert kv("hierarchy", "workload", "zipf,pages=50,accesses=90", "--out", "w.jsonl", "--json").json == {
        "file": "w.jsonl",
        "workload": "zipf",
        "accesses": 90,
        "pages": 50,
        "page_bytes": 0,
    }


def test_advice_names_no_file_that_the_user_has(kv, tree):
    said = kv("hierarchy", "plot", tree)
    assert said.code == 2 and "tree.jsonl is a file; give the folder that" in said.err
    said = kv("hierarchy", "replay", tree, "--capacity", "4", "--calibration", tree)
    assert said.code == 2 and "paged calibrate --out FILE.json" in said.err


def test_a_gain_of_less_than_a_microsecond_is_none():
    gain = {"without_reached_rate": 0.5, "without_avg_latency_ms": 7.0, "gain_points": 0.0}
    row = {"policy": "lru", "reached_rate": 0.5, "avg_latency_ms": 7.0}
    said = offload_line(row | {"offload": gain | {"gain_s_per_request": -3.571e-11}})
    assert "gains 0 points" in said and "gains 0 s/request" in said
    assert "costs 2e-06 s/request" in offload_line(row | {"offload": gain | {"gain_s_per_request": -2e-6}})
