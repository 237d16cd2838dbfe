"""Sequences told apart and what each turn finds of its context."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.traces import read_mooncake, read_sessions
from kv_cache_rl.traces.tracks import (
    ChainedRequest,
    call_seconds,
    chain_tracks,
    jittered,
    mooncake_tracks,
    session_tracks,
)


@pytest.fixture
def turns(write, session, call):
    """turns(calls) → the turns of a session made of (t, tokens, runs, changes) tuples."""

    def read(*calls):
        line = session("a", [call(t, tokens, runs, **changes) for t, tokens, runs, changes in calls])
        (found,) = read_sessions(write([line]))
        return next(session_tracks(found)).turns

    return read


def test_an_extended_input_keeps_the_previous_input_and_output(turns):
    first, second = turns((0, 640, [[1, 10]], {"out": 50}), (9, 900, [[1, 14]], {}))
    assert (first.kept_tokens, second.kept_tokens) == (0, 690)
    assert second.input_tokens - second.kept_tokens == 210


def test_two_blocks_lost_at_the_end_are_no_lost_context_but_three_are(turns):
    slack = turns((0, 640, [[1, 10]], {"out": 50}), (9, 900, [[1, 8], [20, 6]], {}))
    lost = turns((0, 640, [[1, 10]], {"out": 50}), (9, 900, [[1, 7], [20, 7]], {}))
    assert (slack[1].kept_tokens, lost[1].kept_tokens) == (690, 7 * 64)


def test_an_output_that_was_not_carried_over_is_not_kept(turns):
    assert turns((0, 640, [[1, 10]], {"out": 500}), (9, 700, [[1, 10]], {}))[1].kept_tokens == 640


def test_a_compacted_context_keeps_what_is_still_shared(turns):
    long, compacted, after = turns(
        (0, 6400, [[1, 100]], {"out": 64}),
        (9, 640, [[1, 3], [200, 7]], {"out": 64}),
        (20, 768, [[1, 3], [200, 9]], {}),
    )
    assert (long.kept_tokens, compacted.kept_tokens, after.kept_tokens) == (0, 3 * 64, 704)


def test_kinds_of_input_and_thinking_are_told_from_the_block_types(turns):
    found = turns(
        (0, 64, [[1, 1]], {"it": ["text"], "ot": ["thinking", "tool_use"]}),
        (5, 64, [[1, 1]], {"it": ["tool_result"]}),
        (9, 64, [[1, 1]], {"it": ["text", "thinking", "tool_result", "tool_use"]}),
    )
    assert [turn.input_kind for turn in found] == ["user", "tool_result", "rewritten"]
    assert [turn.thinking for turn in found] == [True, False, False]


def test_a_call_without_a_recorded_end_lasts_as_long_as_its_output_needs(turns):
    known, unknown = turns((0, 64, [[1, 1]], {}), (5, 64, [[1, 1]], {"api_time": None, "out": 580}))
    assert known.end_s == 2.0
    assert unknown.end_s == 5 + call_seconds(580) == 5 + 2 + 10


def test_a_sub_agent_is_a_track_of_its_own_on_the_sessions_clock(write, session, call, agent):
    line = session(
        "a", [call(0, 640, [[1, 10]]), agent(30.0, [call(1, 128, [[50, 2]]), call(8, 256, [[50, 4]])])]
    )
    (found,) = read_sessions(write([line]))
    main, helper = session_tracks(found)
    assert (main.id, main.is_sub_agent, main.prefix_tokens) == ("a", False, 128)
    assert (helper.id, helper.is_sub_agent, helper.prefix_tokens) == ("a/agent_001", True, 64)
    assert [turn.start_s for turn in helper.turns] == [31.0, 38.0]
    assert helper.turns[1].kept_tokens == 228
    assert main.prefix_key != helper.prefix_key


def test_sessions_with_equal_prompt_lengths_share_a_prefix_key_no_longer_than_their_inputs(
    write, session, call
):
    first = session("a", [call(0, 100, [[1, 1]])], tool_tokens=90, system_tokens=90)
    second = session("b", [call(0, 640, [[1, 10]])], tool_tokens=90, system_tokens=90)
    tracks = [next(session_tracks(found)) for found in read_sessions(write([first, second]))]
    assert tracks[0].prefix_key == tracks[1].prefix_key
    assert [track.prefix_tokens for track in tracks] == [100, 180]


def mooncake(second, tokens, output, ids):
    return {"timestamp": second * 1000, "input_length": tokens, "output_length": output, "hash_ids": ids}


def test_the_chains_of_a_hand_made_trace_are_rebuilt_exactly(write):
    lines = [
        mooncake(0, 1200, 100, [0, 1, 2]),  # A1: full blocks 0 and 1
        mooncake(1, 1100, 10, [0, 10, 11]),  # B1: shares only the system block
        mooncake(2, 600, 10, [0, 20]),  # C1: fills no block of its own
        mooncake(9, 1600, 200, [0, 1, 3, 4]),  # A2: extends A1
        mooncake(10, 1300, 10, [0, 1, 30]),  # D1: shares A1's blocks, but A has moved on
        mooncake(11, 700, 10, [0, 21]),  # E1: extends no chain
        mooncake(30, 1700, 10, [0, 1, 3, 5]),  # A3: A2's output was not carried over in full
        mooncake(31, 1500, 10, [0, 10, 12]),  # B2
    ]
    tracks = mooncake_tracks(read_mooncake(write(lines)), random.Random(0))
    assert [[turn.input_tokens for turn in track.turns] for track in tracks] == [
        [1200, 1600, 1700],
        [1100, 1500],
        [600],
        [1300],
        [700],
    ]
    assert [turn.kept_tokens for turn in tracks[0].turns] == [0, 1300, 1600]
    assert [turn.kept_tokens for turn in tracks[1].turns] == [0, 1110]
    assert {(track.prefix_key, track.prefix_tokens) for track in tracks} == {("block 0", 512)}


@pytest.mark.parametrize(("sharers", "prefix"), [(2, 0), (3, 1024)])
def test_three_sequences_make_a_leading_chain_a_shared_prefix(sharers, prefix):
    requests = [ChainedRequest(float(at), 1600, 10, (0, 1, 10 + at, 50 + at)) for at in range(sharers)]
    tracks = chain_tracks(requests, 512)
    assert [track.prefix_tokens for track in tracks] == [prefix] * sharers
    assert {track.prefix_key for track in tracks} == {"block 1" if prefix else ""}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(512, 3000), min_size=1, max_size=5), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_interleaved_conversations_are_told_apart(growths, rng):
    due = [at for at, turns in enumerate(growths) for _ in turns]
    rng.shuffle(due)
    requests, tokens, chains = [], [0] * len(growths), [[] for _ in growths]
    for clock, at in enumerate(due):
        turn = sum(other == at for other in due[:clock])
        tokens[at] += growths[at][turn]
        whole = tokens[at] // 512
        chains[at] += [(at, block) for block in range(len(chains[at]), whole)]
        ids = [-1 - at * 1000 - block for at, block in chains[at]] + [clock] * (tokens[at] % 512 > 0)
        requests.append(ChainedRequest(float(clock), tokens[at], 0, tuple(ids)))
    found = sorted(tuple(turn.start_s for turn in track.turns) for track in chain_tracks(requests, 512))
    assert found == sorted(
        tuple(float(c) for c, other in enumerate(due) if other == at) for at in range(len(growths))
    )


def at_times(times):
    return [ChainedRequest(float(time), 10 + at, 1, (at,)) for at, time in enumerate(times)]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(0, 2**32))
def test_jitter_stays_inside_the_tick_and_keeps_the_order(ticks, seed):
    times = sorted(3 * tick for tick in ticks)
    spread = jittered(at_times(times), random.Random(seed))
    starts = [request.start_s for request in spread]
    assert [request.ids for request in spread] == [request.ids for request in at_times(times)]
    assert starts == sorted(starts)
    following = {time: min((t for t in times if t > time), default=float("inf")) for time in times}
    assert all(time <= start <= following[time] for time, start in zip(times, starts, strict=True))


def test_a_coarse_clock_is_spread_over_its_ticks_and_a_fine_one_left_alone():
    coarse = jittered(at_times([0] * 10 + [3] * 10 + [6] * 10), random.Random(1))
    assert len({request.start_s for request in coarse}) == 30
    assert max(request.start_s for request in coarse) < 9
    fine = at_times([0, 0.012, 0.012, 0.5])
    assert jittered(fine, random.Random(1)) == fine
