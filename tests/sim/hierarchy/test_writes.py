"""What decoding writes is in the cache: found by lengths, replayed alike by runs, blocks and every policy."""

import itertools
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from block_replay import closed_subsets, leading, paths_of
from conversations import BLOCK, Texts, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.course import watch
from kv_cache_rl.sim.hierarchy.curves.bound import min_curve, min_hits
from kv_cache_rl.sim.hierarchy.curves.runs import lru, lru_curve, pieces
from kv_cache_rl.sim.hierarchy.curves.sampled import sampled_curve
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import one_tier, physical
from kv_cache_rl.sim.hierarchy.traces.trace import parents, subset
from kv_cache_rl.sim.hierarchy.traces.writes import decoded

law = settings(max_examples=40, deadline=None)
few = settings(max_examples=6, deadline=None)


def written_of(trace):
    """The blocks that each request writes, from the prompt on."""
    first, block = trace.writes.first.tolist(), trace.writes.block.tolist()
    return [block[a:b] for a, b in itertools.pairwise(first)]


def plain_lru(trace, capacity):
    """Hits of LRU block by block: what decoding wrote is touched behind the partial block."""
    cache, hits, base_of = OrderedDict(), 0, trace.writes.base.tolist()
    for path, written, base in zip(paths_of(trace), written_of(trace), base_of, strict=True):
        hits += leading(path, cache)
        for block in [*reversed(path[base:]), *reversed(written), *reversed(path[:base])]:
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


def best_of_all(trace, capacity):
    """Hits of the best possible choices, every one of which is tried."""
    worth, paths = {frozenset(): 0}, paths_of(trace)
    above = list(zip(paths, written_of(trace), trace.writes.base.tolist(), strict=True))
    trees = paths + [path[:base] + written for path, written, base in above]
    for path, written, _ in above:
        after = {}
        for kept, hits in worth.items():
            total = hits + leading(path, kept)
            for choice in closed_subsets(kept | {*path, *written}, trees, capacity):
                after[choice] = max(after.get(choice, -1), total)
        worth = after
    return max(worth.values())


def with_answers(seed, **sizes):
    """A trace of conversations in which some answer fills a block."""
    for more in itertools.count():
        trace = decoded(texts(seed + more, **sizes).trace())
        if trace.writes is not None:
            return trace
    return None


def agent(turns=10):
    """One block in, one block generated, one block of new text per turn."""
    made, text = Texts(), []
    for _ in range(turns):
        text = made.ask(0, text + made.new(BLOCK), BLOCK)
    return made.trace()


def test_generated_blocks_that_come_back_as_prompt_are_found():
    prompts, whole = agent(5), decoded(agent(5))
    assert (prompts.accesses, whole.accesses) == (25, 25)
    assert round(lru_curve(prompts).at(100) * 25) == 1 + 3 + 5 + 7
    assert round(lru_curve(whole).at(100) * 25) == 2 + 4 + 6 + 8
    assert run(whole, one_tier(100), "lru").metrics["hit_rate"] == min_hits(whole, 100) / 25 == 0.8
    assert written_of(whole) == [[1], [3], [5], [7], [9]]  # the last answer: a block that no prompt names
    assert (whole.blocks, whole.writes.named) == (10, 9)
    assert parents(whole).tolist() == list(range(-1, 9))


@given(seed=st.integers(0, 2**32), shortest=st.integers(1, BLOCK))
@law
def test_an_infinite_cache_finds_what_an_engine_finds_token_by_token(seed, shortest):
    made = texts(seed, shortest=shortest)
    trace = decoded(made.trace())
    assert lru(trace, trace.blocks) == made.hits_of_an_engine() == min_hits(trace, trace.blocks)


@given(seed=st.integers(0, 2**32))
@law
def test_runs_blocks_and_the_engine_agree_at_every_capacity(seed):
    trace = with_answers(seed)
    cut, curve = pieces(trace), lru_curve(trace)
    for capacity in (1, 2, 3, 5, 9, 17, 60, trace.blocks):
        hits = plain_lru(trace, capacity)
        assert hits == lru(trace, capacity, cut) == round(curve.at(capacity) * trace.accesses)
        assert hits == run(trace, one_tier(capacity), "lru").state.hits.sum()
        assert hits <= min_hits(trace, capacity, cut)


@given(seed=st.integers(0, 2**32), capacity=st.integers(1, 3))
@few
def test_no_choice_of_what_to_keep_beats_the_bound(seed, capacity):
    trace = with_answers(seed, requests=5, longest=6)
    assert min_hits(trace, capacity) == best_of_all(trace, capacity)


@pytest.mark.parametrize("policy", POLICIES)
@given(seed=st.integers(0, 2**32))
@few
def test_every_policy_keeps_its_books_and_stays_below_the_bound(policy, seed):
    trace = with_answers(seed)
    for scenario in (one_tier(7), physical(5, 0, 9, 20), one_tier(10**6)):
        done = run(trace, scenario, policy)
        check(done.state)
        assert done.metrics["accesses"] == trace.accesses == done.state.served.sum()
        assert done.state.hits.sum() <= min_hits(trace, scenario.tiers[0].capacity)
    assert done.state.hits.sum() == lru(trace, trace.blocks)


def test_writes_take_room():
    made = Texts()
    prompt = made.new(BLOCK)
    made.ask(0, prompt, 0)
    made.ask(1, made.new(BLOCK), 5 * BLOCK)  # an answer that nothing continues
    made.ask(0, [*prompt, *made.new(BLOCK)], 0)
    trace = made.trace()
    assert [lru(trace, 4), lru(decoded(trace), 4), lru(decoded(trace), 7)] == [1, 0, 1]


def test_an_answer_that_the_next_prompt_leaves_out_is_not_found():
    made = Texts()
    prompt = made.new(2 * BLOCK)
    made.ask(0, prompt, 4 * BLOCK)
    made.ask(0, [*prompt, *made.new(BLOCK)], 0)  # shorter than prompt and answer
    trace = decoded(made.trace())
    assert written_of(trace) == [[3, 4, 5, 6], []]
    assert lru(trace, 100) == 2


def test_the_next_prompt_says_what_became_of_an_answer_and_later_ones_do_not():
    made = Texts()
    prompt = made.new(2 * BLOCK)
    made.ask(0, prompt, 2 * BLOCK)
    made.ask(
        0, [*prompt, *made.new(BLOCK)], 0
    )  # left out, so that the longer prompt after it holds other text
    made.ask(0, [*prompt, *made.new(4 * BLOCK)], 0)
    trace = decoded(made.trace())
    assert written_of(trace) == [[7, 8], [], []]
    assert lru(trace, 100) == 4 == made.hits_of_an_engine()


def test_two_sequences_whose_prompts_end_with_one_full_block_both_go_on():
    made = Texts()
    common = made.new(BLOCK)
    first, second = (made.ask(one, [*common, *made.new(1)], 2 * BLOCK) for one in (0, 1))
    for one, text in ((0, first), (1, second)):
        made.ask(one, [*text, *made.new(BLOCK)], 0)
    trace = decoded(made.trace())
    assert written_of(trace) == [[3, 4], [7, 8], [], []]
    assert lru(trace, 100) == 7 == made.hits_of_an_engine()


def test_another_sequence_does_not_continue_a_request():
    made = Texts()
    common = made.new(BLOCK)
    made.ask(0, common, BLOCK)
    made.ask(1, [*common, *made.new(3 * BLOCK)], 0)
    trace = decoded(made.trace())
    assert (written_of(trace), lru(trace, 100)) == ([[4], []], 1)


def test_without_answers_a_trace_stays_as_it_is():
    trace = agent()
    quiet = replace(trace, output_tokens=np.zeros(trace.requests, np.int64))
    short = replace(trace, output_tokens=np.full(trace.requests, BLOCK - 1))
    assert decoded(quiet) is quiet
    assert decoded(short) is short


def test_half_of_the_requests_keep_their_writes():
    trace = with_answers(3)
    keep = trace.sequence < 2
    half = subset(trace, keep)
    both = zip(written_of(trace), keep, strict=True)
    assert written_of(half) == [written for written, kept in both if kept]
    assert lru(half, 20) == plain_lru(half, 20)


def test_a_sample_of_all_blocks_is_the_curve_and_the_bound_has_one_too():
    trace = with_answers(5, requests=60)
    exact, whole = lru_curve(trace), sampled_curve(trace, 1.0)
    assert [whole.at(capacity) for capacity in (1, 8, 30)] == pytest.approx(
        [exact.at(capacity) for capacity in (1, 8, 30)]
    )
    assert round(min_curve(trace, [8]).at(8) * trace.accesses) == min_hits(trace, 8)


def test_blocks_of_known_sizes_give_what_nothing_names_the_mean():
    trace = replace(agent(2), page_bytes=np.array([10, 20, 33]))
    assert decoded(trace).page_bytes.tolist() == [10, 20, 33, 21]


def test_a_replay_that_is_watched_has_the_writes_too():
    trace, scenario = with_answers(3), one_tier(12)
    state, course = run(trace, scenario, "lru").state, watch(trace, scenario, "lru", trace.requests)
    assert trace.writes is not None
    assert course.used[-1].tolist() == (state.tiers["used"] / state.tiers["capacity"]).tolist()
    assert course.latency_s == pytest.approx(state.latency)


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_room_that_every_request_needs_besides_is_as_a_smaller_tier(policy):
    trace = with_answers(5)
    needs = replace(trace, writes=replace(trace.writes, room=np.full(trace.requests, 2)))
    with_room, smaller = run(needs, one_tier(14), policy).state, run(trace, one_tier(12), policy).state
    assert with_room.hits.tolist() == smaller.hits.tolist()
    assert with_room.tiers["used"].tolist() == smaller.tiers["used"].tolist()
    check(with_room)


def test_room_is_free_again_when_its_request_is_over():
    trace = with_answers(5)
    first = np.zeros(trace.requests, np.int64)
    first[0] = 3  # the tier is far from full
    needs = replace(trace, writes=replace(trace.writes, room=first))
    found, without = (run(one, one_tier(12), "lru").state.hits.tolist() for one in (needs, trace))
    assert found == without
    assert needs.writes.of(np.arange(trace.requests) < 1).room.tolist() == [3]
