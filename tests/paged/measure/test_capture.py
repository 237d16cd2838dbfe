"""A captured run in the hierarchy lab's format, and its replay: the same hits, swaps and evictions."""

import json
from dataclasses import replace

import pytest
from decoders import decoder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from schedules import REQUESTS, filled, room_for, stepped

from kv_cache_rl.paged.measure.capture import capture, captured, counts_of, replayed, scenario_of
from kv_cache_rl.sim.hierarchy.traces.load import load_trace

ASKED = [(9, 14, False), (21, 9, True), (13, 10, False), (24, 12, True), (17, 12, False)]


@given(
    asked=REQUESTS,
    block_tokens=st.integers(1, 8),
    spare=st.integers(0, 12),
    host=st.sampled_from([None, 2, 9, 40]),
    again=st.booleans(),
)
@example(asked=[(1, 1, False)], block_tokens=1, spare=0, host=None, again=True)
@settings(max_examples=40, deadline=None)
def test_the_labs_replay_repeats_every_hit_swap_and_eviction_of_the_run(
    asked, block_tokens, spare, host, again
):
    way = "swap" if host else "recompute"
    scheduler = stepped(
        filled(
            decoder(0, layers=1), asked, room_for(asked, block_tokens, spare), block_tokens, host, preempt=way
        )
    )
    if again:  # what earlier requests left behind is found by later ones
        for request in list(scheduler.requests):
            scheduler.add(
                [*request.prompt, *request.output][: max(1, scheduler.cache.pool.blocks * block_tokens - 2)],
                2,
            )
        stepped(scheduler)
    assert replayed(captured(scheduler), scenario_of(scheduler)) == counts_of(scheduler)


@pytest.mark.parametrize("name", ["run.jsonl", "run.jsonl.gz"])
@pytest.mark.parametrize(("host", "way"), [(40, "swap"), (5, "swap"), (None, "recompute")])
def test_so_does_the_replay_of_the_file(name, host, way, tmp_path):
    scheduler = stepped(filled(decoder(0), ASKED, 14, 4, host, preempt=way))
    capture(scheduler, tmp_path / name)
    loaded = load_trace(tmp_path / name)
    counts = counts_of(scheduler)
    assert replayed(loaded, scenario_of(scheduler)) == counts
    assert counts.evictions > 0 and counts.hits > 0 and (counts.drops > 0) == (host != 40)
    report = scheduler.report()
    assert (report.swapped_in, report.swapped_out, report.evictions) == (
        counts.swapped_in,
        counts.swapped_out,
        counts.evictions,
    )
    assert report.preemptions > 0


def test_the_file_is_of_the_labs_format_a_line_for_every_page_a_step_needs(tmp_path):
    scheduler = stepped(filled(decoder(0), [(9, 3, False)], 10, 4))
    capture(scheduler, tmp_path / "run.jsonl")
    header, *lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert (header["format"], header["kind"], header["block_tokens"]) == ("kv-cache-rl trace", "pages", 4)
    assert (header["blocks"], header["page_bytes"]) == (3, scheduler.cache.pool.block_nbytes)
    # 9, 10 and 11 tokens in three pages, three steps, the last page first
    assert [(line["step"], line["page"], line["sequence"]) for line in lines] == [
        (step, page, 0) for step in (1, 2, 3) for page in (0, 1, 2)
    ]


def test_the_replay_tells_a_run_from_another():
    """With a page less of either memory, without a host, or with a token more, something else happens."""
    scheduler = stepped(filled(decoder(0), ASKED, 14, 4, 9, preempt="swap"))
    trace, scenario, counts = captured(scheduler), scenario_of(scheduler), counts_of(scheduler)
    gpu, host = scenario.tiers
    size = scheduler.cache.pool.block_nbytes
    for tiers in (
        (replace(gpu, capacity=gpu.capacity - size), host),
        (gpu, replace(host, capacity=host.capacity - size)),
        (gpu,),
    ):
        assert replayed(trace, replace(scenario, tiers=tiers)) != counts
    other = stepped(filled(decoder(0), [*ASKED[:-1], (17, 13, False)], 14, 4, 9, preempt="swap"))
    assert replayed(captured(other), scenario) == counts_of(other) != counts


def test_a_run_whose_pages_were_cleared_on_the_way_cannot_be_captured():
    scheduler = stepped(filled(decoder(0), ASKED, 14, 4, 9, preempt="swap"))
    counts = counts_of(scheduler)
    scheduler.clear()
    assert replayed(captured(scheduler), scenario_of(scheduler)) == counts
    scheduler.add([1, 2, 3], 2)
    stepped(scheduler)
    with pytest.raises(
        ValueError,
        match="pages were cleared after 333 of 335 accesses, and a trace cannot say so; capture before",
    ):
        captured(scheduler)


def test_a_scheduler_that_has_not_run_cannot_be_captured():
    with pytest.raises(ValueError, match="the scheduler has not run: no page was accessed; add requests"):
        captured(filled(decoder(0), ASKED, 14, 4))
