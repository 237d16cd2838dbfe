"""Idle caches, returns and the link, worked out by hand.

A block is 2,097,152 bytes. PCIe 4 carries 24,800 bytes per µs, 11,000 in each direction while both are busy;
its latency of 20 µs counts as 496,000 bytes."""

import pytest
from driving import Face, serve, users

from kv_cache_rl.sim.serving.score import TERM_WEIGHTS, report

EVICT_LARGEST, EVICT_OLDEST, SWAP_LARGEST, SWAP_OLDEST, ADMIT, REJECT, SHRED, PREEMPT_SWAP = range(0, 16, 2)
COLLECT, NOTHING = 16, 17
QUEUED, ACTIVE, FINISHED, DROPPED, REJECTED = 1, 2, 3, 4, 5
NOWHERE, GPU, LEAVING, CPU, ENTERING = range(5)
SECOND = 1_000_000
FIRST_TURN = (0, 50, 14)
"""64 tokens of KV at its end, four blocks."""
RETURN = (SECOND, 70, 5, 0, 0, 0, 64)


def play(face, *actions):
    """Takes these decisions; the sum of their rewards."""
    return sum(face.act(action) for action in actions)


def finished(*turns, rows=(0,), **settings):
    """A face of this traffic where all of `rows`, Free, are done and idle."""
    face = Face(serve(users(*turns), **settings))
    play(face, *[ADMIT] * len(rows))
    return face.until(lambda f: all(f.row(row)["status"] == FINISHED for row in rows))


def here(face, row):
    """Waits until `row` is in its queue."""
    return face.until(lambda f: f.row(row)["status"] == QUEUED)


def test_a_return_builds_on_its_cache_on_the_gpu():
    face = here(finished(FIRST_TURN, RETURN), 1)
    start = face.clock
    play(face, ADMIT, NOTHING)
    assert (face.row(0)["where"], face.row(0)["blocks"]) == (NOWHERE, 0)
    assert (face.row(1)["found"], face.row(1)["tokens"], face.row(1)["blocks"], face.used(0)) == (
        64,
        70,
        5,
        5,
    )
    assert face.clock - start == 9_000 + 400  # 6 tokens, not 70
    assert report(face.state).cache_residency == 1.0


def test_a_return_needs_only_the_blocks_its_cache_does_not_give():
    face = here(finished((0, 200, 24), (SECOND, 235, 9, 0, 0, 0, 224), gpu_blocks=16), 1)
    assert face.used(0) == 14 and face.mask[ADMIT]  # 15 blocks of 16, two of them free
    play(face, ADMIT)
    assert face.used(0) == 15


def test_a_return_of_another_kind_keeps_what_is_the_same_and_frees_the_rest():
    face = here(finished((0, 50, 14), (SECOND, 20, 5, 0, 0, 0, 17)), 1)
    play(face, ADMIT)
    assert (face.row(1)["found"], face.row(1)["blocks"], face.used(0)) == (17, 2, 2)


def test_a_return_whose_cache_is_on_the_cpu_waits_for_its_bytes():
    face = finished(FIRST_TURN, RETURN)
    assert play(face, SWAP_LARGEST, NOTHING) == pytest.approx(4 * TERM_WEIGHTS["swap_traffic"])
    assert (face.row(0)["where"], face.used(0), face.used(1)) == (CPU, 0, 4)
    here(face, 1)
    start = face.clock
    assert play(face, ADMIT) == pytest.approx(4 * TERM_WEIGHTS["swap_traffic"])
    assert (face.row(1)["where"], face.row(1)["found"], face.used(0), face.used(1)) == (ENTERING, 64, 5, 4)
    face.act(NOTHING)
    # (4 x 2,097,152 + 496,000) / 24,800 = 358.2: nothing else is computed, so the tick ends there.
    assert face.clock - start == 359
    assert (face.row(1)["where"], face.row(1)["tokens"], face.used(0), face.used(1)) == (GPU, 64, 5, 0)
    face.act(NOTHING)
    assert face.clock - start == 359 + 9_400
    face.until(lambda f: f.row(1)["status"] == FINISHED)
    assert report(face.state).bytes_swapped == 8 * 2_097_152


def test_only_the_blocks_a_return_can_use_cross_the_link():
    face = finished(FIRST_TURN, (SECOND, 20, 5, 0, 0, 0, 17))
    play(face, SWAP_LARGEST, NOTHING)
    start = here(face, 1).clock
    play(face, ADMIT)
    assert (face.row(1)["cpu_blocks"], face.used(1)) == (2, 2)
    face.act(NOTHING)
    assert face.clock - start == 190  # (2 x 2,097,152 + 496,000) / 24,800 = 189.1


def test_a_return_whose_cache_was_evicted_is_prefilled_anew():
    face = finished(FIRST_TURN, RETURN)
    play(face, EVICT_LARGEST)
    assert face.used(0) == 0
    start = here(face, 1).clock
    play(face, ADMIT, NOTHING)
    assert (face.row(1)["found"], face.row(1)["tokens"]) == (0, 70)
    assert face.clock - start == 9_000 + (70 * 66_700 + 2 * 2_600) // 1_000
    assert report(face.state).cache_residency == 0.0


def test_a_return_waits_while_its_cache_is_leaving():
    # 10 x 2,097,152 bytes take 866 µs: a return that came in the tick before meets them on their way.
    face = here(finished((0, 150, 10), (SECOND, 170, 5, 0, 0, 0, 160)), 1)
    play(face, SWAP_LARGEST)
    assert face.row(0)["where"] == LEAVING and not face.mask[ADMIT]
    face.act(NOTHING)
    assert face.row(0)["where"] == CPU and face.mask[ADMIT]


def test_both_lanes_slow_each_other_down_to_the_microsecond():
    stays, returns = (0, 150, 10), (SECOND, 70, 5, 1, 0, 1, 64)
    face = Face(serve(users(stays, (0, 50, 14, 1), returns)))
    play(face, ADMIT, ADMIT + 1)
    face.until(lambda f: f.row(0)["status"] == f.row(1)["status"] == FINISHED)
    play(face, SWAP_OLDEST + 1, NOTHING)
    start = here(face, 2).clock
    play(face, SWAP_OLDEST, ADMIT + 1, NOTHING)
    # In: 8,884,608 bytes at 11,000 per µs land after 808 µs and end the tick; of the 21,467,520 bytes out
    # 8,888,000 have crossed.
    assert face.clock - start == 808
    assert (face.row(0)["where"], face.row(2)["where"]) == (LEAVING, GPU)
    assert face.seen[20] == 1.0
    face.act(NOTHING)
    # The other 12,579,520 bytes take 508 µs of the next tick, alone.
    assert face.row(0)["where"] == CPU
    assert face.clock - start == 808 + 9_400
    assert face.seen[20] == pytest.approx(508 / 9_400)


def test_transfers_of_a_lane_follow_one_another():
    face = finished((0, 50, 14), (0, 150, 10), rows=(0, 1))
    play(face, SWAP_OLDEST, SWAP_OLDEST, NOTHING)
    assert [face.row(row)["where"] for row in (0, 1)] == [CPU, CPU]
    # 10 blocks take 866 µs, 4 blocks 359; the longer one ended first in, first out.
    assert face.seen[20] == pytest.approx((866 + 359) / 20_000)


def test_blocks_on_their_way_out_are_free_only_when_they_have_landed():
    face = finished((0, 200, 24), (1, 60, 4), gpu_blocks=16)
    play(face, SWAP_LARGEST)
    assert face.used(0) == 14 and face.used(1) == 14 and not face.mask[ADMIT]
    face.act(NOTHING)
    assert face.used(0) == 0 and face.mask[ADMIT]


def test_a_preempted_request_returns_from_the_cpu_and_finishes():
    face = Face(serve(users((0, 60, 30), (0, 60, 30))))
    play(face, ADMIT, ADMIT, NOTHING, NOTHING, NOTHING)
    assert play(face, PREEMPT_SWAP) == pytest.approx(4 * TERM_WEIGHTS["swap_traffic"])
    out = face.row(1)  # of equals, the newest
    assert (out["status"], out["where"], out["made"], out["tokens"], out["blocks"], out["cpu_blocks"]) == (
        QUEUED,
        LEAVING,
        2,
        62,
        4,
        4,
    )
    assert not face.mask[ADMIT] and not face.mask[REJECT]
    face.act(NOTHING)
    assert face.row(1)["where"] == CPU and face.mask[ADMIT] and face.mask[REJECT]
    since, waited = face.row(1)["since"], face.clock
    play(face, ADMIT, NOTHING)
    assert face.row(1)["waited"] == waited - since
    assert (face.row(1)["where"], face.row(1)["made"], face.used(1)) == (GPU, 2, 0)
    face.until(lambda f: f.row(1)["status"] == FINISHED)
    assert face.row(1)["made"] == 30 and face.row(1)["tokens"] == 90


def test_rejecting_what_lies_on_the_cpu_frees_it():
    face = Face(serve(users((0, 60, 30))))
    play(face, ADMIT, NOTHING, PREEMPT_SWAP, NOTHING)
    assert face.used(1) == 4
    play(face, REJECT)
    assert face.used(1) == 0 and face.row(0)["status"] == REJECTED


def test_without_cpu_blocks_nothing_can_be_swapped():
    face = finished(FIRST_TURN, (1, 60, 30), cpu_blocks=0)
    play(face, ADMIT, NOTHING)
    assert face.mask[EVICT_LARGEST] and face.mask[SHRED]
    assert not face.mask[[SWAP_LARGEST, SWAP_OLDEST, PREEMPT_SWAP]].any()
    assert face.seen[1] == 0.0


def test_swapping_stops_where_the_cpu_is_full():
    face = finished((0, 50, 14), (0, 150, 10), rows=(0, 1), cpu_blocks=9)
    assert face.mask[SWAP_OLDEST] == 0  # ten blocks
    play(face, EVICT_OLDEST)
    assert face.mask[SWAP_OLDEST] == 1


def test_garbage_is_what_was_idle_for_more_than_two_hundred_ticks():
    face = finished(FIRST_TURN)
    idle_since = face.row(0)["since"]
    play(face, SWAP_LARGEST, NOTHING)
    face.until(lambda f: f.clock - idle_since >= 200 * 20_000)
    assert face.clock - idle_since == 200 * 20_000 and not face.mask[COLLECT]
    face.act(NOTHING)
    assert face.mask[COLLECT] and face.used(1) == 4
    play(face, COLLECT)
    assert face.used(1) == 0 and face.row(0)["where"] == NOWHERE and not face.mask[COLLECT]


def test_largest_and_oldest_mean_what_they_say():
    turns = (0, 50, 14), (0, 100, 20), (0, 50, 14, 1)
    for action, goes in (
        (EVICT_LARGEST, 1),
        (EVICT_OLDEST, 0),
        (EVICT_LARGEST + 1, 2),
        (EVICT_OLDEST + 1, 2),
    ):
        face = Face(serve(users(*turns)))
        play(face, ADMIT, ADMIT, ADMIT + 1)
        face.until(lambda f: all(f.row(row)["status"] == FINISHED for row in range(3)))
        play(face, action)
        assert [row for row in range(3) if face.row(row)["where"] == NOWHERE] == [goes]


def test_a_turn_that_ends_after_the_next_was_admitted_leaves_no_cache():
    face = Face(serve(users((0, 50, 100), (100_000, 160, 5, 0, 0, 0, 150))))
    play(face, ADMIT, *[NOTHING] * 12)
    play(face, ADMIT)  # the answer it asks about is still being written
    assert face.row(1)["found"] == 0
    face.until(lambda f: f.row(0)["status"] == FINISHED)
    assert face.row(0)["where"] == NOWHERE
    assert face.used(0) == face.state.columns.rows["blocks"][1]


def test_without_reuse_nothing_stays():
    face = finished(FIRST_TURN, RETURN, reuse=False)
    assert face.used(0) == 0
    play(here(face, 1), ADMIT)
    assert face.row(1)["found"] == 0


def test_the_history_of_a_grandparent_is_what_both_steps_share():
    turns = (0, 50, 14), (SECOND, 90, 9, 0, 0, 0, 40), (2 * SECOND, 110, 5, 0, 0, 1, 99)
    face = here(finished(*turns), 1)
    play(face, REJECT)
    play(here(face, 2), ADMIT)
    assert face.row(2)["found"] == 40
