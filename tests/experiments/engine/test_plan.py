"""What an engine is asked: prompts share blocks exactly where the trace says so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.experiments.engine.plan import (
    FIRST_TOKEN,
    EngineError,
    plan_of,
    shrunk,
    text_of,
    tokens_of,
)
from kv_cache_rl.experiments.engine.workloads import shared_prefixes
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, last_of
from kv_cache_rl.sim.hierarchy.traces.writes import decoded

VOCABULARY = 2048


def tree(requests, block_tokens=4):
    """A trace of (path, prompt, answer)."""
    paths = [path for path, _, _ in requests]
    blocks = np.array([block for path in paths for block in path], np.int64)
    return Trace(
        name="tree",
        chained=True,
        block_tokens=block_tokens,
        time_s=np.arange(len(requests), dtype=float),
        sequence=np.zeros(len(requests), np.int64),
        first_run=np.cumsum([0, *map(len, paths)]),
        run_start=blocks,
        run_length=np.ones(len(blocks), np.int64),
        blocks=int(blocks.max()) + 1,
        page_bytes=0,
        input_tokens=np.array([prompt for _, prompt, _ in requests]),
        output_tokens=np.array([answer for _, _, answer in requests]),
        ends=last_of(np.zeros(len(requests), np.int64)),
    )


def shared(left, right, size):
    """Leading blocks of two prompts that are the same."""
    count = 0
    while left[count * size : (count + 1) * size] == right[count * size : (count + 1) * size]:
        if (count + 1) * size > min(len(left), len(right)):
            break
        count += 1
    return count


@pytest.mark.parametrize("merge", [1, 3])
def test_two_prompts_share_as_many_blocks_in_tokens_as_in_the_trace(merge):
    plan = plan_of(shared_prefixes(40, 5), 32, merge)
    texts = [text_of(one, plan, VOCABULARY, 0)[: one.prompt] for one in plan.requests]
    met = set()
    for i, left in enumerate(plan.requests):
        for j, right in enumerate(plan.requests[:i]):
            inside = [one.blocks[: one.prompt // 32] for one in (left, right)]
            pairs = list(zip(*inside, strict=False))
            same = next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs))
            assert shared(texts[i], texts[j], 32) == same
            met.add(same > 0)
    assert met == {True, False}


def test_an_answer_is_the_text_that_the_next_prompt_names():
    plan = plan_of(decoded(tree([((0, 1), 6, 6), ((0, 1, 2, 3), 15, 1)])), 4)
    first, second = (text_of(one, plan, VOCABULARY, 0) for one in plan.requests)
    assert plan.requests[0].blocks == (0, 1, 2)
    assert second[:12] == first
    assert plan.requests[1].waits_for == 0


def test_blocks_that_the_trace_does_not_name_are_not_shared():
    plan = plan_of(tree([((0,), 9, 5), ((0,), 9, 5)]), 4)
    assert [one.blocks for one in plan.requests] == [(0, 1, 2), (0, 3, 4)]


def test_a_prompt_of_whole_blocks_gets_a_token_more():
    plan = plan_of(tree([((0, 1), 8, 2), ((0, 1, 2), 9, 2)]), 4)
    assert [(one.prompt, one.generated) for one in plan.requests] == [(9, 1), (9, 2)]
    assert plan.lengthened == 1


def test_a_page_is_a_prompt_of_one_block():
    plan = plan_of(workload("rag_burst"), 32, limit=5)
    assert {(one.prompt, one.generated, len(one.blocks)) for one in plan.requests} == {(33, 1, 1)}
    with pytest.raises(EngineError, match="leave --merge out"):
        plan_of(workload("rag_burst"), 32, merge=2)


@given(st.integers(0, 10**6), st.integers(1, 2000), st.integers(1, 512))
def test_shrinking_keeps_full_blocks_and_whether_there_is_a_rest(tokens, size, block_tokens):
    small = shrunk(tokens, size, block_tokens)
    assert small // block_tokens == tokens // size
    if block_tokens > 1:
        assert (small % block_tokens > 0) == (tokens % size > 0)


def test_tokens_of_a_block_are_its_own_and_those_of_the_seed():
    one = tokens_of(7, 32, VOCABULARY, 0)
    assert one == tokens_of(7, 32, VOCABULARY, 0)
    assert one not in (tokens_of(8, 32, VOCABULARY, 0), tokens_of(7, 32, VOCABULARY, 1))
    assert tokens_of(7, 5, VOCABULARY, 0) == one[:5]
    assert min(one) >= FIRST_TOKEN and max(one) < VOCABULARY


def test_the_made_workload_shares_prefixes_and_answers_and_draws_by_its_seed():
    trace = shared_prefixes(60, 6)
    assert trace.writes is not None and trace.writes.named > 0
    plan = plan_of(trace, 32)
    assert sum(one.waits_for >= 0 for one in plan.requests) > 10
    assert plan.requests == plan_of(shared_prefixes(60, 6), 32).requests
    assert plan.requests != plan_of(shared_prefixes(60, 6, seed=1), 32).requests
    with pytest.raises(EngineError, match="sessions"):
        shared_prefixes(60, 0)
