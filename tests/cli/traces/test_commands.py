"""``kv-cache-rl traces``, and the options that every command with a trace has."""

import gzip
import json
from pathlib import Path

import pytest
import typer

from kv_cache_rl.cli import app
from kv_cache_rl.cli.trace_options import named
from kv_cache_rl.sim.hierarchy.traces.load import load_trace


def commands(group=None, path=()):
    """Every command of the tree with the words that call it."""
    group = group or typer.main.get_command(app)
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


def lines(size=16):
    return [
        {
            "timestamp": 500 * at,
            "input_length": size * (at + 1) - 3,
            "output_length": 4,
            "hash_ids": list(range(at + 1)),
        }
        for at in range(40)
    ]


def test_every_command_that_takes_a_trace_has_the_three_options():
    taking = {
        path: {option for parameter in command.params for option in parameter.opts}
        for path, command in commands()
        if any(parameter.name == "trace" for parameter in command.params)
    }
    assert {("stability", "plan"), ("hierarchy", "mrc"), ("serving", "simulate"), ("traces", "show")} <= set(
        taking
    )
    assert {("scenarios", "from-trace"), ("eval",), ("baselines",)} <= set(taking)
    for path, options in taking.items():
        assert {"--block-size", "--time-unit", "--limit"} <= options, path


def test_show_says_what_a_file_holds_and_is_good_for(kv, write):
    said = kv("traces", "show", write(lines()), "--limit", 10, "--json").json
    assert (said["format"], said["requests"], said["block_size"]) == ("mooncake", 10, 16)
    assert (said["blocks"], said["block_accesses"], said["span_s"]) == (10, 55, 4.5)
    assert said["uses"].pop("scenarios from-trace").startswith("no window has four calls, and contexts for")
    assert set(said["uses"].values()) == {""}
    table = kv(
        "traces", "show", write(["arrived_at,num_prefill_tokens,num_decode_tokens", "1,5,6"], "v.csv")
    ).out
    assert "no: 1 of 1 requests have no block ids" in table and "stability plan" in table


def test_convert_writes_what_the_lab_reads_and_sorts_what_runs_back(kv, write, tmp_path):
    path = write([*reversed(lines())])
    assert "run kv-cache-rl traces convert, which sorts them" in kv("traces", "show", path).err
    out = tmp_path / "lab.jsonl.gz"
    said = kv("traces", "convert", path, "--out", out)
    assert said.code == 0 and "40 requests" in said.out
    ordered, found = load_trace(write(lines(), "sorted.jsonl")), load_trace(out)
    assert (found.time_s == ordered.time_s).all() and (found.run_length == ordered.run_length).all()
    assert (found.input_tokens == ordered.input_tokens).all() and found.blocks == ordered.blocks
    assert json.loads(gzip.decompress(out.read_bytes()).splitlines()[0])["block_tokens"] == 16


def test_a_converted_session_says_what_becomes_of_its_clock(kv, write, tmp_path):
    call = {"t": 0.0, "type": "n", "in": 128, "out": 9, "hash_ids": [1, 2]}
    path = write([{"id": "a", "block_size": 64, "requests": [call]}])
    told = kv("traces", "convert", path, "--out", tmp_path / "lab.jsonl").out
    assert "sub-agents among those of their session" in told and "want the original" in told


def test_what_names_no_blocks_is_converted_for_the_commands_that_need_none(kv, write, tmp_path):
    table = ["Timestamp,Session ID,Request tokens,Response tokens", "0,s,100,20", "5,,50,0", "9,s,160,5"]
    out = tmp_path / "lab.jsonl"
    said = kv("traces", "convert", write(table, "burst.csv"), "--out", out)
    assert "2 requests" in said.out and "1 left out: calls that failed" in said.out
    plan = kv("stability", "plan", "--trace", out, "--json").json
    assert (plan["requests"], plan["history_share"]) == (2, pytest.approx(120 / 260))
    refused = kv("hierarchy", "replay", out, "--capacity", 9)
    assert refused.code == 2 and "no request names a block" in refused.err
    assert kv("traces", "show", out, "--json").json["uses"]["hierarchy"] == "no request names a block"


def test_the_options_reach_the_commands(kv, write):
    path = write(lines(100)[4:5])
    asked = kv("hierarchy", "replay", path, "--capacity", 9)
    assert asked.code == 2 and "--block-size" in asked.err
    assert (
        kv("hierarchy", "replay", path, "--capacity", 9, "--block-size", 100, "--json").json["accesses"] == 5
    )
    plan = ("stability", "plan", "--trace", write(lines(), "more.jsonl"), "--json")
    assert kv(*plan, "--time-unit", "s").json["arrival_rate"] == pytest.approx(
        kv(*plan).json["arrival_rate"] / 1000
    )
    assert kv(*plan, "--limit", 7).json["requests"] == 7


def test_options_of_several_traces_are_those_of_each():
    found = named([Path("a"), Path("b")], limit=5)
    assert found == [Path("a#limit=5"), Path("b#limit=5")]
    assert named(None) is None and named([]) == []


def test_a_plan_is_made_for_the_requests_that_fit_and_says_what_is_left_out(kv, write):
    table = ["Timestamp,Request tokens,Response tokens"]
    table += [f"{at},{100 if at % 4 == 0 else 9000},10" for at in range(100)] + ["100,5,0"]
    plan = ("stability", "plan", "--trace", write(table, "burst.csv"), "--memory-tokens", 1000)
    said = kv(*plan, "--json").json
    assert (said["requests"], said["too_long"], said["mean_prompt"]) == (100, 75, 100)
    assert said["offered_rate"] == pytest.approx(1.0) and said["arrival_rate"] == pytest.approx(0.25)
    assert said["peak_rate"] == pytest.approx(15 / 60)
    assert said["left_out"] == {"calls that failed (they got no answer)": 1}
    table = kv(*plan).out
    assert "without them 0.25/s of 1/s are planned for" in table and "1 left out: calls that failed" in table


def test_a_trace_without_times_is_planned_for_at_a_given_rate(kv, write):
    talk = [{"from": "human", "value": "a" * 400}, {"from": "gpt", "value": "b" * 40}]
    path = write([{"conversations": talk}], "talk.jsonl")
    assert "no arrival times, and so no rate; give --rate R" in kv("stability", "plan", "--trace", path).err
    said = kv("stability", "plan", "--trace", path, "--rate", 2, "--json").json
    assert (said["mean_prompt"], said["mean_output"]) == (100, 10)
    assert "no tokenizer was asked" in said["notes"][0]


def test_show_says_yes_only_where_the_command_agrees(kv, write):
    line = {"timestamp": 0, "input_length": 1024, "output_length": 5}
    cases = {
        "twice": ([line | {"hash_ids": [1, 1]}, line | {"timestamp": 9, "hash_ids": [1, 2]}], "hierarchy"),
        "instant": ([line | {"hash_ids": [1, 2]}], "serving simulate"),
        "empty": ([line | {"input_length": 0, "hash_ids": []}] * 2, "stability plan"),
    }
    for name, (lines, refusing) in cases.items():
        path = write(lines, f"{name}.jsonl")
        uses = kv("traces", "show", path, "--json").json["uses"]
        assert uses[refusing], name
        commands = {
            "hierarchy": ("hierarchy", "replay", path, "--capacity", 9),
            "stability plan": ("stability", "plan", "--trace", path, "--rate", 1),
            "serving simulate": ("serving", "simulate", "--trace", path, "--ticks", 2),
        }
        for command, words in commands.items():
            said = kv(*words)
            assert said.code == (2 if uses[command] else 0) and uses[command] in said.err, (name, command)
