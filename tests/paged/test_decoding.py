"""Greedy, parallel sampling and beams against dense recomputation; their blocks by closed forms."""

import pytest
import torch
from decoders import decoder, dense_greedy, log_probability, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.decoding import beam, drawn, generator_of, greedy, sample
from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.sequences import Sequence

some = settings(max_examples=25, deadline=None)
BLOCKS = st.integers(1, 20)


def all_back(cache):
    """Books balance and nothing is held."""
    cache.check()
    return cache.pool.free == cache.pool.blocks and not cache.live


@given(BLOCKS, st.integers(1, 40), st.integers(0, 99))
@some
def test_greedy_tokens_are_those_of_dense_recomputation(block_tokens, length, seed):
    model = decoder(seed % 5)
    cache, start = model.new_cache(80, block_tokens), prompt(model, length, seed)
    assert greedy(model, cache, start, 12) == dense_greedy(model, start, 12)
    assert all_back(cache)


@given(BLOCKS, st.integers(1, 40), st.integers(1, 6), st.integers(0, 99))
@some
def test_every_sample_is_that_of_its_own_run(block_tokens, length, samples, seed):
    model = decoder(seed % 5)
    cache, start = model.new_cache(400, block_tokens), prompt(model, length, seed)
    together = sample(model, cache, start, samples, 10, seed)
    assert together == [sample(model, cache, start, 1, 10, seed + i)[0] for i in range(samples)]
    assert all_back(cache)


def test_samples_differ_and_follow_the_probabilities():
    """4,000 draws: every token's share within five standard deviations of its probability."""
    logits = torch.tensor([2.0, 0.0, -1.0, 1.0, float("-inf")])
    generator, share = generator_of(3), (logits.double() / 0.7).softmax(-1)
    counts = torch.bincount(torch.tensor([drawn(logits, generator, 0.7) for _ in range(4000)]), minlength=5)
    assert ((counts - 4000 * share).abs() <= 5 * (4000 * share * (1 - share)).sqrt()).all()
    model = decoder(1)
    assert len({tuple(tokens) for tokens in sample(model, model.new_cache(40, 4), [1, 2, 3], 4, 8, 0)}) == 4


@given(BLOCKS, st.integers(1, 30), st.integers(1, 5), st.integers(1, 8), st.integers(0, 99))
@some
def test_beam_scores_are_the_dense_log_probabilities(block_tokens, length, width, count, seed):
    model = decoder(seed % 5, scale=8.0)
    cache, start = model.new_cache(400, block_tokens), prompt(model, length, seed)
    beams = beam(model, cache, start, width, count)
    assert len(beams) == width == len({tuple(b.tokens) for b in beams})
    for b in beams:
        assert b.score == pytest.approx(log_probability(model, start, b.tokens), abs=1e-4)
    assert [b.score for b in beams] == sorted((b.score for b in beams), reverse=True)
    assert all_back(cache)


def test_beams_are_those_of_a_search_that_keeps_no_cache():
    model, width, start = decoder(2, vocab=12, scale=6.0), 4, [3, 1, 4]
    exact = model.to(torch.float64)
    known = [([], 0.0)]
    for _ in range(6):
        longer = []
        for tokens, score in known:
            gains = exact.dense_logits(start + tokens)[-1].log_softmax(-1)
            longer += [([*tokens, token], score + float(gain)) for token, gain in enumerate(gains)]
        known = sorted(longer, key=lambda item: -item[1])[:width]
    found = beam(model, model.new_cache(60, 4), start, width, 6)
    assert [b.tokens for b in found] == [tokens for tokens, _ in known]


def test_a_beam_as_wide_as_the_vocabulary_finds_the_best_two_tokens_of_all():
    model, start = decoder(4, vocab=9, scale=6.0), [1, 2, 3, 4, 5]
    best = max(log_probability(model, start, [a, b]) for a in range(9) for b in range(9))
    assert beam(model, model.new_cache(60, 2), start, 9, 2)[0].score == pytest.approx(best, abs=1e-5)


def test_a_beam_of_one_is_greedy():
    model = decoder(5)
    cache = model.new_cache(20, 4)
    assert beam(model, cache, [7, 8], 1, 15)[0].tokens == greedy(model, cache, [7, 8], 15)
    assert cache.copies == 0


@given(st.integers(1, 20), st.integers(1, 50), st.integers(1, 20), st.integers(1, 6))
@some
def test_shared_blocks_and_copies_are_the_closed_forms(block_tokens, prompted, outputs, samples):
    """The last token drawn is never computed, so `outputs` tokens in the cache need one more drawn."""
    model, used = decoder(0, layers=1), []
    cache = model.new_cache(1 + samples * blocks_for(prompted + outputs, block_tokens), block_tokens)
    start = prompt(model, prompted)
    sample(
        model, cache, start, samples, outputs + 1, seed=0, after_step=lambda _: used.append(cache.pool.used)
    )
    alone = samples * blocks_for(prompted + outputs, block_tokens)
    assert used[-1] == alone - (samples - 1) * (prompted // block_tokens)
    assert cache.copies == (samples - 1 if prompted % block_tokens else 0)
    assert all_back(cache)


@given(st.integers(1, 8), st.integers(1, 20), st.integers(2, 5), st.integers(0, 99))
@some
def test_beams_hold_exactly_one_block_for_each_different_path(block_tokens, length, width, seed):
    """Beams with the same past share its blocks; after they part, each has its own."""
    model, seen = decoder(seed % 5), []
    cache, start = model.new_cache(400, block_tokens), prompt(model, length, seed)

    def count(held):
        ends = [(s.tokens, range(block_tokens, s.length + block_tokens, block_tokens)) for s in held]
        seen.append((cache.pool.used, len({tuple(tokens[:end]) for tokens, stops in ends for end in stops})))

    beam(model, cache, start, width, 8, after_step=count)
    assert len(seen) == 8 and all(used == paths for used, paths in seen)


def test_writing_behind_a_fork_leaves_the_sibling_alone():
    """What the seed got wrong: an append on a fork overwrote the sibling's token."""
    model = decoder(0)
    cache, first = model.new_cache(10, 4), Sequence()
    model.prefill(cache, first, prompt(model, 6))
    second = cache.fork(first)
    logits = [
        model.decode(cache, [sequence], [token])[0]
        for sequence, token in ((first, 1), (second, 2), (first, 3), (second, 4))
    ]
    for row, tail in zip(logits, ([1], [2], [1, 3], [2, 4]), strict=True):
        assert (row - model.dense_logits(prompt(model, 6) + tail)[-1]).abs().max() < 1e-4
    assert cache.copies == 1


def test_a_fork_of_a_freed_sequence_is_refused():
    model = decoder(0)
    cache, sequence = model.new_cache(4, 4), Sequence()
    model.prefill(cache, sequence, [1, 2])
    cache.release(sequence)
    for act in (
        lambda: cache.fork(sequence),
        lambda: model.decode(cache, [sequence], [3]),
        lambda: cache.release(sequence),
    ):
        with pytest.raises(CacheError, match="was released"):
            act()
    assert all_back(cache)


@pytest.mark.parametrize(
    "act",
    [
        lambda model, cache: greedy(model, cache, [1, 2, 3], 30),
        lambda model, cache: sample(model, cache, [1, 2, 3], 3, 9, 0),
        lambda model, cache: beam(model, cache, [1, 2, 3], 4, 12),
        lambda model, cache: greedy(model, cache, prompt(model, 30), 1),
    ],
    ids=["greedy", "sample", "beam", "prompt"],
)
def test_a_search_that_runs_out_of_blocks_says_so_and_gives_all_back(act):
    model = decoder(0)
    cache = model.new_cache(5, 4)
    with pytest.raises(PoolError, match="build a larger pool"):
        act(model, cache)
    assert all_back(cache)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda m, c: greedy(m, c, [], 3),
            "a prompt of 0 tokens and 3 to generate; give at least one of each",
        ),
        (lambda m, c: greedy(m, c, [1], 0), "a prompt of 1 tokens and 0 to generate"),
        (lambda m, c: sample(m, c, [1], 0, 3, 0), "0 samples; give at least 1"),
        (
            lambda m, c: sample(m, c, [1], 1, 3, 0, temperature=0.0),
            "a temperature of 0.0; give a finite one above 0",
        ),
        (lambda m, c: beam(m, c, [1], 0, 3), "a beam of width 0 over 40 tokens; give a width from 1 to 40"),
        (lambda m, c: beam(m, c, [1], 41, 3), "a beam of width 41 over 40 tokens"),
    ],
)
def test_requests_that_ask_for_nothing_are_refused(act, message):
    model = decoder(0)
    cache = model.new_cache(4, 4)
    with pytest.raises(ValueError, match=message):
        act(model, cache)
    assert all_back(cache)
