"""Block arithmetic and prefix ids."""

from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.core.blocks import blocks_for, chained_hash, prefix_hashes

token_lists = st.lists(st.integers(0, 200_000), max_size=40)


@given(st.integers(0, 10**9), st.integers(1, 4096))
def test_blocks_hold_the_tokens_and_one_fewer_would_not(tokens, size):
    blocks = blocks_for(tokens, size)
    assert blocks * size >= tokens > (blocks - 1) * size or blocks == tokens == 0


@given(token_lists, st.integers(1, 8))
def test_only_full_blocks_have_an_id(tokens, size):
    assert len(prefix_hashes(tokens, size)) == len(tokens) // size


@given(token_lists, token_lists, st.integers(1, 4))
def test_two_sequences_share_block_ids_exactly_as_far_as_their_tokens_agree(left, right, size):
    pairs = list(zip(prefix_hashes(left, size), prefix_hashes(right, size), strict=False))
    for k, (a, b) in enumerate(pairs):
        assert (a == b) == (left[: (k + 1) * size] == right[: (k + 1) * size])


def test_equal_blocks_behind_different_prefixes_have_different_ids():
    ids = prefix_hashes([7, 7, 7, 7, 7, 7], 2)
    assert len(set(ids)) == 3


def test_an_id_depends_on_the_order_and_the_parent_and_fits_into_64_bits():
    ids = {chained_hash(0, [1, 2]), chained_hash(0, [2, 1]), chained_hash(1, [1, 2]), chained_hash(0, [1])}
    assert len(ids) == 4 and all(0 <= value < 2**64 for value in ids)


def test_the_id_of_a_block_is_the_same_on_every_machine():
    assert chained_hash(0, [1, 2, 3]) == 16958249009808338657
