"""Memory by closed forms: waste and savings of blocks, fragmentation of reservations, sharing."""

import pytest
from decoders import decoder, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.measure.memory import (
    LONGEST,
    TRACES,
    beam_sharing,
    parallel_saving,
    requests_like,
    usage,
)
from kv_cache_rl.paged.measure.occupancy import RESERVATIONS, occupancy

REQUESTS = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=8)


@pytest.mark.parametrize("trace", TRACES)
def test_requests_have_the_means_of_the_paper_and_fit(trace):
    requests = requests_like(trace, 20_000, 1)
    for column, mean in zip(
        zip(*requests, strict=True), (TRACES[trace].prompt, TRACES[trace].output), strict=True
    ):
        assert sum(column) / len(column) == pytest.approx(mean, rel=0.03)
        assert min(column) >= 1
    assert max(map(sum, requests)) <= LONGEST
    assert requests_like(trace, 50, 1) == requests_like(trace, 50, 1) != requests_like(trace, 50, 2)


@given(requests=REQUESTS, block=st.sampled_from([1, 7, 16, 64]))
@settings(deadline=None, max_examples=30)
def test_waste_is_the_block_tails_and_savings_are_against_the_longest(requests, block):
    found = usage(requests, block)
    lengths = [sum(request) for request in requests]
    held = sum(blocks_for(n, block) for n in lengths) * block
    assert found.waste == pytest.approx(1 - sum(lengths) / held)
    assert found.saved == pytest.approx(1 - held / (LONGEST * len(lengths)))


def test_sharegpt_like_lengths_waste_under_four_per_cent_and_save_three_quarters():
    for seed in range(3):
        found = usage(requests_like("sharegpt", 500, seed), 16)
        assert found.waste < 0.04
        assert 0.70 <= found.saved <= 0.80


@given(requests=REQUESTS, samples=st.integers(1, 5), block=st.sampled_from([1, 16, 32]))
@settings(deadline=None, max_examples=25)
def test_samples_save_the_closed_form(requests, samples, block):
    shared = sum((samples - 1) * (p // block) for p, _ in requests)
    whole = sum(samples * blocks_for(p + o, block) for p, o in requests)
    found = parallel_saving(requests, samples, block)
    assert found.at_end == pytest.approx(shared / whole)
    assert found.on_average >= 0


def test_a_memory_under_pressure_is_full_of_tokens_where_it_is_paged_and_of_reservations_where_it_is_not():
    requests = requests_like("sharegpt", 60, 0)
    paged = occupancy(requests, 8192, "paged", 16)
    assert paged.tokens > 0.94 and paged.external == 0
    assert paged.tokens + paged.internal <= 1
    shares = {name: occupancy(requests, 8192, name) for name in RESERVATIONS}
    assert shares["contiguous, longest"].at_once == 8192 / LONGEST
    assert all(found.tokens < 0.7 * paged.tokens for found in shares.values())
    assert shares["contiguous, length known"].external > 0
    order = [shares[name].tokens for name in RESERVATIONS]
    assert order == sorted(order)


def test_smaller_blocks_never_waste_more():
    requests = requests_like("sharegpt", 60, 2)
    wasted = [occupancy(requests, 8192, "paged", block).internal for block in (1, 16, 64)]
    assert wasted == sorted(wasted) and wasted[0] == 0


def test_a_beam_of_one_shares_nothing_and_wider_ones_share_their_prompt():
    model = decoder()
    text, requests = prompt(model, 400), [(50, 12), (33, 20)]
    assert beam_sharing(model, text, requests, 1).saved == 0
    assert beam_sharing(model, text, requests, 1).copies_per_token == 0
    saved = [beam_sharing(model, text, requests, width).saved for width in (2, 4)]
    assert 0.2 < saved[0] < saved[1] < 1
    assert beam_sharing(model, text, requests, 4).copies_per_token > 0


@pytest.mark.parametrize(
    ("requests", "memory", "name", "words"),
    [
        (
            [(3000, 3000)],
            4096,
            "paged",
            "a request of 3000 . 3000 tokens never fits a memory of 4096, paged; enlarge it",
        ),
        ([(15, 1)] * 3, 16, "paged", "a request of 15 . 1 tokens never fits a memory of 16"),
        ([(3, 3)], 1024, "contiguous, longest", "never fits a memory of 1024, contiguous, longest"),
        (
            [(3, 3)],
            1024,
            "page",
            "unknown layout 'page'; did you mean paged\\? use one of paged, contiguous, longest",
        ),
        ([(3, 3)], 1024, "paged", "holds all 1 requests at once; give more, or less memory"),
    ],
)
def test_a_memory_that_nothing_can_be_learnt_from_is_refused(requests, memory, name, words):
    with pytest.raises(RequestError, match=words):
        occupancy(requests, memory, name)


def test_a_text_that_runs_out_of_prompts_is_refused():
    model = decoder()
    with pytest.raises(RequestError, match="40 tokens of text for prompts of 41 in all; give a longer text"):
        beam_sharing(model, prompt(model, 40), [(30, 2), (11, 2)], 2)
