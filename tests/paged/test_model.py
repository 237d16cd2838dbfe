"""A decoder over the paged cache against the same decoder without one; its arithmetic; its refusals."""

import pytest
import torch
from decoders import decoder, dense_greedy, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.checkpoint import CheckpointError
from kv_cache_rl.paged.model import rotary_frequencies, rotate, rotation
from kv_cache_rl.paged.sequences import Sequence

CLOSE = 1e-4
"""How far logits may be apart."""


@given(
    st.integers(1, 32),
    st.integers(1, 60),
    st.lists(st.integers(1, 25), min_size=1, max_size=6),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_prefill_in_any_chunks_and_blocks_gives_the_logits_of_dense_recomputation(
    block_tokens, first, chunks, seed
):
    model = decoder(seed % 5)
    cache, sequence, tokens = (
        model.new_cache(200, block_tokens),
        Sequence(),
        prompt(model, first + sum(chunks), seed),
    )
    dense, done = model.dense_logits(tokens), 0
    for chunk in (first, *chunks):
        logits = model.prefill(cache, sequence, tokens[done : done + chunk])
        done += chunk
        assert (logits - dense[done - 1]).abs().max() < CLOSE
    assert sequence.tokens == tokens and sequence.length == len(tokens)
    cache.check()


@given(st.integers(1, 20), st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_decoding_a_ragged_batch_gives_the_logits_of_dense_recomputation(block_tokens, lengths, seed):
    model = decoder(seed % 5, kv_heads=(1, 2, 4)[seed % 3])
    cache, sequences = model.new_cache(400, block_tokens), [Sequence() for _ in lengths]
    for at, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        model.prefill(cache, sequence, prompt(model, length, seed + at))
    for step in range(4):
        logits = model.decode(cache, sequences, prompt(model, len(sequences), seed + step))
        for row, sequence in zip(logits, sequences, strict=True):
            assert (row - model.dense_logits(sequence.tokens)[-1]).abs().max() < CLOSE
    cache.check()


def test_the_shipped_model_decodes_the_tokens_and_logits_of_dense_recomputation(shipped):
    tokens = shipped.tokenizer.encode("anna is at the mill. the number of the gate is 4821. ")
    cache, sequence = shipped.new_cache(40, 16), Sequence()
    logits, chosen = shipped.prefill(cache, sequence, tokens), []
    for _ in range(48):
        assert (logits - shipped.dense_logits(sequence.tokens)[-1]).abs().max() < CLOSE
        chosen.append(int(logits.argmax()))
        logits = shipped.decode(cache, [sequence], chosen[-1:])[0]
    assert chosen == dense_greedy(shipped, tokens, 48)


def test_in_double_precision_the_cache_changes_nothing_to_twelve_digits():
    model = decoder(3).to(torch.float64)
    cache, sequence, tokens = model.new_cache(20, 4), Sequence(), prompt(model, 50)
    assert torch.allclose(
        model.prefill(cache, sequence, tokens), model.dense_logits(tokens)[-1], rtol=0, atol=1e-12
    )


def test_one_layer_by_hand():
    """Every matrix written out, one query head at a time, positions turned as complex numbers."""
    model = decoder(7, layers=1, heads=2, kv_heads=1, head_dim=4, tied=False).to(torch.float64)
    w, g, tokens = model.weights, model.geometry, prompt(model, 6)

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean() + g.norm_eps) * weight

    def turned(x, position):
        pairs = torch.complex(x[:2], x[2:]) * torch.exp(1j * position * rotary_frequencies(g))
        return torch.cat((pairs.real, pairs.imag))

    at, rows = "model.layers.0.", []
    hidden = [w["model.embed_tokens.weight"][token] for token in tokens]
    inner = [norm(h, w[at + "input_layernorm.weight"]) for h in hidden]
    keys = [turned(w[at + "self_attn.k_proj.weight"] @ h, p) for p, h in enumerate(inner)]
    values = [w[at + "self_attn.v_proj.weight"] @ h for h in inner]
    for p, (h, n) in enumerate(zip(hidden, inner, strict=True)):
        heads = []
        for q in (w[at + "self_attn.q_proj.weight"] @ n).split(4):
            weight = torch.stack([turned(q, p) @ k / 2 for k in keys[: p + 1]]).softmax(0)
            heads.append(sum(a * v for a, v in zip(weight, values, strict=False)))
        x = h + w[at + "self_attn.o_proj.weight"] @ torch.cat(heads)
        n = norm(x, w[at + "post_attention_layernorm.weight"])
        gate, up = w[at + "mlp.gate_proj.weight"] @ n, w[at + "mlp.up_proj.weight"] @ n
        x = x + w[at + "mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)
        rows.append(w["lm_head.weight"] @ norm(x, w["model.norm.weight"]))
    assert torch.allclose(model.dense_logits(tokens), torch.stack(rows), rtol=0, atol=1e-10)


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
@settings(max_examples=50, deadline=None)
def test_rotation_makes_scores_depend_on_distance_alone(i, j, shift):
    frequencies = rotary_frequencies(decoder(0).geometry)
    q, k = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(a, b):
        x, y = (
            rotate(x, *rotation(frequencies, torch.tensor([at]), torch.float64)) for x, at in ((q, a), (k, b))
        )
        return float((x * y).sum())

    assert score(i, j) == pytest.approx(score(i + shift, j + shift), abs=1e-9)


def test_a_cache_of_another_shape_or_dtype_is_refused():
    model, tokens = decoder(0), [1, 2, 3]
    for other in (
        decoder(0, layers=3),
        decoder(0, kv_heads=4),
        decoder(0, head_dim=4),
        model.to(torch.float64),
    ):
        with pytest.raises(
            ValueError, match=r"random has 2 layers of 2 KV heads of 8 in torch.float32, the cache"
        ):
            model.prefill(other.new_cache(4, 4), Sequence(), tokens)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], "no tokens given"),
        ([40], "run from 40 to 40; use whole numbers from 0 to 39"),
        ([0, -1], "run from -1"),
        ([0.5], "0.5"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(tokens, message):
    model = decoder(0)
    cache = model.new_cache(4, 4)
    for act in (lambda: model.dense_logits(tokens), lambda: model.prefill(cache, Sequence(), tokens)):
        with pytest.raises(ValueError, match=message):
            act()
    cache.check()
    assert cache.pool.free == 4


def test_a_prompt_of_more_tokens_than_blocks_changes_nothing():
    model = decoder(0)
    cache, sequence = model.new_cache(3, 4), Sequence()
    with pytest.raises(PoolError, match="4 exact blocks asked for, 3 of 3 are free"):
        model.prefill(cache, sequence, prompt(model, 13))
    cache.check()
    assert (cache.pool.free, sequence.length, sequence.tokens) == (3, 0, [])


def test_a_batch_that_does_not_fit_leaves_every_sequence_as_it_was():
    model = decoder(0)
    cache, first = model.new_cache(4, 4), Sequence()
    model.prefill(cache, first, prompt(model, 6))
    sequences = [
        first,
        cache.fork(first),
        cache.fork(first),
        cache.fork(first),
    ]  # two blocks; three copies to write, two free
    with pytest.raises(PoolError, match="needs 0 blocks and 3 copies, 2 are free"):
        model.decode(cache, sequences, [1, 2, 3, 4])
    cache.check()
    assert cache.pool.free == 2 and [s.length for s in sequences] == [6] * 4 and cache.copies == 0
    logits = model.decode(cache, sequences[:2], [1, 2])
    assert (logits[1] - model.dense_logits([*prompt(model, 6), 2])[-1]).abs().max() < CLOSE


def test_one_token_for_each_sequence_each_once():
    model = decoder(0)
    cache, sequence = model.new_cache(4, 4), Sequence()
    model.prefill(cache, sequence, [1, 2])
    for sequences, tokens in (([sequence], [1, 2]), ([sequence, sequence], [1, 2])):
        with pytest.raises(ValueError, match="give one token for each sequence, each once"):
            model.decode(cache, sequences, tokens)
    assert sequence.length == 2


def test_a_sequence_goes_on_with_the_tokens_it_names():
    model = decoder(0)
    cache, sequence = model.new_cache(4, 4), Sequence([1, 2, 3])
    with pytest.raises(ValueError, match=r"goes on with tokens \[1, 2, 3\]\.\.\. after 0, got \[7\]"):
        model.prefill(cache, sequence, [7])
    assert cache.pool.free == 4


def test_keys_that_are_not_finite_are_refused_and_the_sequence_is_as_before():
    model = decoder(0)
    cache, sequence = model.new_cache(8, 4), Sequence()
    before = model.prefill(cache, sequence, [1, 2, 3])
    model.weights["model.layers.1.self_attn.k_proj.weight"][0, 0] = float("nan")
    for act in (
        lambda: model.prefill(cache, sequence, [4, 5, 6]),
        lambda: model.decode(cache, [sequence], [4]),
    ):
        with pytest.raises(ValueError, match="k of layer 1 holds NaN or infinity"):
            act()
        cache.check()
        assert (sequence.length, sequence.tokens) == (3, [1, 2, 3])
    healthy = decoder(0)
    after = healthy.prefill(cache, sequence, [4])
    assert (after - healthy.dense_logits([1, 2, 3, 4])[-1]).abs().max() < CLOSE and not torch.equal(
        before, after
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 6, "kv_heads": 4}, "6 query heads cannot share 4 KV heads evenly; give a divisor of it"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"layers": 0}, "layers is 0; give at least 1"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        decoder(0, **change)


def test_cost_tables_count_the_bytes_that_the_pool_has():
    from kv_cache_rl.core.geometry import bytes_per_token
    from kv_cache_rl.paged.measure.calibrate import geometry_of

    model = decoder(0)
    assert bytes_per_token(geometry_of(model), 4.0) * 4 == model.new_cache(1, 4).pool.block_nbytes
