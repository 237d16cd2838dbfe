"""What vLLM's scheduler does otherwise with look-ahead, which CPUs turn off: driven without a model."""

from collections import deque

import kv_cache_vllm.engine as vllm_engine
import pytest
from kv_cache_vllm.answers import answering
from kv_cache_vllm.model import write_tiny

ASKED = [(40, 4), (70, 6), (33, 3), (100, 40), (64, 40), (50, 5)]
"""Tokens of a prompt and of its answer."""


def counted(folder, ahead):
    """(running, waiting, free blocks) after each step, of which `ahead` are planned before one is over."""
    from vllm.v1.outputs import ModelRunnerOutput

    named = {"scheduler_cls": "vllm.v1.core.sched.async_scheduler.AsyncScheduler"} if ahead else {}
    model = write_tiny(folder / "model", 400)
    engine = vllm_engine.started(vllm_engine.Settings(model, True, 14, 32, 3, 64, 400, named))
    scheduler, planned, counts = vllm_engine.scheduler_of(engine), deque(), []
    try:
        for number, (prompt, answer) in enumerate(ASKED):
            text = {"prompt_token_ids": [number + 5] * prompt}
            engine.add_request(str(number), text, answering([9] * answer))
        while scheduler.has_requests():
            plan = scheduler.schedule()
            in_part = [scheduler.requests[name].is_prefill_chunk for name in plan.num_scheduled_tokens]
            planned.append((plan, in_part))
            if len(planned) > ahead:
                done, parts = planned.popleft()
                names = list(done.num_scheduled_tokens)
                places = {name: place for place, name in enumerate(names)}
                tokens = [[] if part else [9] for part in parts]
                answer = ModelRunnerOutput(req_ids=names, req_id_to_index=places, sampled_token_ids=tokens)
                scheduler.update_from_output(done, answer)
            free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
            counts.append((*scheduler.get_request_counts(), free))
    finally:
        engine.engine_core.shutdown()
    return counts


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return [counted(tmp_path_factory.mktemp("scheduled"), ahead) for ahead in (0, 1)]


def test_with_look_ahead_a_request_that_is_over_holds_its_blocks_for_one_step_more(both):
    now, ahead = both
    over = next(step for step in range(1, len(now)) if now[step][0] < now[step - 1][0])
    assert ahead[:over] == now[:over]
    assert ahead[over] == now[over - 1]
    assert ahead[over + 1] == now[over]


def test_with_look_ahead_later_requests_come_in_later_and_the_last_is_over_later(both):
    now, ahead = both
    first_without_queue = [next(step for step, one in enumerate(counts) if one[1] == 0) for counts in both]
    assert first_without_queue[1] == first_without_queue[0] + 1
    assert now[-1] == ahead[-1] == (0, 0, 13)
    assert len(ahead) > len(now)
