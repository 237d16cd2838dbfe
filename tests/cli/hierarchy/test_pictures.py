"""``hierarchy curve`` and ``replay --plot``: numbers that agree with replays, pictures that show them."""

import json
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from kv_cache_rl.core.geometry import MODELS

TREE = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 64}


@pytest.fixture
def tree(tmp_path):
    """A prefix-tree trace of 12 sessions in turns."""
    lines = [TREE]
    for turn in range(96):
        runs = [[0, 2], [1000 * (turn * 7 % 12 + 1), 2 + turn % 7]]
        tokens = 64 * (runs[0][1] + runs[1][1])
        lines.append({"time_s": turn, "sequence": turn * 7 % 12, "input_tokens": tokens, "runs": runs})
    path = tmp_path / "tree.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def words_of(path):
    """What is written in an SVG picture: matplotlib keeps the text of a label as a comment."""
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    return [one.text.strip() for one in ET.parse(path, parser).iter(ET.Comment)]


def test_a_curve_agrees_with_replays_and_with_the_exact_one(kv, tree):
    options = ("--policy", "lru,s3fifo", "--capacity-range", "10:60", "--points", "3", "--workers", "1")
    found = kv("hierarchy", "curve", str(tree), *options, "--json").json
    capacities = ",".join(map(str, found["capacities"]))
    rows = kv(
        "hierarchy", "replay", str(tree), "--policy", "lru,s3fifo", "--capacity", capacities, "--json"
    ).json["rows"]
    for policy in ("lru", "s3fifo"):
        assert found["hit_rate"][policy] == [row["hit_rate"] for row in rows if row["policy"] == policy]
    assert found["bound"]["hit_rate"] == [row["bound_hit_rate"] for row in rows[::2]]
    exact = kv("hierarchy", "mrc", str(tree), "--capacity", capacities, "--json").json
    assert found["hit_rate"]["lru"] == exact["hit_rate"]
    assert found["block_bytes"] is found["capacities_bytes"] is found["plot"] is None


def test_a_sampled_curve_keeps_lru_and_the_bound_exact_and_says_how_far_off_it_is(kv, tree):
    options = ("--policy", "lru,s3fifo", "--capacity-range", "20:60", "--points", "3", "--workers", "1")
    whole = kv("hierarchy", "curve", str(tree), *options, "--json").json
    found = kv("hierarchy", "curve", str(tree), *options, "--sampled", "0.5", "--json").json
    assert "sampled" not in whole
    assert (found["hit_rate"]["lru"], found["bound"]) == (whole["hit_rate"]["lru"], whole["bound"])
    assert found["hit_rate"]["s3fifo"] != whole["hit_rate"]["s3fifo"]
    assert found["sampled"]["rate"] == 0.5
    assert list(found["sampled"]["expected_error"]) == ["lru", "s3fifo"]
    said = kv("hierarchy", "curve", str(tree), *options, "--sampled", "0.5").out
    assert f"measured lru {100 * found['sampled']['lru_error']:.2f}" in said


def test_a_model_gives_the_capacities_in_bytes_beside_the_blocks(kv, tree):
    options = (
        "--model",
        "llama-3.1-8b",
        "--capacity-range",
        "160MB:500MB",
        "--points",
        "2",
        "--workers",
        "1",
    )
    found = kv("hierarchy", "curve", str(tree), "--policy", "lru", *options, "--json").json
    assert (found["block_bytes"], found["capacities"]) == (2**23, [19, 59])
    assert found["capacities_bytes"] == [19 * 2**23, 59 * 2**23]
    said = kv("hierarchy", "curve", str(tree), "--policy", "lru", *options).out
    assert "blocks of 8 MiB" in said and "152 MiB" in said and "472 MiB" in said


def test_a_curve_is_drawn_in_bytes_and_blocks_under_the_bound(kv, tree, tmp_path):
    path = tmp_path / "curve.svg"
    options = ("--policy", "lru,sieve", "--model", "llama-3.1-8b", "--workers", "1", "--plot", str(path))
    assert str(path) in kv("hierarchy", "curve", str(tree), *options).out.replace("\n", "")
    words = words_of(path)
    assert "tree.jsonl: hit rate by capacity" in words and "capacity, blocks" in words
    assert "capacity; a block has 8 MiB" in words and {"lru (exact)", "sieve"} <= set(words)
    assert any(word.startswith("bound: prefix-closed MIN") for word in words)
    assert any(word.endswith(" MB") for word in words)


def test_a_replay_is_drawn_over_time(kv, tree, tmp_path):
    path = tmp_path / "replay.svg"
    options = ("--tiers", "gpu=20,host=30", "--policy", "lru,sieve,belady", "--plot", str(path))
    assert str(path) in kv("hierarchy", "replay", str(tree), *options).out.replace("\n", "")
    words = words_of(path)
    assert "tree.jsonl over time" in words and "how full the tiers are, %" in words
    assert {"lru", "sieve", "gpu", "host"} <= set(words) and "belady" not in words
    assert {"found in gpu, % of accesses", "found in any tier, % of accesses"} <= set(words)
    picture = tmp_path / "pages.png"
    kv("hierarchy", "replay", "workload:rag_burst", "--capacity", "20", "--plot", str(picture))
    assert min(Image.open(picture).size) > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("replay", "--capacity", "5,9", "--plot", "a.png"),
            "--plot draws one capacity over time, and 2 are",
        ),
        (("replay", "--capacity", "5", "--policy", "belady", "--plot", "a.png"), "add another policy"),
        (("replay", "--capacity", "5", "--plot", "a.gif"), "kind of picture '.gif'"),
        (("curve", "--plot", "a.gif"), "kind of picture '.gif'"),
        (("curve", "--capacity-range", "5"), "--capacity-range 5: write FROM:TO, such as 10GB:400GB"),
        (("curve", "--capacity-range", "5:"), "write FROM:TO"),
        (("curve", "--sampled", "1"), "--sampled is 1.0; give a share above 0 and below 1"),
        (("curve", "--sampled", "nan"), "--sampled is nan; give a number, or leave it out"),
        (("curve", "--sampled", "0.5", "--capacity-range", "1:9"), "capacities from 2 blocks on"),
        (("curve", "--capacity-range", "5:6:7"), "write FROM:TO"),
        (("curve", "--capacity-range", "9:5"), "run from 9 to 5 blocks; give the smaller one first"),
        (("curve", "--capacity-range", "0:5"), "the capacity is 0 blocks; give at least 1"),
        (("curve", "--capacity-range", "1GB:2GB"), "does not know the bytes of its blocks; name a model"),
        (("curve", "--model", "llama"), "model 'llama'"),
        (("curve", "--policy", "belady"), "policy 'belady'"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_says_what_to_change(kv, tree, arguments, words):
    said = kv("hierarchy", arguments[0], str(tree), *arguments[1:])
    assert said.code == 2 and words in said.err.replace("\n", " ")


def test_help_names_the_models_that_are_taken(kv):
    for command in (("hierarchy", "replay"), ("hierarchy", "curve"), ("stability", "plan")):
        said = "".join(kv(*command, "--help").out.split()).replace("│", "")
        assert all(model in said for model in MODELS), command


def test_capacities_and_bytes_are_printed_as_people_write_them(kv, tree):
    options = ("--model", "llama-3.1-8b", "--tiers", "gpu=160MB,host=80GB")
    said = kv("hierarchy", "replay", str(tree), *options).out
    assert "160 MB (19 blocks)" in said and "160,000,000" not in said


def test_the_keys_of_a_sweep_are_printed(kv):
    said = kv("hierarchy", "sweep", "--keys").out
    assert "[[workloads]]" in said and "compute_s = 0.002" in said
    found = kv("hierarchy", "sweep", "--keys", "--json").json["keys"]
    assert {"key": "limit", "kind": "whole number"}.items() <= next(
        one for one in found if one["key"] == "limit"
    ).items()
