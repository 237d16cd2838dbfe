"""Windows: nothing outside them, nothing lost, nothing left to chance."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from kv_cache_rl.traces import TraceError, cut_windows, read_mooncake, read_sessions
from kv_cache_rl.traces.tracks import session_tracks


def random_session(rng, name, session, call, agent):
    requests, t, tokens = [], 0.0, rng.randrange(200, 5000)
    for turn in range(rng.randrange(1, 12)):
        runs = [[1, tokens // 64]]
        requests.append(call(t, tokens, runs, out=rng.randrange(500), api_time=round(rng.uniform(1, 40), 2)))
        if rng.random() < 0.2:
            inner = [call(0.0, 640, [[9000, 10]]), call(6.0, 1280, [[9000, 20]])]
            requests.append(agent(t, inner, agent_id=f"agent_{turn}"))
        t += round(rng.lognormvariate(3, 1), 1)
        tokens += rng.randrange(64, 2000)
    return session(name, requests)


@pytest.fixture
def sessions_file(write, session, call, agent):
    rng = random.Random(5)
    lines = [random_session(rng, f"s{at}", session, call, agent) for at in range(60)]
    return write([*lines, lines[0] | {"id": "copy", "exact_duplicate": True}], "sessions.jsonl.gz")


@pytest.fixture
def service_file(write):
    rng, lines, clock, unit = random.Random(6), [], 0, 0
    open_chains = []
    while clock < 600_000:
        if open_chains and rng.random() < 0.5:
            chain = open_chains.pop(rng.randrange(len(open_chains)))
        else:
            chain = [0]
        grown = rng.randrange(1, 4)
        chain, unit = chain + list(range(unit + 1, unit + 1 + grown)), unit + grown
        lines.append(
            {"timestamp": clock, "input_length": 512 * len(chain), "output_length": 50, "hash_ids": chain}
        )
        open_chains = [*open_chains, chain][-40:]
        clock += rng.choice([0, 0, 3000])
    return write(lines, "service.jsonl")


def test_every_arrival_is_inside_its_window_and_in_order(sessions_file, service_file):
    for path in (sessions_file, service_file):
        for window in cut_windows(path, seed=1, live=4, window_s=20.0):
            assert window.start_s == window.index * 20.0
            assert len({found.id for found in window.sessions}) == len(window.sessions)
            for found in window.sessions:
                arrivals = [turn.arrive_s for turn in found.turns]
                assert arrivals == sorted(arrivals)
                assert all(0 <= arrival < 20 and round(arrival, 3) == arrival for arrival in arrivals)
                assert all(turn.new_tokens >= 0 and turn.kept_tokens >= 0 for turn in found.turns)


def test_every_call_of_a_session_arrives_in_exactly_one_window(sessions_file):
    expected = Counter(
        (track.id, turn.input_tokens, turn.kept_tokens, turn.output_tokens)
        for found in read_sessions(sessions_file, drop_duplicates=True)
        for track in session_tracks(found)
        for turn in track.turns
    )
    for live in (1, 8, 1000):
        arrived = Counter(
            (found.id.split("~")[0], turn.kept_tokens + turn.new_tokens, turn.kept_tokens, turn.output_tokens)
            for window in cut_windows(sessions_file, seed=3, live=live)
            for found in window.sessions
            for turn in found.turns
        )
        assert arrived == expected


def test_every_call_of_a_service_after_the_first_minute_arrives_in_exactly_one_window(service_file):
    requests = list(read_mooncake(service_file))
    end_ms = 30_000 * (requests[-1].timestamp_ms // 30_000)
    expected = Counter(
        request.input_length for request in requests if 60_000 <= request.timestamp_ms < end_ms
    )
    windows = list(cut_windows(service_file, seed=3, live=4))
    assert len({window.server for window in windows}) > 1
    arrived = Counter(
        turn.kept_tokens + turn.new_tokens
        for window in windows
        for found in window.sessions
        for turn in found.turns
    )
    assert arrived == expected


def test_as_many_sequences_are_live_as_were_asked_for(sessions_file, service_file):
    for path, live in ((sessions_file, 6.0), (service_file, 6.0), (sessions_file, 12.0)):
        seen = [
            sum(found.last_seen_s is not None and found.last_seen_s > -60 for found in window.sessions)
            for window in cut_windows(path, seed=2, live=live, window_s=2.0)
        ]
        assert sum(seen) / len(seen) == pytest.approx(live, rel=0.1)


def test_the_same_file_and_seed_give_the_same_windows_and_another_seed_others(sessions_file, service_file):
    for path in (sessions_file, service_file):
        assert list(cut_windows(path, seed=1)) == list(cut_windows(path, seed=1))
        assert list(cut_windows(path, seed=1)) != list(cut_windows(path, seed=2))
        assert list(cut_windows(path, seed=1, limit=3)) == list(cut_windows(path, seed=1))[:3]
        assert list(cut_windows(path, seed=1, limit=0)) == []


@pytest.fixture
def one(write, session, call):
    """What windows of 10 s see of a session with calls at 0 (6 s long), 21 and 95 s."""
    calls = [
        call(0, 640, [[1, 10]], out=60, api_time=6.0, ot=["thinking"]),
        call(21, 800, [[1, 12]], stop="end_turn"),
    ]
    path = write([session("a", [*calls, call(95, 960, [[1, 15]])])])
    return [found for window in cut_windows(path, seed=0, window_s=10.0) for found in window.sessions]


def test_a_sequence_carries_its_context_its_age_and_its_future_into_each_window(one):
    (first,) = (found for found in one if found.last_seen_s is None)
    assert (first.context_tokens_at_start, first.running_output_tokens, first.last_stop) == (0, 0, "")
    assert (first.turns[0].kept_tokens, first.turns[0].new_tokens) == (0, 640)
    assert first.more_turns_after
    idle = [
        found for found in one if found.context_tokens_at_start == 700 and not found.running_output_tokens
    ]
    assert idle and all(found.last_seen_s < 0 and found.last_stop == "tool_use" for found in idle)
    later = [found for found in one if found.context_tokens_at_start == 900 and found.turns]
    assert [(found.last_stop, found.turns[0].kept_tokens, found.turns[0].new_tokens) for found in later] == [
        ("end_turn", 900, 60)
    ]
    assert not later[0].more_turns_after
    assert later[0].last_seen_s < -60


@pytest.mark.parametrize("speedup", [1.0, 10.0])
def test_a_call_in_progress_at_the_start_has_its_output_split_by_time(write, session, call, speedup):
    path = write([session("a", [call(0, 640, [[1, 10]], out=600, api_time=60.0, ot=["thinking"])])])
    windows = cut_windows(path, seed=0, window_s=1.0, speedup=speedup)
    running = [found for window in windows for found in window.sessions if found.last_seen_s == 0]
    assert len(running) == 60
    assert all(found.running_thinking for found in running)
    assert {found.context_tokens_at_start + found.running_output_tokens for found in running} == {1240}
    left = sorted(found.running_output_tokens for found in running)
    assert 1 <= left[0] <= 10
    assert all(later - earlier in (9, 10, 11) for earlier, later in pairwise(left))


def test_a_faster_clock_brings_turns_together_and_leaves_calls_as_long(write, session, call):
    path = write([session("a", [call(0, 640, [[1, 10]]), call(80, 800, [[1, 12]])])])
    slow = [len(w.sessions[0].turns) for w in cut_windows(path, seed=4, window_s=1000.0)]
    gaps = {}
    for speedup in (1.0, 8.0):
        (found,) = next(cut_windows(path, seed=4, window_s=1000.0, speedup=speedup)).sessions
        gaps[speedup] = found.turns[1].arrive_s - found.turns[0].arrive_s
    assert slow == [2]
    assert gaps[1.0] == pytest.approx(80, abs=0.002)
    assert gaps[8.0] == pytest.approx(10, abs=0.002)


def test_no_more_sequences_are_live_than_the_file_has(write, session, call):
    path = write([session("a", [call(0, 640, [[1, 10]]), call(500, 800, [[1, 12]])])])
    windows = list(cut_windows(path, seed=0, live=24))
    assert len(windows) > 3
    assert sum(len(found.turns) for window in windows for found in window.sessions) == 2


@pytest.mark.parametrize(
    "bad", [{"live": 0}, {"window_s": -1}, {"speedup": float("nan")}, {"live_s": 0}, {"limit": -1}]
)
def test_arguments_out_of_range_are_refused_by_name(sessions_file, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        cut_windows(sessions_file, seed=0, **bad)


def test_traces_that_cannot_give_windows_are_refused_at_the_call(write, session, call):
    table = write(["TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,1,2"], "azure.csv")
    with pytest.raises(TraceError, match=r"azure format names no blocks.*claude-code, mooncake, bailian"):
        cut_windows(table, seed=0)
    copies = write([session("a", [call(0, 64, [[1, 1]])], exact_duplicate=True)], "copies.jsonl")
    with pytest.raises(TraceError, match="every session is an exact duplicate"):
        cut_windows(copies, seed=0)
    line = {"timestamp": 10**15, "input_length": 600, "output_length": 1, "hash_ids": [1, 2]}
    with pytest.raises(TraceError, match=r"more than 10,000,000 windows.*unit of its times"):
        cut_windows(write([line | {"timestamp": 0}, line], "unit.jsonl"), seed=0)
    assert list(cut_windows(write([line], "since_1970.jsonl"), seed=0))


@pytest.mark.parametrize("shift_s", [40, 1_800, 90_000, 1_700_000_000])
def test_windows_do_not_depend_on_when_the_clock_begins(write, shift_s):
    rng, rows = random.Random(1), []
    for name in range(60):
        at, tokens = rng.randrange(3600), 3000
        for _ in range(3):
            at, tokens = at + rng.randrange(5, 60), tokens + rng.randrange(200, 2000)
            rows.append((at, f"s{name}", tokens))
    first = min(rows)[0]

    def windows(shift):
        lines = [
            {"timestamp": 1000 * (at - first + shift), "session_id": name, "input_length": tokens}
            | {"output_length": 300}
            for at, name, tokens in sorted(rows)
        ]
        found = cut_windows(write(lines), seed=1, live=4, window_s=60.0)
        return [(one.index, sorted(inside.id for inside in one.sessions)) for one in found]

    assert windows(shift_s) == windows(0)
