"""Curves and replays of workloads and of uploaded traces: equal to the library's, held to their limits."""

import gzip
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kv_cache_rl.adapters.http import jobs
from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.lab import Uploads
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.replays import source_of
from kv_cache_rl.experiments.hierarchy.capacity import capacity_curves
from kv_cache_rl.experiments.hierarchy.settings import in_blocks
from kv_cache_rl.experiments.hierarchy.sources import from_workload
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, one_tier

TRACE = "".join(
    json.dumps({"timestamp": 900 * k, "input_length": 1024, "output_length": 8, "hash_ids": [0, 1 + k % 3]})
    + "\n"
    for k in range(12)
)


def test_curves_equal_those_of_the_command(ask):
    body = {"workload": "rag_burst", "policies": ["lru", "arc"], "points": 3, "model": "llama-3.1-8b"}
    said = ask("POST", "/api/hierarchy/curves", json=body).json()
    found = capacity_curves(
        from_workload("rag_burst"), ["lru", "arc"], None, 3, "llama-3.1-8b", None
    ).to_json()
    assert said == json.loads(json.dumps(found))


def test_replays_have_metrics_and_a_course_beside_the_bound(ask):
    body = {"workload": "rag_burst", "policies": ["lru", "belady"], "capacity": "24"}
    assert ask.error("POST", "/api/hierarchy/replays", 404, json=body)["field"] == "policies.1"
    said = ask(
        "POST", "/api/hierarchy/replays", json={**body, "policies": ["lru", "sieve"], "points": 8}
    ).json()
    for row in said["rows"]:
        metrics = run(in_blocks(workload("rag_burst")), one_tier(24), row["policy"]).metrics
        assert row["hit_rate"] <= said["bound"]["hit_rate"] + 1e-12
        assert len(row["time_line"]["hit_rate"]) == 8
        assert {key: row[key] for key in metrics} == json.loads(json.dumps(metrics))


def test_an_uploaded_trace_is_described_and_replayed_and_deleted(ask):
    sent = ask("POST", "/api/hierarchy/traces?name=mine.jsonl", content=TRACE)
    assert sent.status_code == 201
    trace = sent.json()
    assert (trace["requests"], trace["blocks"]) == (12, 4)
    body = {"trace": trace["trace"], "policies": ["lru"], "points": 2}
    assert ask("POST", "/api/hierarchy/curves", json=body).json()["trace"] == "mine.jsonl"
    assert ask("GET", sent.headers["location"]).json() == trace
    assert ask("DELETE", sent.headers["location"]).status_code == 204
    ask.error("POST", "/api/hierarchy/curves", 404, json=body)


def test_what_a_block_is_charged_is_said_where_the_cache_is_not_linear(ask):
    trace = ask("POST", "/api/hierarchy/traces?name=mine.jsonl", content=TRACE).json()["trace"]
    body = {"trace": trace, "policies": ["lru"], "points": 2}
    for way, capacity in (("curves", {}), ("replays", {"capacity": "50%"})):
        said = ask("POST", f"/api/hierarchy/{way}", json={**body, **capacity, "model": "gemma-3-27b"}).json()
        assert said["charged"].startswith("each block of 512 tokens is charged ")
        assert "52 of 62 layers keep the last 1,024 tokens" in said["charged"]
        said = ask("POST", f"/api/hierarchy/{way}", json={**body, **capacity, "model": "qwen3-8b"}).json()
        assert "charged" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ""),
        (b"nonsense\n", ""),
        (b'{"a": 1}\n', ""),
        (gzip.compress(TRACE.encode()), "send it unpacked"),
        (b"\x00" * 5_000, ""),
        ((TRACE + "[" * 100_000 + "\n").encode(), ""),
    ],
    ids=["empty", "text", "foreign", "packed", "zeros", "deep"],
)
def test_a_trace_that_cannot_be_read_is_refused_and_not_kept(ask, content, said):
    before = len(ask.lab.uploads)
    error = ask.error("POST", "/api/hierarchy/traces?name=../../x.jsonl", 422, content=content)
    assert said in error["message"] and "kv-cache-rl-" not in error["message"], "no path of this machine"
    assert len(ask.lab.uploads) == before


def test_traces_are_as_many_and_as_large_as_allowed(asked_with):
    ask = asked_with(limits=Limits(traces=0, trace_bytes=10_000))
    assert ask("POST", "/api/hierarchy/traces", content=TRACE).headers["retry-after"]
    ask.error("POST", "/api/hierarchy/traces", 413, content=b"x" * 20_000)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 422, "workload"),
        ({"workload": "rag_burst", "trace": "x"}, 422, "workload"),
        ({"workload": "/etc/passwd"}, 404, "workload"),
        ({"trace": "../../etc/passwd"}, 404, "trace"),
        ({"workload": "rag_burst", "policies": []}, 422, "policies"),
        ({"workload": "rag_burst", "policies": ["lruu"]}, 404, "policies.0"),
        ({"workload": "rag_burst", "model": "gpt"}, 404, "model"),
        ({"workload": "rag_burst", "points": 0}, 422, "points"),
        ({"workload": "rag_burst", "seed": 1, "parameters": {"seed": 2}}, 422, "seed"),
        ({"workload": "rag_burst", "parameters": {"seed": "x"}}, 422, "parameters.seed"),
        ({"workload": "rag_burst", "parameters": {"int": "x"}}, 422, "parameters.int"),
    ],
    ids=str,
)
def test_a_curve_that_cannot_be_drawn_says_why(ask, body, status, field):
    error = ask.error("POST", "/api/hierarchy/curves", status, json=body)
    assert field is None or error["field"] == field
    assert "input should" not in error["message"]


def test_what_only_the_replay_finds_out_is_told_too(ask):
    huge = {"workload": "zipf", "parameters": {"accesses": 2_000_000_000}}
    ask.error("POST", "/api/hierarchy/curves", 422, json=huge)
    wrong = {"workload": "rag_burst", "parameters": {"colour": 3}}
    assert "colour" in ask.error("POST", "/api/hierarchy/curves", 422, json=wrong)["message"]
    capacity = {"workload": "rag_burst", "capacity": "none"}
    assert "is no capacity" in ask.error("POST", "/api/hierarchy/replays", 422, json=capacity)["message"]


@pytest.mark.parametrize("name", ["name", "kind"])
def test_an_argument_of_the_code_is_no_parameter_of_a_workload(name):
    with pytest.raises(HierarchyError, match=f"rag_burst has no parameter '{name}'"):
        source_of({"workload": "rag_burst", "parameters": {name: 1}})


def test_a_server_without_a_folder_for_temporary_files_says_so(asked_with, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", nowhere)
    ask = asked_with()
    error = ask.error("POST", "/api/hierarchy/traces?name=a.jsonl", 503, content=TRACE)
    assert "the server cannot keep traces: No usable temporary directory found" in error["message"]
    assert "TMPDIR" in error["message"] and len(ask.lab.uploads) == 0


def test_a_disk_that_is_full_leaves_no_trace_behind(asked_with, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    ask = asked_with()
    monkeypatch.setattr(Path, "write_bytes", full)
    error = ask.error("POST", "/api/hierarchy/traces?name=a.jsonl", 503, content=TRACE)
    assert "No space left on device" in error["message"] and len(ask.lab.uploads) == 0


def test_uploads_at_once_are_no_more_than_allowed(monkeypatch):
    made = tempfile.mkdtemp

    def slowly(**given):
        time.sleep(0.05)
        return made(**given)

    monkeypatch.setattr(tempfile, "mkdtemp", slowly)
    uploads = Uploads(Limits(traces=2), time.monotonic)

    def write(number):
        try:
            return uploads.write(f"{number}.jsonl", TRACE.encode()).path
        except Problem as problem:
            return problem.status_code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(write, range(8)))
    assert found.count(429) == 6 and len(uploads) == 2
    assert len({path.parent for path in found if path != 429}) == 1
    uploads.close()


def test_a_job_that_takes_too_long_is_ended(asked_with, monkeypatch):
    monkeypatch.setattr(jobs, "SMALL", {})
    ask = asked_with(limits=Limits(run_seconds=0.2))
    answer = ask("POST", "/api/hierarchy/curves", json={"workload": "rag_burst"})
    assert answer.status_code == 503 and answer.headers["retry-after"]


def test_a_job_is_held_to_its_memory():
    program = "from kv_cache_rl.adapters.http.jobs import limited\nlimited(60, 2**30)\nbytearray(2**33)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.strip().endswith("MemoryError")


@pytest.mark.parametrize(("why", "status"), [("memory", 422), ("time", 503)])
def test_a_job_that_was_ended_is_no_bug(asked_with, monkeypatch, why, status):
    async def ended(*_):
        raise jobs.JobFailed(why)

    monkeypatch.setattr(jobs, "run", ended)
    monkeypatch.setattr(jobs, "SMALL", {})
    ask = asked_with()
    error = ask.error("POST", "/api/hierarchy/curves", status, json={"workload": "rag_burst"})
    assert "ask for less" in error["message"]
