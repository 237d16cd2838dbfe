"""A cache refuses sequences of another cache, and slots that its pool does not have."""

import pytest
import torch
from decoders import contents, decoder, prompt

from kv_cache_rl.paged.kv_cache import CacheError
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, swap_out


@pytest.mark.parametrize(
    "act",
    [
        lambda model, cache, host, mine, own: cache.release(mine),
        lambda model, cache, host, mine, own: cache.fork(mine),
        lambda model, cache, host, mine, own: cache.extend(mine, 1),
        lambda model, cache, host, mine, own: cache.publish(mine),
        lambda model, cache, host, mine, own: model.prefill(cache, mine, [1]),
        lambda model, cache, host, mine, own: model.decode(cache, [own, mine], [1, 2]),
        lambda model, cache, host, mine, own: swap_out(cache, host, mine),
    ],
)
def test_a_sequence_of_another_cache_is_refused_and_nothing_changes(act):
    model = decoder(0)
    caches, (mine, own) = [model.new_cache(8, 4) for _ in range(2)], (Sequence(), Sequence())
    for cache, sequence, seed in zip(caches, (mine, own), (0, 1), strict=True):
        model.prefill(cache, sequence, prompt(model, 10, seed))
    before = [contents(cache, sequence) for cache, sequence in zip(caches, (mine, own), strict=True)]
    host = HostPool(caches[1].pool, 8)
    with pytest.raises(
        CacheError, match=f"sequence {mine.id} holds 3 blocks of another cache; use it with that one"
    ):
        act(model, caches[1], host, mine, own)
    for cache, sequence, kept in zip(caches, (mine, own), before, strict=True):
        cache.check()
        assert (
            torch.equal(contents(cache, sequence), kept) and sequence.length == 10 and not sequence.released
        )
    host.check()


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (torch.tensor([32]), "slots run from 32 to 32, the pool has 0 to 31"),
        (torch.tensor([-1]), "slots run from -1 to -1"),
        (torch.tensor([1.0]), r"slots are torch.float32 of shape \[1\]; give int64 \[n\]"),
        (torch.tensor([1], dtype=torch.int32), "slots are torch.int32"),
        (torch.tensor([[1]]), r"of shape \[1, 1\]"),
    ],
)
def test_slots_that_do_not_exist_are_refused_and_nothing_is_written(slots, words):
    cache, k = decoder(0).new_cache(8, 4), torch.ones(1, 2, 8)
    with pytest.raises(CacheError, match=words):
        cache.write(0, slots, k, k)
    assert not any(tensor.any() for tensor in (*cache.pool.keys, *cache.pool.values))
