"""What quantised caches change on the shipped model, and the law between error and divergence."""

import math

import pytest
import torch

from kv_cache_rl.paged.measure.quality import SCHEMES, Quality, fit_law, held_out_tokens, qualities, windows
from kv_cache_rl.paged.quantised_blocks import QuantisedBlocks, quantise_filled
from kv_cache_rl.paged.sequences import Sequence


@pytest.fixture(scope="module")
def rows(shipped):
    return windows(held_out_tokens(shipped, 3 * 300), 3, 300)


@pytest.fixture(scope="module")
def found(shipped, rows):
    """Qualities of the shipped model's cache, and the exact cache's nats per token."""
    return qualities(shipped, rows, SCHEMES)


def test_int8_changes_the_likelihood_by_nothing_and_int4_by_a_hundredth_of_a_nat_at_most(found):
    schemes, _ = found
    assert abs(schemes["int8"].delta_nll) <= 1e-3
    assert schemes["int4"].delta_nll <= 0.01
    assert schemes["int8"].kl < schemes["int4"].kl < schemes["int2"].kl


def test_the_exact_nats_are_those_of_the_dense_model(shipped, rows, found):
    logs = shipped.dense_logits(rows[:, :-1]).double().log_softmax(-1)
    nll = -logs.gather(-1, rows[:, 1:, None])[:, 64:].mean()
    assert found[1] == pytest.approx(float(nll), abs=1e-5)


def test_the_divergence_is_proportional_to_the_square_of_a_small_attention_error(found):
    law = fit_law(list(found[0].values()))
    assert law.points >= 4 and law.r_squared > 0.95
    assert law.exponent == pytest.approx(2, abs=0.4)


def test_keys_need_the_bits(found):
    """Beyond small errors the law ends: keys at two bits lose what the attention was looking for."""
    assert found[0]["k2v4"].kl > 10 * found[0]["k4v2"].kl
    assert fit_law(list(found[0].values())).beyond > 3


def test_group_by_group_is_what_decoding_token_by_token_gives(shipped, rows):
    """The same windows decoded through the model's own steps, groups quantised as they fill."""
    short, caches = rows[:2, :150], {}
    for name in ("exact", "int4"):
        cache = shipped.new_cache(40)
        if name != "exact":
            cache.pool.attach(QuantisedBlocks(cache.pool, 16, 4))
        sequences, logits = [Sequence(), Sequence()], []
        for at in range(short.shape[1] - 1):
            logits.append(shipped.decode(cache, sequences, short[:, at].tolist()))
            if name != "exact":
                for sequence in sequences:
                    quantise_filled(cache, sequence)
        caches[name] = torch.stack(logits)[64:].double().log_softmax(-1)
    kl = (caches["exact"].exp() * (caches["exact"] - caches["int4"])).sum(-1).mean()
    grouped = qualities(shipped, short, {"int4": (4, 4)})[0]["int4"]
    assert grouped.kl == pytest.approx(float(kl), rel=1e-3)


def test_the_law_is_found_where_it_holds_and_told_apart_where_it_does_not():
    def law_of(exponent, factor=3.0):
        return fit_law([Quality(factor * e**exponent, 0.0, e) for e in (1e-4, 1e-3, 1e-2, 1e-1)])

    law = law_of(2)
    assert (
        law.factor == pytest.approx(3.0)
        and law.exponent == pytest.approx(2.0)
        and law.r_squared == pytest.approx(1.0)
    )
    other = law_of(1)
    assert other.exponent == pytest.approx(1.0) and other.r_squared < 0.1
    assert law.beyond is None
    assert fit_law(
        [Quality(e * e * (1 if e < 0.25 else 9), 0.0, e) for e in (1e-3, 1e-2, 0.1, 0.5)]
    ).beyond == pytest.approx(9)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: fit_law([Quality(0.0, 0.0, 0.0)] * 5), "0 schemes with an error up to 0.1"),
        (lambda: windows([1] * 100, 1, 64), "give at least 1 of 128"),
        (lambda: windows([1] * 100, 0, 128), "0 windows"),
        (lambda: windows([1] * 100, 1, 128), "the text has 100 tokens, 1 windows of 128 need 128"),
    ],
)
def test_what_cannot_be_measured_is_refused(act, words):
    with pytest.raises(ValueError, match=words):
        act()


def test_enough_tokens_are_held_out(shipped):
    tokens = held_out_tokens(shipped, 3000)
    assert len(tokens) >= 3000 and math.log(len(set(tokens))) > 2
