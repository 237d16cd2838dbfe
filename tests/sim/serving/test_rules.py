"""Small episodes worked out by hand. A100: an iteration takes 9,000 µs, 66.7 µs per prefilled token and 0.093
µs per token of KV that is read; prefilled tokens attend at 2.6 ns a pair, in thousands of pairs."""

import pytest
from driving import Face, Pair, bytes_of, serve, users

from kv_cache_rl.sim.serving.score import TERM_WEIGHTS, report

ADMIT_FREE, ADMIT_VIP, REJECT_FREE, NOTHING = 8, 9, 10, 17
QUEUED, ACTIVE, FINISHED, DROPPED, REJECTED = 1, 2, 3, 4, 5
NOWHERE, GPU, LEAVING, CPU, ENTERING = range(5)


def play(face, *actions):
    """Takes these decisions; the sum of their rewards."""
    return sum(face.act(action) for action in actions)


def test_a_request_alone_takes_its_prefill_and_one_iteration_per_token():
    face = Face(serve(users((5_000, 100, 3))))
    assert face.row(0)["status"] == 0
    face.act(NOTHING)
    assert (face.clock, face.row(0)["status"], face.row(0)["since"]) == (20_000, QUEUED, 5_000)
    reward = play(face, ADMIT_FREE, NOTHING)
    # 9,000 + (100 x 66,700 + 5 x 2,600) ns.
    assert face.clock == 20_000 + 9_000 + 6_683
    assert (face.row(0)["tokens"], face.row(0)["blocks"], face.row(0)["waited"]) == (100, 7, 15_000)
    reward += play(face, NOTHING)
    # 101 tokens are read: 9.4 µs.
    assert face.clock == face.row(0)["first"] == 35_683 + 9_009
    reward += play(face, NOTHING, NOTHING)
    assert face.clock == face.row(0)["ended"] == 35_683 + 3 * 9_009
    assert face.row(0)["served"] == 15_683 + 3 * 9_009 == face.row(0)["ended"] - 5_000 - 15_000
    assert (face.row(0)["status"], face.row(0)["where"], face.used(0)) == (FINISHED, GPU, 7)
    assert reward == pytest.approx(TERM_WEIGHTS["completed_in_sla"] + 103 * TERM_WEIGHTS["tokens_served"])
    score = report(face.state)
    assert score.total_reward == pytest.approx(reward)
    assert score.latency_efficiency == pytest.approx(42_710 / 57_710)


def test_a_long_prompt_is_read_in_chunks_of_what_decoding_leaves_of_the_budget():
    face = Face(serve(users((0, 100, 9), (0, 100, 1)), token_budget=64))
    play(face, ADMIT_FREE, ADMIT_FREE, NOTHING)
    assert [face.row(row)["tokens"] for row in (0, 1)] == [64, 0]
    assert face.clock == 9_000 + 4_274
    face.act(NOTHING)
    assert [face.row(row)["tokens"] for row in (0, 1)] == [100, 28]
    # 36 tokens behind 64, then 28 behind none.
    assert face.clock == 13_274 + 9_000 + 2_406 + 1_867
    face.act(NOTHING)
    assert [face.row(row)["tokens"] for row in (0, 1)] == [101, 28 + 63]


def test_with_a_budget_of_one_the_oldest_decodes_alone():
    face = Face(serve(users((0, 1, 2), (0, 1, 2)), token_budget=1))
    play(face, ADMIT_FREE, ADMIT_FREE)
    ended = []
    for _ in range(6):
        face.act(NOTHING)
        ended.append([face.row(row)["made"] for row in (0, 1)])
    assert ended == [[0, 0], [1, 0], [2, 0], [2, 0], [2, 1], [2, 2]]


@pytest.fixture
def two():
    """two(prompts, **settings) → 256 tokens of memory, both requests admitted and prefilled, one token each
    made.
    """

    def opened(*prompts, **settings):
        face = Face(
            serve(users(*((0, prompt, 20) for prompt in prompts)), gpu_blocks=16, reuse=False, **settings)
        )
        play(face, ADMIT_FREE, ADMIT_FREE, NOTHING, NOTHING)
        assert [face.row(row)["made"] for row in (0, 1)] == [1, 1]
        return face

    return opened


def test_the_newest_gives_way_when_it_needs_the_block_itself(two):
    face = two(111, 127)
    assert (face.row(0)["blocks"], face.row(1)["blocks"]) == (7, 8)
    at = face.clock
    reward = face.act(NOTHING)
    assert (face.row(0)["blocks"], face.row(0)["made"], face.used(0)) == (8, 2, 8)
    newest = face.row(1)
    assert (newest["status"], newest["where"], newest["tokens"], newest["made"], newest["high"]) == (
        QUEUED,
        NOWHERE,
        0,
        1,
        128,
    )
    assert newest["since"] == at
    assert reward == pytest.approx(TERM_WEIGHTS["forced_preemption"] + TERM_WEIGHTS["tokens_served"])
    assert not face.mask[ADMIT_FREE]  # 9 blocks, 8 are free
    face.until(lambda f: f.row(0)["status"] == FINISHED)
    assert face.mask[ADMIT_FREE] and face.used(0) == 0
    back, served, waited = face.clock, face.row(1)["served"], face.row(1)["waited"]
    play(face, ADMIT_FREE, NOTHING)
    assert face.row(1)["waited"] - waited == back - at
    assert (face.row(1)["tokens"], face.row(1)["served"]) == (
        128,
        served,
    )  # computed a second time: no service
    face.until(lambda f: f.row(1)["status"] == FINISHED)
    assert face.row(1)["served"] == served + face.row(1)["ended"] - back - (9_000 + 8_558)


def test_an_older_request_takes_the_block_from_the_newest(two):
    face = two(127, 113)
    assert face.used(0) == 16
    face.act(NOTHING)
    assert (face.row(0)["blocks"], face.row(0)["made"], face.used(0)) == (9, 2, 9)
    assert (face.row(1)["status"], face.row(1)["made"], face.row(1)["tokens"]) == (QUEUED, 1, 0)


def test_strict_ends_where_growth_finds_no_block(two):
    face = two(127, 113, strict=True)
    clock, ticks = face.clock, face.ticks
    face.act(NOTHING)
    assert face.state.done and face.state.crashed == "no block for decode growth"
    assert (face.clock, face.ticks) == (clock, ticks)
    assert report(face.state).crashed and report(face.state).unfinished == 2


def test_nothing_happens_after_the_end():
    face = Face(serve(users((0, 10, 500)), ticks=2))
    play(face, ADMIT_FREE, NOTHING)
    face.until(lambda f: f.state.done)
    assert face.clock >= 40_000 and not face.state.crashed
    before = bytes_of(face.state)
    assert play(face, ADMIT_FREE, 0, 17, 12) == 0.0
    assert before == bytes_of(face.state)


def test_what_ends_after_the_end_is_not_counted():
    # Prefill until 9,733 µs, then tokens at 18,734 and 27,735, which is too late where a tick of 20,000 µs is
    # all there is.
    for ticks, clock, completed in ((1, 27_735, 0), (2, 47_735, 1)):
        face = Face(serve(users((0, 11, 2)), ticks=ticks))
        play(face, ADMIT_FREE)
        face.until(lambda f: f.state.done)
        assert (face.clock, face.row(0)["ended"]) == (clock, 27_735)
        assert report(face.state).completed == completed


@pytest.mark.parametrize(("sla", "met"), [(1.0, 1), (0.99995, 0), (None, 1)])
def test_the_sla_bounds_the_wait_to_the_microsecond(sla, met):
    face = Face(serve(users((0, 16, 1)), sla_free=sla))
    assert play(face, NOTHING, ADMIT_FREE, NOTHING) == pytest.approx(16 * TERM_WEIGHTS["tokens_served"])
    assert face.row(0)["waited"] == 20_000
    term = TERM_WEIGHTS["completed_in_sla" if met else "sla_missed"]
    assert face.act(NOTHING) == pytest.approx(term + TERM_WEIGHTS["tokens_served"])
    assert report(face.state).sla_attainment["free"] == met


def test_a_full_queue_drops_and_a_preempted_request_comes_before_it_all():
    face = Face(
        serve(users((0, 16, 9), (0, 17, 9), (0, 18, 9), (1, 19, 9), (1, 20, 9, 1)), queue_free=2, queue_vip=1)
    )
    assert [face.row(row)["status"] for row in range(5)] == [QUEUED, QUEUED, DROPPED, 0, 0]
    play(face, ADMIT_FREE, NOTHING)
    assert [face.row(row)["status"] for row in range(5)] == [ACTIVE, QUEUED, DROPPED, QUEUED, QUEUED]
    reward = play(face, 12)
    assert reward == 0.0 and face.row(0)["status"] == QUEUED
    assert face.seen[3] == 1.0  # three wait where two have room
    play(face, ADMIT_FREE)
    assert face.row(0)["status"] == ACTIVE


def test_a_drop_a_rejection_and_one_of_what_would_fit_cost_what_the_table_says():
    face = Face(serve(users((0, 300, 9), (0, 16, 9), (1, 17, 9)), gpu_blocks=16, queue_free=2))
    assert not face.mask[ADMIT_FREE] and face.mask[REJECT_FREE]
    assert face.act(REJECT_FREE) == pytest.approx(TERM_WEIGHTS["rejected"])
    assert face.mask[ADMIT_FREE]
    assert face.act(REJECT_FREE) == pytest.approx(2 * TERM_WEIGHTS["rejected"])
    assert [face.row(row)["status"] for row in range(2)] == [REJECTED, REJECTED]
    crowded = Face(serve(users((0, 16, 9), (0, 16, 9), (1, 16, 9)), queue_free=1))
    assert crowded.act(NOTHING) == pytest.approx(TERM_WEIGHTS["dropped"])


def test_a_head_without_room_costs_for_as_long_as_it_waits():
    face = Face(serve(users((0, 300, 9)), gpu_blocks=16))
    assert face.act(NOTHING) == pytest.approx(TERM_WEIGHTS["memory_pressure"])
    assert play(face, REJECT_FREE, NOTHING) == pytest.approx(TERM_WEIGHTS["rejected"])


def test_reserve_admits_only_what_can_finish_where_optimism_preempts():
    turns = users((0, 100, 100), (0, 100, 100))
    hopeful = Face(serve(turns, gpu_blocks=20, reuse=False))
    play(hopeful, ADMIT_FREE)
    assert hopeful.mask[ADMIT_FREE]
    play(hopeful, ADMIT_FREE)
    hopeful.until(lambda f: f.state.columns.terms["forced_preemption"] > 0)
    for blocks, admitted in ((27, 0), (28, 1)):  # 2 x (100 + 16 + 101) tokens in whole blocks: 27.1
        careful = Face(serve(turns, gpu_blocks=blocks, reuse=False, admission="reserve"))
        play(careful, ADMIT_FREE)
        assert careful.mask[ADMIT_FREE] == admitted


def test_a_collapse_takes_fifty_ticks_in_a_row():
    turns = users((0, 240, 15), (1, 16, 9), (1, 16, 9, 1), (1_000_000, 16, 9))
    face = Face(serve(turns, gpu_blocks=16, queue_free=1, queue_vip=1))
    play(face, ADMIT_FREE, *[NOTHING] * 49)
    assert (face.ticks, face.state.done) == (49, False)
    resists = face.state.copy()
    face.act(NOTHING)
    assert face.ticks == 50 and face.state.crashed == "queues full and no memory"
    other = Face(resists)
    play(other, REJECT_FREE, NOTHING)  # one queue has room for a tick
    assert other.ticks == 50 and not other.state.done
    other.until(lambda f: f.state.done)
    assert other.state.crashed and other.ticks > 100  # only once the queue is full again, after 1 s


def test_numbers_that_are_no_action_use_up_a_decision_and_change_nothing_else():
    face, rested = Face(serve(users((0, 16, 9)))), Face(serve(users((0, 16, 9))))
    for number in (18, -1, 10**12, -(10**12)):
        assert face.act(number) == 0.0
    rested.act(NOTHING)
    assert bytes_of(face.state) == bytes_of(rested.state)


def test_a_refused_decision_is_one_of_the_ticks_few():
    pair = Pair(serve(users((0, 16, 9)), actions_per_tick=3))
    for action in (0, 16, 1):  # nothing to evict, nothing to collect
        assert pair.plain.clock == 0
        pair.act(action)
    assert pair.plain.clock == 20_000 and pair.face.row(0)["status"] == QUEUED
