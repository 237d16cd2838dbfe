"""The laws of a cache's bytes: what sequences hold, what a further token adds, what a block is charged."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.core.geometry import (
    MODELS,
    LayerGroup,
    ModelGeometry,
    NotLinear,
    block_bytes,
    bytes_held,
    bytes_per_token,
    is_linear,
    mean_bytes_per_token,
    not_linear,
)
from kv_cache_rl.core.hardware import HARDWARE, kv_capacity_tokens

MIXED = ModelGeometry(
    "mixed",
    *(7, 0, 0, 0.0),
    (
        LayerGroup("full attention", 2, 10),
        LayerGroup("sliding window", 3, 20, 100),
        LayerGroup("compressed", 1, 8, stride=4),
        LayerGroup("state", 1, state_bytes=5_000),
    ),
)
LLAMA = MODELS["llama-3.1-8b"]
lengths = st.lists(st.integers(0, 2_000), min_size=1, max_size=20)


def held(tokens, width):
    """What MIXED holds of a sequence, token by token."""
    kept = [2 * 10 + (3 * 20 if tokens - k <= 100 else 0) + (8 if k % 4 == 3 else 0) for k in range(tokens)]
    return sum(kept) * width + (5_000 if tokens else 0)


@given(st.integers(0, 2_000), st.sampled_from([2.0, 1.0, 0.5]))
def test_a_sequence_holds_what_each_of_its_tokens_keeps_and_its_states(tokens, width):
    assert bytes_held(MIXED, tokens, width) == held(tokens, width)


@given(lengths)
def test_an_array_of_lengths_gives_the_bytes_of_each(tokens):
    assert list(bytes_held(MIXED, np.array(tokens))) == [bytes_held(MIXED, one) for one in tokens]


@given(st.integers(0, 10**6), st.sampled_from(sorted(MODELS)))
def test_a_linear_model_holds_its_bytes_per_token_so_many_times(tokens, name):
    assert is_linear(MODELS[name]) and not not_linear(MODELS[name])
    assert bytes_held(MODELS[name], tokens) == tokens * bytes_per_token(MODELS[name])


def test_behind_every_window_four_tokens_add_four_times_what_one_does():
    added = bytes_held(MIXED, 1_004) - bytes_held(MIXED, 1_000)
    assert added == 4 * bytes_per_token(MIXED) == 4 * (2 * 10 + 8 / 4) * 2


@given(lengths.filter(any), st.integers(1, 512))
def test_blocks_are_charged_what_the_sequences_hold_together(tokens, block_tokens):
    found = np.array(tokens)
    charged = block_bytes(MIXED, block_tokens, found) / block_tokens * found.sum()
    assert charged == pytest.approx(
        sum(held(one, 2.0) for one in tokens), abs=0.51 * found.sum() / block_tokens
    )
    assert (
        block_bytes(LLAMA, block_tokens, found) == block_bytes(LLAMA, block_tokens) == 131_072 * block_tokens
    )


@pytest.mark.parametrize("none", [None, np.array([], np.int64), np.array([0, 0])])
def test_without_lengths_a_model_that_is_not_linear_is_refused_and_says_why(none):
    with pytest.raises(NotLinear) as refused:
        mean_bytes_per_token(MIXED, none)
    assert str(refused.value) == (
        "the cache of mixed is not linear in tokens (3 of 7 layers keep the last 100 tokens, 1 of 7 layers "
        "keeps an entry for 4 tokens, 1 of 7 layers keeps a constant state), and nothing says how long the "
        "sequences are; name a model of which every layer keeps every token"
    )
    assert mean_bytes_per_token(LLAMA, none) == 131_072


def test_a_gpu_holds_the_more_tokens_of_windows_the_longer_sequences_are():
    profile = HARDWARE["a100-llama-3.1-8b"]
    found = [kv_capacity_tokens(profile, MIXED, lengths=np.array([n])) for n in (10, 100, 1_000, 10_000)]
    assert found == sorted(found) and found[-1] == int(0.9 * 80e9 / (held(10_000, 2.0) / 10_000))
