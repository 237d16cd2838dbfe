"""Continuous batching under pressure: each request gets the tokens of a run alone, and no block is lost."""

import time

import pytest
import torch
from decoders import decoder, dense_greedy, prompt
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import REQUESTS, filled, room_for, scheduled, stepped

from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.decoding import sample
from kv_cache_rl.paged.scheduler import Scheduler
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, PreemptionCosts, SwapError


@pytest.mark.parametrize("way", ["swap", "recompute"])
@given(
    asked=REQUESTS,
    block_tokens=st.integers(1, 8),
    spare=st.integers(0, 12),
    host=st.integers(1, 30),
    seed=st.integers(0, 4),
)
@settings(max_examples=15, deadline=None)
def test_each_request_gets_the_tokens_of_dense_recomputation_and_all_blocks_come_back(
    way, asked, block_tokens, spare, host, seed
):
    model = decoder(seed)
    blocks = room_for(asked, block_tokens, spare)
    scheduler = stepped(filled(model, asked, blocks, block_tokens, host, preempt=way))
    for request in scheduler.requests:
        assert request.output == dense_greedy(model, request.prompt, request.most)
    scheduler.clear()
    scheduler.check()
    assert scheduler.cache.pool.free == blocks and (
        way == "recompute" or scheduler.residency.host.free == host
    )


def test_pressure_is_real_in_these_tests():
    """Of four requests that fit only two at a time, later ones are preempted, and go on either way."""
    asked = [(9, 14, False)] * 4
    for way, host in (("swap", 40), ("recompute", None)):
        report = stepped(filled(decoder(0), asked, 12, 4, host, preempt=way)).report()
        assert (
            report.preemptions > 0
            and (report.swapped_in > 0) == (way == "swap")
            and (report.recomputed > 0) == (way != "swap")
        )


@given(asked=REQUESTS, spare=st.integers(0, 10), seed=st.integers(0, 4))
@settings(max_examples=15, deadline=None)
def test_requests_start_in_order_of_arrival_and_the_newest_gives_way(asked, spare, seed):
    scheduler = stepped(filled(decoder(seed), asked, room_for(asked, 4, spare), 4))
    running = []
    for event in scheduler.events:
        if event.kind in ("admitted", "resumed"):
            assert not running or event.request > running[-1], "running requests are in order of arrival"
            running.append(event.request)
        elif event.kind == "preempted":
            assert event.request == running.pop(), "the newest is preempted"
        else:
            running.remove(event.request)
    assert [e.request for e in scheduler.events if e.kind == "admitted"] == list(range(len(asked)))
    assert not running


@given(asked=REQUESTS, spare=st.integers(0, 10), stop=st.integers(0, 39))
@settings(max_examples=15, deadline=None)
def test_throughput_counts_every_token_that_was_decoded_and_none_else(asked, spare, stop):
    """What the seed got wrong: it counted tokens it never decoded.

    Preemption, recomputation and prompts add none.
    """
    model = decoder(1)
    scheduler = scheduled(model, room_for(asked, 4, spare), 4)
    for at, (length, most, _) in enumerate(asked):
        scheduler.add(prompt(model, length, at), most, stop=stop)
    report = stepped(scheduler).report()
    outputs = [request.output for request in scheduler.requests]
    for request, output in zip(scheduler.requests, outputs, strict=True):
        assert len(output) <= request.most and stop not in output[:-1]
        assert len(output) == request.most or output[-1] == stop
    assert report.decoded == sum(map(len, outputs))
    assert report.prefilled + report.reused == sum(length for length, _, _ in asked)
    assert report.tokens_per_second == report.decoded / report.seconds


def test_the_tokens_computed_are_those_reported(monkeypatch):
    """Every computed token is a prompt's, a generated one or a recomputed one; the last is never fed."""
    model, fed = decoder(0), []
    run = type(model).run
    monkeypatch.setattr(
        type(model),
        "run",
        lambda self, ids, *rest, **more: fed.append(ids.numel()) or run(self, ids, *rest, **more),
    )
    asked = [(9, 14, False), (13, 10, False), (9, 12, True), (21, 9, True)]
    for host in (None, 3, 40):
        fed.clear()
        report = stepped(filled(model, asked, 12, 4, host, preempt="swap" if host else "recompute")).report()
        assert sum(fed) == report.prefilled + report.recomputed + report.decoded - len(asked)


def test_a_prompt_that_begins_like_an_earlier_one_reuses_its_blocks():
    model = decoder(0)
    scheduler, start = scheduled(model, 40, 4), prompt(model, 18)
    scheduler.add(start, 3)
    stepped(scheduler)
    turn = [*start, *scheduler.requests[0].output, 5, 6]
    second = scheduler.add(turn, 4)
    third = scheduler.add(start, 4)
    report = stepped(scheduler).report()
    assert report.reused == 20 + 16, "whole blocks: 20 of the 20 tokens computed, 16 of the 18 of the prompt"
    assert second.output == dense_greedy(model, turn, 4) and third.output == dense_greedy(model, start, 4)


def test_sampled_requests_are_those_of_their_own_run():
    model = decoder(2)
    scheduler = scheduled(model, 14, 4)
    requests = [scheduler.add(prompt(model, 7 + at), 12, seed=at, temperature=0.8) for at in range(5)]
    assert stepped(scheduler).report().preemptions > 0
    for at, request in enumerate(requests):
        assert (
            request.output
            == sample(model, model.new_cache(20, 4), request.prompt, 1, 12, at, temperature=0.8)[0]
        )


def test_the_watermark_stays_free_when_others_run_and_never_keeps_the_first_out():
    model = decoder(0)
    scheduler = scheduled(model, 10, 4, watermark=0.3)
    scheduler.add(prompt(model, 12, 1), 4)  # three blocks now
    scheduler.add(prompt(model, 16, 2), 4)  # four more: 7 of 10, 3 spare
    scheduler.add(prompt(model, 4, 3), 2)  # one more: would leave 2
    scheduler.step()
    assert [request.number for request in scheduler.running] == [0, 1]
    large = scheduled(model, 10, 4, watermark=0.3)
    large.add(prompt(model, 36), 2)
    large.step()
    assert len(large.running) == 1


def test_a_step_admits_no_more_once_it_computes_enough_prompt():
    scheduler = filled(decoder(0), [(10, 3, False)] * 4, 60, 4, prefill_tokens=15)
    scheduler.step()
    assert len(scheduler.running) == 2
    few = filled(decoder(0), [(10, 3, False)] * 4, 60, 4, most_running=3)
    few.step()
    assert len(few.running) == 3


@pytest.mark.parametrize(("swap_s", "recompute_s"), [(1e-6, 2e-6), (2e-6, 1e-6)])
def test_the_way_that_was_measured_cheaper_is_taken(swap_s, recompute_s):
    costs = PreemptionCosts(256, swap_s, recompute_s)
    scheduler = stepped(filled(decoder(0), [(9, 14, False)] * 4, 12, 4, 40, costs=costs))
    report = scheduler.report()
    assert scheduler.preempt == ("swap" if swap_s < recompute_s else "recompute")
    assert (report.swapped_out > 0) == (swap_s < recompute_s) and (report.recomputed > 0) == (
        swap_s > recompute_s
    )


@pytest.mark.parametrize(
    ("host", "options", "way"),
    [
        (40, {}, "swap"),
        (None, {}, "recompute"),
        (None, {"costs": PreemptionCosts(256, 1.0, 2.0)}, "recompute"),
        (40, {"preempt": "recompute", "costs": PreemptionCosts(256, 1.0, 2.0)}, "recompute"),
    ],
)
def test_a_scheduler_swaps_to_its_host_pool_unless_costs_or_the_caller_say_otherwise(host, options, way):
    assert scheduled(decoder(0), 12, 4, host, **options).preempt == way


def test_no_clock_is_read_and_nothing_computed_in_the_constructor(monkeypatch):
    model = decoder(0)
    cache = model.new_cache(12, 4)
    host = HostPool(cache.pool, 40)

    def forbidden(*_, **__):
        raise AssertionError("the constructor measures")

    for name in ("perf_counter", "process_time", "monotonic", "time"):
        monkeypatch.setattr(time, name, forbidden)
    monkeypatch.setattr(type(model), "run", forbidden)
    scheduler = Scheduler(model, cache, host)
    monkeypatch.undo()
    assert scheduler.preempt == "swap"


def test_requests_may_come_while_others_run():
    model = decoder(0)
    scheduler = scheduled(model, 30, 4)
    first = scheduler.add(prompt(model, 9, 1), 10)
    for _ in range(4):
        scheduler.step()
    second = scheduler.add(prompt(model, 5, 2), 6)
    stepped(scheduler)
    assert (first.output, second.output) == (
        dense_greedy(model, first.prompt, 10),
        dense_greedy(model, second.prompt, 6),
    )
    assert len([e for e in scheduler.events if e.kind == "finished"]) == 2


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda s: s.add([1] * 30, 12),
            "a prompt of 30 and 12 new tokens need 11 blocks, the pool has 10; ask for fewer tokens",
        ),
        (lambda s: s.add([], 3), "a prompt of 0 tokens and 3 to generate"),
        (lambda s: s.add([1], 0), "a prompt of 1 tokens and 0 to generate"),
        (lambda s: s.add([1], 1.5), r"1\.5 tokens to generate; give a whole number"),
        (
            lambda s: s.add([1], 3, seed=1, temperature=-1.0),
            "a temperature of -1.0; give a finite one above 0",
        ),
        (lambda s: s.add([99], 3), "run from 99 to 99; use whole numbers from 0 to 39"),
        (lambda s: Scheduler(s.model, s.cache, preempt="drop"), "preempt 'drop': use swap or recompute"),
        (lambda s: Scheduler(s.model, s.cache, preempt="swap"), "give a host pool to swap to"),
        (lambda s: Scheduler(s.model, s.cache, watermark=1.0), "watermark 1.0"),
        (lambda s: Scheduler(s.model, s.cache, most_running=0), "most_running 0"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(act, message):
    scheduler = scheduled(decoder(0), 10, 4)
    with pytest.raises(ValueError, match=message):
        act(scheduler)
    scheduler.check()
    assert not scheduler.waiting and scheduler.cache.pool.free == 10


def test_pools_in_use_are_refused():
    model = decoder(0)
    cache = model.new_cache(10, 4)
    model.prefill(cache, Sequence(), [1, 2])
    with pytest.raises(PoolError, match="the scheduler needs pools of its own; release every sequence first"):
        Scheduler(model, cache)


def test_an_error_while_computing_leaves_the_books_balanced_and_the_requests_in_place():
    model = decoder(0)
    scheduler = filled(model, [(9, 6, False), (5, 6, False)], 20, 4)
    scheduler.step()
    weight = model.weights["model.layers.1.self_attn.v_proj.weight"]
    good = weight.clone()
    weight.fill_(torch.nan)
    scheduler.add(prompt(model, 6, 9), 3)
    for _ in range(2):
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            scheduler.step()
        scheduler.check()
    weight.copy_(good)
    for request in stepped(scheduler).requests:
        assert request.output == dense_greedy(model, request.prompt, request.most)


def with_a_poisoned_token(token=7):
    """A decoder that computes NaN for that token (not tied: its logits are finite), and the healthy one."""
    model, healthy = decoder(0, tied=False), decoder(0, tied=False)
    model.weights["model.embed_tokens.weight"][token] = torch.nan
    return model, healthy


def test_a_prompt_that_cannot_be_computed_holds_up_no_other_for_good():
    model, healthy = with_a_poisoned_token()
    scheduler = scheduled(model, 40, 4)
    running = scheduler.add([1, 2, 3], 4)
    scheduler.step()
    ahead, bad, behind = (scheduler.add(tokens, 3) for tokens in ([4, 5, 6, 8, 9], [1, 7, 2], [3, 2, 1, 4]))
    for tokens in (1, 2):
        with pytest.raises(ValueError, match="holds NaN or infinity") as raised:
            scheduler.step()
        assert raised.value.__notes__ == [
            f"request {bad.number} cannot be computed; mend the cause, or cancel it"
        ]
        scheduler.check()
        assert [len(r.output) for r in (running, ahead, bad, behind)] == [1 + tokens, tokens, 0, tokens]
    scheduler.cancel(bad)
    scheduler.check()
    stepped(scheduler)
    for request in (running, ahead, behind):
        assert request.finished and request.output == dense_greedy(healthy, request.prompt, request.most)
    assert scheduler.report().finished == 3 and not bad.finished
    scheduler.clear()
    assert scheduler.cache.pool.free == 40


def test_a_batch_of_which_one_cannot_be_computed_is_computed_one_by_one():
    model, healthy = with_a_poisoned_token()
    scheduler = scheduled(model, 40, 4)
    first, bad, last = (scheduler.add([at, at + 1, at + 2], 5) for at in (1, 10, 20))
    scheduler.step()
    bad.sequence.tokens[-1] = 7
    with pytest.raises(ValueError, match="holds NaN or infinity") as raised:
        scheduler.step()
    scheduler.check()
    assert raised.value.__notes__ == ["request 1 cannot be computed; mend the cause, or cancel it"]
    assert [len(request.output) for request in (first, bad, last)] == [2, 1, 2]
    scheduler.cancel(bad)
    stepped(scheduler)
    for request in (first, last):
        assert request.output == dense_greedy(healthy, request.prompt, 5)


@pytest.mark.parametrize("host", [None, 40])
def test_a_cancelled_request_gives_its_room_to_others_wherever_it_was(host):
    model = decoder(0)
    scheduler = filled(model, [(9, 14, False)] * 5, 12, 4, host, preempt="swap" if host else "recompute")
    while not any(request.preemptions for request in scheduler.waiting):
        scheduler.step()
    gone = [scheduler.running[0], scheduler.waiting[0], scheduler.waiting[-1]]
    kept = [request for request in scheduler.requests if request not in gone]
    said = [list(request.output) for request in gone]
    for request in gone:
        scheduler.cancel(request)
        scheduler.check()
    stepped(scheduler)
    assert [request.output for request in gone] == said and scheduler.report().finished == len(kept)
    assert [request.output for request in kept] == [dense_greedy(model, r.prompt, r.most) for r in kept]
    assert [event.request for event in scheduler.events if event.kind == "cancelled"] == [
        request.number for request in gone
    ]
    for request in (gone[0], kept[0], scheduled(model, 4, 4).add([1], 2)):
        with pytest.raises(ValueError, match=f"request {request.number} neither waits nor runs here"):
            scheduler.cancel(request)
    scheduler.clear()
    assert scheduler.cache.pool.free == 12


def test_a_host_pool_for_another_pool_is_refused_before_anything_runs():
    model = decoder(0)
    for options in ({"preempt": "swap"}, {}):
        with pytest.raises(SwapError, match="build the host pool for this pool"):
            Scheduler(model, model.new_cache(6, 4), HostPool(model.new_cache(6, 8).pool, 5), **options)


def test_a_page_in_use_never_gives_way():
    scheduler = filled(decoder(0), [(9, 6, False)], 20, 4)
    scheduler.step()
    page = scheduler.running[0].pages[0]
    page.holders = 0
    scheduler.residency.cache.pool.drop(page.block)
    with pytest.raises(LedgerError):
        scheduler.check()
