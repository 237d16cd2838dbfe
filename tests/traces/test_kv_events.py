"""KV events in every shape that engines write them, and the requests that can be told from them."""

import json
from collections import OrderedDict
from random import Random

import msgspec
import pytest

from kv_cache_rl.sim.hierarchy import load_trace, lru_curve
from kv_cache_rl.traces import Reading, TraceError, detect, read, requests_of
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.kv_cache import CacheSeen
from kv_cache_rl.traces.kv_events import Batch, Cleared, Removed, Stored, Unknown, batch_of
from kv_cache_rl.traces.kv_recording import record_of
from kv_cache_rl.traces.kv_requests import cache_seen, logged_requests, requests_seen
from kv_cache_rl.traces.packed import end_of

HERE = Place("here")


def stored(blocks, parent=None, **more):
    return {
        "type": "BlockStored",
        "block_hashes": blocks,
        "parent_block_hash": parent,
        "block_size": 16,
        **more,
    }


def line(ts, *events, **more):
    return {"ts": ts, "events": list(events), **more}


def paths(found):
    return [(one.time_s, list(one.ids), one.output_tokens) for one in found.arrivals]


def seen_of(*lines):
    return cache_seen(batch_of(one, HERE) for one in lines)


SHAPES = {
    "named": [
        1.5,
        [{"type": "BlockStored", "block_hashes": [5, 6], "parent_block_hash": 4, "block_size": 16}],
        2,
    ],
    "objects": line(1.5, stored([5, 6], 4), data_parallel_rank=2),
    "lists": [1.5, [["BlockStored", [5, 6], 4, list(range(32)), 16, None, "GPU"]], 2],
    "newer": [1.5, [stored([5, 6], 4, token_ids=[1], lora_name=None, cold=True)], 2, "more", 7],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_vllm_s_batches_are_the_same_in_every_shape(shape):
    batch = batch_of(SHAPES[shape], HERE)
    assert batch.events == (Stored((5, 6), 4, 16),)
    assert (batch.time_s, batch.rank) == (1.5, 2)


@pytest.mark.parametrize("wrap", ["event", "worker", "recorder"])
def test_dynamo_s_events_are_the_same_in_every_wrapping(wrap):
    event = {
        "event_id": 3,
        "data": {"stored": {"parent_hash": 4, "blocks": [{"block_hash": 5, "tokens_hash": 1}]}},
    }
    worker = {"worker_id": 7, "event": event}
    value = {"event": event, "worker": worker, "recorder": {"timestamp": 2500, "event": worker}}[wrap]
    batch = batch_of(value, HERE)
    assert batch.events == (Stored((5,), 4),) and batch.sequence == 3
    assert batch.time_s == (2.5 if wrap == "recorder" else None)
    assert bool(batch.rank) == (wrap != "event")
    removed = {"event_id": 4, "data": {"removed": {"block_hashes": [5]}}}
    assert batch_of(removed, HERE).events == (Removed((5,)),)
    assert batch_of({"event_id": 4, "data": "cleared"}, HERE).events == (Cleared(),)


def test_events_of_a_newer_schema_are_kept_and_named():
    pinned = {"type": "BlockPinned", "block_hashes": [b"\x01\x02"], "ttl": float("nan")}
    batch = batch_of([1.0, [pinned, ["BlockMoved", [1], "CPU"], ["AllBlocksCleared"]]], HERE)
    assert [type(one) for one in batch.events] == [Unknown, Unknown, Cleared]
    assert record_of(batch)["events"][:2] == [
        {"type": "BlockPinned", "block_hashes": ["0102"], "ttl": None},
        {"type": "BlockMoved", "fields": [[1], "CPU"]},
    ]
    again = batch_of(json.loads(json.dumps(record_of(batch))), HERE)
    assert [one.name for one in again.events[:2]] == ["BlockPinned", "BlockMoved"]


def test_what_is_written_down_is_read_back_and_holds_no_tokens_of_prompts():
    events = Stored((2**64 - 1, "ab"), None, 16, session="s"), Removed((1,), "CPU", 1), Cleared()
    batch = Batch(events, 1.25, 3, 2**64 - 1, 4, True)
    assert batch_of(json.loads(json.dumps(record_of(batch))), HERE) == batch
    assert "token" not in json.dumps(record_of(batch_of(SHAPES["lists"], HERE)))


WRONG = {
    "a number": 5,
    "no events": {"ts": 1.0},
    "ts is a text": {"ts": "now", "events": []},
    "an event without a type": [1.0, [{"block_hashes": [1]}]],
    "an event that is a number": [1.0, [7]],
    "hashes that are no list": [1.0, [stored(5)]],
    "a hash that is a flag": [1.0, [stored([True])]],
    "a hash that is a list": [1.0, [stored([[1]])]],
    "blocks of minus one token": [1.0, [stored([1]) | {"block_size": -1}]],
    "data that is a list": {"event_id": 1, "data": [1]},
    "no block hash": {"event_id": 1, "data": {"stored": {"blocks": [{"hash": 1}]}}},
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_batch_is_refused_with_its_place(what):
    with pytest.raises(TraceError, match=r"^here"):
        batch_of(WRONG[what], HERE)


def test_a_store_asks_for_what_lies_ahead_of_it_and_for_its_own_blocks(write):
    path = write([line(10.0, stored([1, 2, 3])), line(20.0, stored([4, 5], 2)), line(30.0, stored([6]))])
    assert detect(path) == "kv-events"
    assert paths(requests_of(path)) == [(0.0, [0, 1, 2], None), (10.0, [0, 1, 3, 4], None), (20.0, [5], None)]
    trace = load_trace(path)
    assert (trace.requests, trace.accesses, lru_curve(trace).at(100)) == (3, 8, 2 / 8)
    assert "found all their blocks" in trace.left_out


def test_stores_soon_behind_a_request_are_more_of_its_prompt_or_written_by_decoding():
    chunks = [line(10.0, stored([1, 2])), line(10.5, stored([3, 4], 2))]
    decoded = [line(11.5, stored([5], 4)), line(12.9, stored([6], 5))]
    later = [line(13.0, stored([7, 8], 6)), line(14.8, stored([9], 8))]
    [first, second, third] = requests_seen("p", seen_of(*chunks, *decoded, *later), Reading()).arrivals
    assert (list(first.ids), first.output_tokens) == ([0, 1, 2, 3], 32)
    assert (list(second.ids), second.output_tokens) == ([0, 1, 2, 3, 4, 5, 6, 7], None)
    assert len(third.ids) == 9, "1.8 s are more than decoding 16 tokens takes"
    others = seen_of(chunks[0], line(10.5, stored([3, 4], 2, session_id="other")))
    assert [one.session for one in others.requests] == ["", "other"]


def test_what_was_stored_before_the_recording_stands_at_the_root_until_it_is_stored_again():
    seen = seen_of(line(1.0, stored([5], 4)), line(9.0, stored([7], 5)))
    assert [list(one.ids) for one in requests_seen("p", seen, Reading()).arrivals] == [[0, 1], [0, 1, 2]]
    assert any("1 blocks were stored before" in note for note in requests_seen("p", seen, Reading()).notes)
    seen.take(batch_of(line(20.0, stored([3, 4])), HERE))
    assert [len(one.ids) for one in requests_seen("p", seen, Reading()).arrivals] == [3, 4, 2]


def test_a_parent_whose_own_parents_turn_up_later_counts_with_them():
    seen = seen_of(
        line(1.0, stored(["b"], "a")), line(101.0, stored(["x", "a"])), line(201.0, stored(["c"], "b"))
    )
    assert (seen.counts["found"], seen.counts["computed"]) == (1 + 0 + 3, 1 + 2 + 1)


def test_a_session_may_be_called_0():
    first, second = stored([1], session_id=0), stored([2], session_id=7)
    assert [one.session for one in seen_of(line(1.0, first), line(90.0, second)).requests] == ["0", "7"]


def test_events_that_name_their_own_blocks_as_parents_make_no_endless_chain():
    seen = seen_of(line(1.0, stored([1], 2)), line(5.0, stored([2], 1)), line(9.0, stored([3, 3], 3)))
    assert all(len(one.ids) <= 3 for one in requests_seen("p", seen, Reading()).arrivals)


def test_the_cache_is_what_was_stored_and_has_not_left():
    seen = seen_of(
        line(1.0, stored([1, 2, 3])),
        line(2.0, {"type": "BlockRemoved", "block_hashes": [3, 99]}, stored([7], medium="CPU")),
        line(9.0, stored([3, 4], 2), stored([5], group_idx=1)),
    )
    assert (len(seen.held), seen.peak, seen.counts["again"]) == (4, 4, 1)
    assert seen.elsewhere == {"CPU": 1, "group 1": 1}
    seen.take(batch_of(line(10.0, {"type": "AllBlocksCleared"}), HERE))
    assert (len(seen.held), seen.peak) == (0, 4)


def test_caches_that_share_a_stream_share_no_block():
    seen = seen_of(line(1.0, stored([1, 2])), line(2.0, stored([1, 2]), data_parallel_rank=1))
    assert len(seen.held) == 4
    seen.take(batch_of(line(3.0, {"type": "AllBlocksCleared"}, data_parallel_rank=1), HERE))
    assert len(seen.held) == 2


def test_a_clock_that_is_set_back_does_not_reorder_a_stream():
    seen = seen_of(line(10.0, stored([1])), line(3.0, stored([2])), line(11.0, stored([4])))
    assert [one.time_s for one in seen.requests] == [10.0, 10.0, 11.0]


def lru_events(requests, room, rng):
    """Events of an LRU cache, request by request, and how many blocks it found."""
    held, events, hits, asked = OrderedDict(), [], 0, 0
    for at, path in enumerate(requests):
        found = next((n for n, block in enumerate(path) if block not in held), len(path))
        hits, asked = hits + found, asked + len(path)
        for block in reversed(path):
            held[block] = True
            held.move_to_end(block)
        gone = [held.popitem(last=False)[0] for _ in range(max(0, len(held) - room))]
        batch = [{"type": "BlockRemoved", "block_hashes": gone}] if gone else []
        if found < len(path):
            batch.append(stored(list(path[found:]), path[found - 1] if found else None))
        if batch:
            events.append(line(10.0 * at, *batch))
    return events, hits, asked


def test_the_lab_finds_in_the_recording_what_the_engine_found(write):
    rng = Random(5)
    sessions = [[(0,), (0, who)] for who in range(1, 9)]
    requests = []
    for at in range(300):
        session = sessions[rng.randrange(8)]
        session.append((*session[-1], ("new", at)))
        requests.append(tuple(hash(session[-1][: n + 1]) for n in range(len(session[-1]))))
        if len(session) > 12:
            del session[2:]
    events, hits, asked = lru_events(requests, 40, rng)
    trace = load_trace(write(events))
    assert trace.requests == 300, "each of them stores a block"
    assert (trace.accesses, lru_curve(trace).at(40)) == (asked, pytest.approx(hits / asked, abs=0))


def test_a_log_without_blocks_gives_requests_their_lengths_and_the_events_their_blocks(write):
    events = [line(1e9, stored([1, 2, 3])), line(1e9 + 5, stored([4], 2)), line(1e9 + 9, stored([8, 9]))]
    rows = [(1, 55, 7), (2, 40, 9), (4.5, 60, 8), (8, 33, 6)]
    log = write(
        [{"timestamp": 1000 * (1e9 + at), "input_length": a, "output_length": b} for at, a, b in rows]
    )
    found = logged_requests("events", seen_of(*events), requests_of(log), Reading())
    assert [(one.input_tokens, one.output_tokens, list(one.ids)) for one in found.arrivals] == [
        (55, 7, [0, 1, 2]),
        (60, 8, [0, 1, 3]),
        (33, 6, [4, 5]),
    ]
    assert found.left_out == {"requests that stored no block: what they found is not seen": 1}
    late = write([{"timestamp": 5, "input_length": 50, "output_length": 1}], "late.jsonl")
    with pytest.raises(TraceError, match=r"none of its 1 requests arrived while .* milliseconds since 1970"):
        logged_requests("events", seen_of(*events), requests_of(late), Reading())


@pytest.mark.parametrize("late", [-0.1, 0.6], ids=["logged on arrival", "logged after the store"])
def test_requests_less_than_a_second_apart_keep_the_blocks_that_were_stored_for_them(write, late):
    events = [
        line(1e9, stored([1, 2, 3])),
        line(1e9 + 1, stored([4], 2)),
        line(1e9 + 1.9, stored([7, 8, 9])),
        line(1e9 + 9, stored([5], 3)),
    ]
    rows = [
        {"timestamp": 1000 * (1e9 + at + late), "input_length": 16 * blocks + 2, "output_length": 1}
        for at, blocks in ((0, 3), (1, 3), (1.9, 3), (9, 4))
    ]
    found = logged_requests("events", seen_of(*events), requests_of(write(rows)), Reading())
    assert [list(one.ids) for one in found.arrivals] == [[0, 1, 2], [0, 1, 3], [4, 5, 6], [0, 1, 2, 7]]


def test_a_log_that_names_blocks_is_the_trace_and_the_events_say_what_was_found(write):
    rows = [
        {"timestamp": 1e3 * at, "input_length": 48, "output_length": 1, "hash_ids": [1, 2, 3]}
        for at in (0, 9)
    ]
    log = requests_of(write(rows), Reading(block_size=16))
    found = logged_requests("events", seen_of(line(0.0, stored([7, 8, 9]))), log, Reading())
    assert [list(one.ids) for one in found.arrivals] == [[1, 2, 3], [1, 2, 3]]
    assert "computed 3 of the 6 full blocks that the log asks for, and found 50.00%" in found.notes[0]


def test_a_cache_that_was_cleared_is_told_wherever_its_requests_are(write):
    twice = [line(1.0, stored([1, 2])), line(9.0, stored([1, 2]))]
    assert any("so the engine's hit rate is higher" in note for note in requests_of(write(twice)).notes)
    cleared = [twice[0], line(5.0, {"type": "AllBlocksCleared"}), twice[1]]
    path = write(cleared, "cleared.jsonl")
    notes = requests_of(path).notes
    assert "cleared its cache 1 time: what it computed anew after that, a replay finds" in " ".join(notes)
    assert not any("hit rate is higher" in note for note in notes)
    trace = load_trace(path)
    assert trace.left_out.endswith("so stored none, and 1 time that the cache was emptied,")
    assert lru_curve(trace).at(10) == 0.5


def test_events_tell_no_answers_and_the_plan_says_what_does(write):
    events = write([line(1.0, stored([1])), line(2.0, stored([2]))])
    with pytest.raises(TraceError, match=r"no output length; join .* kv-cache-rl engine attach --requests"):
        demand_of(events)


def test_a_recording_that_stores_nothing_or_mixes_engines_is_refused(write):
    nothing = write([line(1.0, {"type": "AllBlocksCleared"})])
    with pytest.raises(TraceError, match="its 1 batches of KV events store no block"):
        requests_of(nothing)
    mixed = write([line(1.0, stored([1])), line(2.0, stored([2]) | {"block_size": 64})], "mixed.jsonl")
    with pytest.raises(TraceError, match=r"its blocks have \[16, 64\] tokens; record one engine"):
        requests_of(mixed)


def test_a_file_that_is_cut_off_or_damaged_names_the_line(write, tmp_path):
    lines = [json.dumps(line(1.0, stored([1]))), json.dumps(line(2.0, stored([2])))[:-9]]
    with pytest.raises(TraceError, match=r"line 2: the line is cut off"):
        list(read(write(lines)))
    with pytest.raises(TraceError, match=r"line 2: expected a JSON object"):
        list(read(write([lines[0], "7"])))
    unnamed = ['[1.0, [["BlockStored", [1], null, [], 16]], 0]', '[2.0, [["BlockStored", [2']
    with pytest.raises(TraceError, match=r"line 2: the line is cut off"):
        list(read(write(unnamed)))


def test_payloads_in_msgpack_are_read_one_after_the_other(tmp_path):
    batches = [[1.0 + at, [stored([at, at + 1], at - 1 if at else None)], 0] for at in range(0, 4000, 2)]
    data = b"".join(msgspec.msgpack.encode(one) for one in batches)
    path = tmp_path / "events.msgpack"
    path.write_bytes(data)
    assert detect(path) == "kv-events"
    found = list(read(path))
    assert len(found) == 2000 and found[7] == batch_of(batches[7], HERE)
    path.write_bytes(data[:-3])
    with pytest.raises(TraceError, match=r"line 2000: the file ends inside batch 2,000 \(cut off\?\)"):
        list(read(path))
    path.write_bytes(data[: len(msgspec.msgpack.encode(batches[0]))] + b"\xc1\xc1")
    with pytest.raises(
        TraceError, match=r"batch 2 is no msgpack \(byte 0xc1 begins no value\); cut the file off"
    ):
        list(read(path))


def test_the_end_of_every_kind_of_value_is_found():
    wide = ["x" * size for size in (5, 200, 70_000)] + [b"y" * size for size in (5, 300, 70_000)]
    whole = [0, -1, 200, 70_000, 2**33, 2**63, -200, -70_000, -(2**33), 1.5, None, True]
    for value in [*wide, *whole, list(range(20)), list(range(70_000)), {str(k): k for k in range(20)}]:
        data = msgspec.msgpack.encode(value)
        assert end_of(data + b"rest") == len(data)
        assert end_of(data[:-1]) is None


def test_a_cache_without_events_is_empty():
    assert (CacheSeen().span_s, CacheSeen().peak) == (0.0, 0)
