"""A real vLLM, recorded: the same as before, equal to the lab, gone on with after a kill."""

import json
import re
import signal
import time

import pytest
from recordings import GOLDEN, arguments_of, started, without_times

FILES = ("requests.jsonl", "steps.jsonl", "events.jsonl")


STARTS = {
    "one_at_a_time": "40 of 40 requests equal",
    "beside_each_other": "42 of 42 starts equal",
    "preempting": "41 of 41 starts equal",
    "long_prompts": "37 of 38 starts equal",
    "without_caching": "no prefix caching",
}
"""A committed recording → what is said of it beside its steps."""


@pytest.mark.parametrize("name", STARTS)
def test_a_fresh_recording_is_the_committed_one_and_every_step_is_equal(kv, tmp_path, name):
    said = kv(*arguments_of(name), "--out", "run")
    assert said.code == 0, said.err
    for file in FILES:
        assert without_times(tmp_path / "run" / file) == without_times(GOLDEN / name / file), file
    equal = kv("engine", "compare", "run", "--check")
    assert equal.code == (name == "long_prompts"), "vLLM holds a block twice there"
    assert STARTS[name] in equal.out
    lines = (tmp_path / "run/steps.jsonl").read_text().splitlines()
    steps = re.search(r"run: ([0-9,]+) of ([0-9,]+) steps equal", equal.out)
    assert steps is not None and steps[1] == steps[2], equal.out
    assert int(steps[1].replace(",", "")) >= len(lines)


def test_a_recording_that_was_killed_goes_on_to_the_same_lines(kv, tmp_path):
    words = [*arguments_of("one_at_a_time"), "--out", "run"]
    process = started(*words, folder=tmp_path)
    requests = tmp_path / "run/requests.jsonl"
    until = time.monotonic() + 900  # a first compilation on a busy machine takes minutes
    while not (requests.exists() and len(requests.read_bytes().splitlines()) >= 20):
        assert process.poll() is None and time.monotonic() < until, "it ended, or did not get so far"
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    assert "another recorder writes there now" in kv(*words, "--resume").err
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 20 <= len(requests.read_bytes().splitlines()) < 40, "it was killed in the middle"
    with open(requests, "a") as file:
        file.write('{"request": 3')
    assert kv(*words, "--resume").code == 0
    for file in FILES:
        assert without_times(tmp_path / "run" / file) == without_times(GOLDEN / "one_at_a_time" / file), file


def test_requests_beside_each_other_are_not_gone_on_with(kv, tmp_path):
    words = [*arguments_of("beside_each_other"), "--out", "run"]
    source = GOLDEN / "beside_each_other"
    (tmp_path / "run").mkdir()
    for file in ("config.json", *FILES):
        text = (source / file).read_text()
        (tmp_path / "run" / file).write_text("".join(text.splitlines(keepends=True)[:30]))
    said = kv(*words, "--resume")
    assert said.code == 2
    assert "only a recording one at a time" in said.err
    assert "record again into another folder" in said.err


def test_steps_decide_when_requests_come_and_the_engine_is_idle_between(kv, tmp_path):
    trace = tmp_path / "two.jsonl"
    header = {
        "format": "kv-cache-rl trace",
        "version": 1,
        "kind": "requests",
        "name": "two",
        "block_tokens": 32,
    }
    lines = [header] + [
        {"time_s": at, "sequence": 0, "input_tokens": 40, "output_tokens": 3, "runs": [[0, 2]]}
        for at in (0.0, 2.5)
    ]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = kv("engine", "record", trace, "--at", "step", "--rate", "4", "--blocks", "9", "--out", "run")
    assert said.code == 0, said.err
    assert [line["steps"] for line in without_times(tmp_path / "run/requests.jsonl")] == [[0, 2], [10, 12]]


def test_a_request_longer_than_the_model_reads_is_refused(kv, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small/config.json").write_text(
        json.dumps({"vocab_size": 2048, "max_position_embeddings": 512})
    )
    said = kv(*arguments_of("one_at_a_time"), "--model", "small", "--out", "run")
    assert said.code == 2
    assert "requests are longer than the 512 tokens that small reads" in said.err
    (tmp_path / "small/config.json").write_text("{")
    assert (
        "give the folder of a language model"
        in kv(*arguments_of("one_at_a_time"), "--model", "small", "--out", "other").err
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--engine-block-size", "48", "--blocks", "99"], "blocks of 32 tokens or a multiple, not 48"),
        (["--engine-block-size", "48", "--blocks", "99"], "give --engine-block-size 64"),
        (["--blocks", "2"], "cannot hold request"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(kv, options, said):
    found = kv("engine", "record", "workload:rag_burst", "--requests", "5", "--out", "run", *options)
    assert found.code == 2
    assert said in found.err


def test_what_vllm_itself_refuses_is_passed_on_with_a_remedy(kv, tmp_path):
    (tmp_path / "odd").mkdir()
    odd = {"vocab_size": 2048, "model_type": "llama", "architectures": ["NoSuchModel"], "hidden_size": 32}
    (tmp_path / "odd/config.json").write_text(json.dumps(odd))
    found = kv("engine", "record", "workload:rag_burst", "--requests", "5", "--model", "odd", "--out", "run")
    assert found.code == 2
    assert "vLLM refuses these settings" in found.err
