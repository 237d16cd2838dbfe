"""``kv-cache-rl engine attach``: live, from recorded files, with a log, and when it is cut short."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from kv_publisher import Publisher, stored

from kv_cache_rl.traces import TraceError, read
from kv_cache_rl.traces.kv_events import Batch, Cleared
from kv_cache_rl.traces.kv_recording import Recording


@pytest.fixture
def engine():
    made = Publisher()
    yield made
    made.close()


def serves(engine, count=6):
    """Requests of two sessions that share a prefix, published once a subscriber is there."""

    def serve():
        engine.awaits()
        engine.publish(stored([1, 2]), ts=1e9)
        for at in range(count - 1):
            gone = {"type": "BlockRemoved", "block_hashes": [9 + at], "medium": "GPU"}
            engine.publish(gone, stored([10 + at], 2), ts=1e9 + 10 * (at + 1))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_it_counts_and_records_what_the_lab_replays(kv, engine, tmp_path):
    serves(engine)
    said = kv(
        "engine",
        "attach",
        engine.address,
        "--replay",
        engine.replay,
        "--for",
        1.5,
        "--out",
        "live.jsonl",
        "--json",
    )
    assert said.code == 0, said.err
    found = said.json
    assert (found["batches"], found["stored_blocks"], found["removed_blocks"]) == (6, 7, 5)
    assert (found["held_blocks"], found["peak_blocks"], found["missed_batches"]) == (3, 3, 0)
    assert (found["requests"], found["found_blocks"], found["computed_blocks"]) == (6, 10, 7)
    assert found["found_share"] == pytest.approx(10 / 17) and found["block_tokens"] == 16
    assert found["out"] == "live.jsonl"
    replayed = kv("hierarchy", "replay", "live.jsonl", "--capacity", 4, "--json").json
    assert (replayed["accesses"], replayed["hit_rate"]) == (17, pytest.approx(10 / 17))
    assert "and so stored none" in replayed["left_out"]
    assert kv("hierarchy", "mrc", "live.jsonl", "--json").json["requests"] == 6


def test_the_table_says_what_is_inferred(kv, engine):
    serves(engine)
    said = kv("engine", "attach", engine.address, "--for", 1.5).out
    assert "held" in said and "58.8 %" in said and "10 of the 17 blocks" in said
    assert (
        "requests are inferred, 6 from 7 stored blocks" in said
        and "not seen: requests that found all" in said
    )


def test_no_batch_is_an_error_that_names_the_option_and_leaves_no_file(kv, engine, tmp_path):
    (tmp_path / "old.jsonl").write_text("kept\n")
    said = kv("engine", "attach", engine.address, "--for", 0.3, "--out", "old.jsonl")
    assert (
        said.code == 2
        and "no batch of KV events came; send the engine requests, and start it with --kv-events-config"
        in said.err
    )
    assert (tmp_path / "old.jsonl").read_text() == "kept\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_stops_it_the_file_is_whole(engine, tmp_path, number):
    out = tmp_path / "live.jsonl"
    code = "import sys; from kv_cache_rl.cli import app; app(sys.argv[1:])"
    command = [sys.executable, "-c", code, "engine", "attach", engine.address, "--replay", engine.replay]
    run = subprocess.Popen(
        [*command, "--out", out, "--json"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    engine.awaits()
    for at in range(40):
        engine.publish(stored([at]))
    begun = time.monotonic()
    while not out.exists() or out.stat().st_size < 500:
        assert time.monotonic() - begun < 30
        time.sleep(0.01)
    run.send_signal(number)
    printed = run.communicate(timeout=30)[0]
    batches = list(read(out))
    assert batches and [batch.sequence for batch in batches] == list(range(len(batches)))
    if number != signal.SIGKILL:
        assert run.returncode == 0 and json.loads(printed)["batches"] == len(batches)


def test_a_disk_that_is_full_leaves_whole_lines(engine, tmp_path, monkeypatch):
    with Recording(tmp_path / "full.jsonl") as recording:
        recording.append(Batch((Cleared(),), 1.0))
        whole = (tmp_path / "full.jsonl").read_bytes()

        class Full:
            def write(self, data):
                return file.write(data[:5])

            def __getattr__(self, name):
                return getattr(file, name)

        file, recording._file = recording._file, Full()
        with pytest.raises(OSError, match=r"full\.jsonl"):
            recording.append(Batch((Cleared(),), 2.0))
    assert (tmp_path / "full.jsonl").read_bytes() == whole


def test_two_recordings_share_no_file(tmp_path):
    with Recording(tmp_path / "live.jsonl") as first, Recording(tmp_path / "live.jsonl") as second:
        first.append(Batch((Cleared(),), 1.0))
        with pytest.raises(TraceError, match="another recording writes to it now; give another --out"):
            second.append(Batch((Cleared(),), 2.0))
        first.append(Batch((Cleared(),), 3.0))
    assert [batch.time_s for batch in read(tmp_path / "live.jsonl")] == [1.0, 3.0]


def test_a_log_is_not_written_over(kv, write, tmp_path):
    log = write([{"timestamp": 1, "input_length": 5, "output_length": 1}], "lab.events.jsonl")
    said = kv("engine", "attach", "tcp://127.0.0.1:5557", "--requests", log, "--out", "lab.jsonl")
    assert (
        said.code == 2 and "the events would be written over" in said.err and "timestamp" in log.read_text()
    )


def events(*batches):
    return [{"ts": 1e9 + at, "events": list(found)} for at, *found in batches]


def test_a_recorded_file_becomes_a_trace_of_requests(kv, write):
    path = write(events((0, stored([1, 2])), (9, stored([3], 2)), (18, stored([4], 1))))
    said = kv("engine", "attach", path, "--out", "lab.jsonl")
    assert said.code == 0 and "lab.jsonl: 3 requests" in said.out
    assert kv("hierarchy", "replay", "lab.jsonl", "--capacity", 3, "--json").json["accesses"] == 7
    again = kv("engine", "attach", "lab.jsonl", "--out", "other.jsonl")
    assert again.code == 2 and "holds requests in lab format, no KV events" in again.err


def test_a_log_gives_lengths_and_arrivals(kv, write, engine):
    log = write([{"timestamp": 1e12, "input_length": 40, "output_length": 7}], "log.jsonl")
    path = write(events((0.5, stored([1, 2]))), "events.jsonl")
    said = kv("engine", "attach", path, "--requests", log, "--out", "lab.jsonl", "--json")
    assert said.json["written"] == 1 and "1 of 1 logged requests were found" in said.json["notes"][0]
    shown = kv("traces", "show", "lab.jsonl", "--json").json
    assert (shown["input_tokens"], shown["output_tokens"], shown["blocks"]) == (40, 7, 2)


def test_a_log_beside_a_live_engine_keeps_the_events_too(kv, write, engine, tmp_path):
    log = write([{"timestamp": 1e12, "input_length": 35, "output_length": 7}], "log.jsonl")
    serves(engine, 1)
    said = kv("engine", "attach", engine.address, "--requests", log, "--out", "lab.jsonl", "--for", 1)
    assert said.code == 0 and "lab.jsonl: 1 requests" in said.out
    assert len((tmp_path / "lab.events.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["127.0.0.1:5557"], "127.0.0.1:5557: there is no such file"),
        (["tcp://127.0.0.1"], "no address of an engine; write tcp://HOST:PORT"),
        (["tcp://127.0.0.1:5557", "--replay", "5558"], "--replay 5558: no address of an engine"),
        (
            ["events.jsonl", "--for", "5"],
            "--for is for a running engine; events.jsonl is a file, leave it out",
        ),
        (["events.jsonl", "--replay", "tcp://a:1"], "--replay is for a running engine"),
        (
            ["events.jsonl", "--requests", "log.jsonl"],
            "--requests is for the trace that is written; give --out",
        ),
        (["events.jsonl", "--out", "none/x.jsonl"], "there is no folder none"),
        (["events.jsonl", "--out", "events.jsonl"], "is a file that this command reads"),
        (["cut.jsonl", "--out", "x.jsonl"], "cut.jsonl, line 2: the line is cut off"),
        (
            ["events.jsonl", "--out", "x.jsonl", "--requests", "none.jsonl"],
            "none.jsonl: there is no such file",
        ),
    ],
)
def test_bad_input_ends_with_two_and_one_line(kv, write, words, problem):
    lines = [json.dumps(one) for one in events((0, stored([1])), (1, stored([2])))]
    write(lines, "events.jsonl")
    write([lines[0], lines[1][:-8]], "cut.jsonl")
    said = kv("engine", "attach", *words)
    assert said.code == 2 and problem in said.err and said.err.count("\n") == 1
    assert not said.out
