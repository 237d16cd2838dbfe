"""The demo's checks fail where paging is broken, each in the way the seed project was."""

import pytest
import torch

from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.measure import checks
from kv_cache_rl.paged.measure.memory import Usage
from kv_cache_rl.paged.measure.quality import held_out_tokens


@pytest.fixture(scope="module")
def text(shipped):
    return held_out_tokens(shipped, 600)


def failed(part, model, text):
    with torch.no_grad():
        return [check.name for check in checks.PARTS[part](model, text, 0) if not check.passed]


@pytest.mark.parametrize("part", checks.PARTS)
def test_nothing_fails_as_it_is(shipped, text, part):
    assert failed(part, shipped, text) == []


def test_an_append_that_overwrites_the_siblings_token_is_noticed(shipped, text, monkeypatch):
    monkeypatch.setattr(KVCache, "_last_is_shared", lambda self, sequence: False)
    with pytest.raises(CacheError, match="is given 3 times; one slot takes one token"):
        failed("copy on write", shipped, text)  # three samples, one block
    monkeypatch.setattr(KVCache, "_check_slots", lambda self, slots: None)
    assert "blocks copied by that append" in failed("copy on write", shipped, text)


def test_a_swap_that_frees_nothing_is_noticed(shipped, text, monkeypatch):
    def keeps(cache, host, sequence):
        cache.pool.take(0)
        host.held[sequence.id] = (host.store(cache.pool, sequence.blocks), sequence.length)
        return 0

    def back(cache, host, sequence):
        rows, _ = host.held.pop(sequence.id)
        host.give(rows)

    monkeypatch.setattr(checks, "swap_out", keeps)
    monkeypatch.setattr(checks, "swap_in", back)
    found = failed("swap and recompute", shipped, text)
    assert "blocks that swapping out frees" in found
    assert "K/V after a swap out and in, the pool poisoned in between" in found


def test_recomputing_noise_is_noticed(shipped, text, monkeypatch):
    right = checks.recompute

    def noise(model, cache, sequence):
        right(model, cache, sequence)
        for tensor in (*cache.pool.keys, *cache.pool.values):
            tensor.normal_()

    monkeypatch.setattr(checks, "recompute", noise)
    assert "K/V after recomputing" in failed("swap and recompute", shipped, text)


def test_savings_that_are_negative_are_noticed(shipped, text, monkeypatch):
    monkeypatch.setattr(checks, "usage", lambda requests, block: Usage(1000, 1097, 1000, 1000))
    assert "ShareGPT-like lengths: saved against reserving 2,048" in failed("memory", shipped, text)
