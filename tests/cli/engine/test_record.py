"""``engine record``: what it asks of the engine, and what it refuses before one is started."""

import json

import pytest

SHARED = "workload:shared_prefixes,requests=40,sessions=6"


def test_without_vllm_it_says_what_is_missing_and_what_makes_it(kv):
    said = kv("engine", "record", "workload:rag_burst", "--out", "run")
    assert said.code == 2
    assert "engine record needs vllm" in said.err
    assert "run `make engine` and then engines/kv_cache_vllm/.venv/bin/kv-cache-rl engine record" in said.err


def test_a_recording_is_made_and_compared(kv, stand_in):
    said = kv("engine", "record", SHARED, "--blocks", "60%", "--out", "run")
    assert said.code == 0
    assert "vllm 0.32.0: 40 requests" in said.out
    assert "next: kv-cache-rl engine compare run" in said.out
    assert "40 of 40 requests equal" in kv("engine", "compare", "run", "--check").out


def test_a_pool_is_blocks_or_a_share_of_the_working_set_with_two_more(kv, stand_in):
    facts = kv("engine", "record", SHARED, "--blocks", "50%", "--out", "a", "--json").json
    assert facts["blocks"] == round(facts["working_set"] / 2) + 2
    assert kv("engine", "record", SHARED, "--blocks", "1_000", "--out", "b", "--json").json["blocks"] == 1000


def test_how_it_was_made_stands_in_the_folder(kv, stand_in):
    kv("engine", "record", SHARED, "--at", "step", "--rate", "5", "--max-num-seqs", "4", "--out", "run")
    config = json.loads(open("run/config.json").read())
    assert (config["at"], config["rate"], config["max_num_seqs"]) == ("step", 5.0, 4)
    assert config["source"] == {"workload": "shared_prefixes", "options": {"requests": 40, "sessions": 6}}
    assert config["model"] == "tiny"
    assert (config["prefix_caching"], config["long_prefill"], config["watermark"]) == (True, 0, 0.0)


def test_the_rules_of_the_scheduler_stand_in_the_folder(kv, stand_in):
    rules = "--no-prefix-caching", "--long-prefill", "64", "--watermark", "2.5%"
    assert kv("engine", "record", SHARED, *rules, "--out", "run").code == 0
    config = json.loads(open("run/config.json").read())
    assert (config["prefix_caching"], config["long_prefill"], config["watermark"]) == (False, 64, 0.025)


def test_an_interrupted_recording_says_how_to_go_on_and_does(kv, stand_in):
    stand_in.dies_at = 12
    said = kv("engine", "record", SHARED, "--out", "run")
    assert said.code == 130
    assert "what is over is in run; go on with the same command and --resume" in said.err
    stand_in.dies_at = None
    assert "go on with --resume, or give another --out" in kv("engine", "record", SHARED, "--out", "run").err
    assert kv("engine", "record", SHARED, "--out", "run", "--resume").code == 0
    assert "40 of 40 requests equal" in kv("engine", "compare", "run").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--blocks", "20"], "a pool of 20 blocks cannot hold request"),
        (["--blocks", "20"], "give --blocks 50 or more"),
        (["--blocks", "9999999999"], "is more than any engine has; give at most 1,048,576"),
        (["--blocks", "half"], "--blocks half is no pool; write blocks (700) or a share"),
        (["--at", "noon"], "unknown time 'noon'"),
        (["--rate", "2"], "--rate is for --at trace and --at step; leave it out"),
        (["--model", "nowhere"], "--model nowhere has no config.json"),
        (["--max-num-seqs", "16", "--token-budget", "8"], "less than a token for each of 16 requests"),
        (["--watermark", "0.1"], "--watermark 0.1 is no share of the pool; write 0% to below 100%"),
        (["--watermark", "100%"], "--watermark 100% is no share of the pool"),
        (["--long-prefill", "99999"], "--long-prefill 99999 is more than the"),
        (["--format", "mooncake"], "--format and --selection are for trace files"),
    ],
)
def test_what_cannot_be_is_refused_before_an_engine_starts(kv, stand_in, options, said):
    found = kv("engine", "record", SHARED, "--out", "run", *options)
    assert found.code == 2
    assert said in found.err
    assert stand_in.configs == []


@pytest.mark.parametrize(
    ("trace", "said"),
    [
        ("workload:shared_prefixes,turns=9", "'turns=9' in"),
        ("workload:shared_prefixes,requests=0", "requests"),
        ("workload:rag_bursts", "unknown workload 'rag_bursts'"),
        ("nothing.jsonl", "nothing.jsonl: there is no such file"),
    ],
)
def test_a_trace_that_is_none_is_refused(kv, stand_in, trace, said):
    found = kv("engine", "record", trace, "--out", "run")
    assert found.code == 2
    assert said in found.err


def test_pages_are_not_merged(kv, stand_in):
    found = kv("engine", "record", "workload:rag_burst", "--merge", "4", "--out", "run")
    assert (found.code, "leave --merge out" in found.err) == (2, True)
