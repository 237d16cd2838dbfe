"""The plan of a decode step is used again for the next layer, and never for other tables or lengths."""

import numpy as np
import pytest
import torch
from decoders import decoder, prompt

from kv_cache_rl.paged import plan
from kv_cache_rl.paged.attention import paged_attention
from kv_cache_rl.paged.sequences import Sequence


def two_sequences():
    """A cache, the tables [1, 3] of two sequences in it, and a query."""
    model = decoder(0)
    cache, sequences = model.new_cache(20, 4), [Sequence(), Sequence()]
    for seed, sequence in enumerate(sequences):
        model.prefill(cache, sequence, prompt(model, 10, seed))
    return (
        cache,
        [np.array([sequence.blocks], dtype=np.int32) for sequence in sequences],
        torch.randn(1, 4, 8),
    )


@pytest.mark.parametrize("changed", ["numpy", "data", "in place", "lengths"])
def test_tables_and_lengths_that_changed_are_read_anew_however_they_did(changed):
    cache, (first, second), q = two_sequences()
    shared, lens = first.copy(), np.array([9])
    tables, lengths = torch.from_numpy(shared), torch.from_numpy(lens)
    before = paged_attention(q, cache, 0, tables, lengths)
    if changed == "numpy":
        shared[:] = second
    elif changed == "data":
        tables.data[:] = torch.from_numpy(second)
    elif changed == "in place":
        tables[:] = torch.from_numpy(second)
    else:
        lens[:] = 5
    after = paged_attention(q, cache, 0, tables, lengths)
    fresh = paged_attention(q, cache, 0, tables.clone().long(), lengths.clone())
    assert torch.equal(after, fresh) and not torch.equal(after, before)


def test_equal_tables_are_planned_once(monkeypatch):
    cache, (first, _), q = two_sequences()
    made, build = [], plan._plan
    monkeypatch.setattr(plan, "_plan", lambda *given: made.append(1) or build(*given))
    plan._last.__dict__.clear()
    for layer in (0, 1, 0):
        paged_attention(q, cache, layer, torch.from_numpy(first.copy()), torch.tensor([10]))
    assert len(made) == 1
