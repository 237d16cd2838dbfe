"""Attached to a real vLLM: what it publishes is what it found, through a restart, and the lab replays it."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SERVER = Path(__file__).parent / "serving_engine.py"
PATIENCE_S = 600
REQUESTS = 6


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


def until(true, process):
    begun = time.monotonic()
    while not true():
        assert process.poll() is None and time.monotonic() - begun < PATIENCE_S
        time.sleep(0.2)


def batches(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def served(folder, ports, seed):
    """What each request found in an engine that served them and ended."""
    command = [sys.executable, SERVER, folder, *map(str, ports), str(REQUESTS), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_it_follows_an_engine_that_serves_and_is_started_again(kv, tmp_path):
    ports = free_port(), free_port()
    address, replay = (f"tcp://127.0.0.1:{port}" for port in ports)
    code = "import sys; from kv_cache_rl.cli import app; app(sys.argv[1:])"
    words = ["engine", "attach", address, "--replay", replay, "--out", "live.jsonl", "--json"]
    attached = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    live = tmp_path / "live.jsonl"
    first = served(tmp_path, ports, 1)
    until(lambda: len(batches(live)) >= REQUESTS, attached)
    before = len(batches(live))
    second = served(tmp_path, ports, 2)
    until(lambda: len(batches(live)) > before + REQUESTS, attached)
    attached.send_signal(signal.SIGINT)
    said = json.loads(attached.communicate(timeout=60)[0])
    assert attached.returncode == 0
    assert (said["restarts"], said["missed_batches"], said["trouble"]) == (1, 0, {})
    stored = [one for one in first + second if one["found"] < one["blocks"]]
    assert said["stored_blocks"] == sum(one["blocks"] - one["found"] for one in stored)
    kept = [batch for batch in batches(live) if batch["events"]]
    assert [batch["seq"] for batch in kept] == [*range(len(stored) // 2), *range(len(stored) // 2)]
    replayed = kv("hierarchy", "replay", "live.jsonl", "--capacity", "198", "--json")
    assert replayed.code == 0, replayed.err
    found = json.loads(replayed.out)
    # A pool that evicts nothing: the lab finds what the engine found, which began cold twice.
    assert found["accesses"] - found["miss_count"] == said["found_blocks"]
    assert said["computed_blocks"] + said["written_blocks"] == said["stored_blocks"]


def test_no_engine_is_said_and_leaves_no_file(kv, tmp_path):
    said = kv("engine", "attach", f"tcp://127.0.0.1:{free_port()}", "--for", "1", "--out", "none.jsonl")
    assert said.code == 2 and "no batch of KV events came" in said.err
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize("policy", ["lru", "arc"])
def test_the_keys_of_the_offload_tiers_compare(kv, policy):
    said = kv("engine", "offload", "workload:rag_burst", "--policy", policy, "--host", "25%", "--json")
    assert said.code == 0, said.err
    [row] = json.loads(said.out)["rows"]
    assert row["equal" if policy == "lru" else "equal_by_its_rules"] == row["requests"] == 320
