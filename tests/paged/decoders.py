"""Small decoders with random weights, large enough that every token depends on all before it."""

import torch

from kv_cache_rl.paged.checkpoint import DecoderGeometry
from kv_cache_rl.paged.model import Decoder


def decoder(seed=0, layers=2, heads=4, kv_heads=2, head_dim=8, vocab=40, scale=12.0, **geometry):
    """A decoder with random matrices of `scale` times the usual size: its logits are far from even."""
    shape = DecoderGeometry(
        "random",
        layers,
        heads,
        kv_heads,
        head_dim,
        geometry.pop("width", 24),
        geometry.pop("hidden", 32),
        vocab,
        **geometry,
    )
    model = Decoder.untrained(shape, seed)
    for name, weight in model.weights.items():
        if weight.ndim == 2:
            weight.mul_(scale)
        elif name.endswith(".bias"):
            weight.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def prompt(model, length, seed=0):
    """Random token ids."""
    return torch.randint(
        model.geometry.vocab, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def dense_greedy(model, start, count):
    """Greedy tokens by computing everything anew for every token."""
    tokens = list(start)
    for _ in range(count):
        tokens.append(int(model.dense_logits(tokens)[-1].argmax()))
    return tokens[len(start) :]


def log_probability(model, start, tokens):
    """Sum of the tokens' log-probabilities behind `start`, dense, in double precision."""
    gains = model.to(torch.float64).dense_logits([*start, *tokens]).log_softmax(-1)
    return sum(float(gains[len(start) + at - 1, token]) for at, token in enumerate(tokens))


def contents(cache, sequence):
    """K and V of a sequence's tokens, every layer."""
    parts = [
        t[sequence.blocks].flatten(0, 1)[: sequence.length] for t in (*cache.pool.keys, *cache.pool.values)
    ]
    return torch.stack(parts).clone()
