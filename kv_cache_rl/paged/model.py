"""A decoder over a paged KV cache, or without a cache.

    embed -> per layer [ norm -> q, k, v -> rotate -> attend -> add
                         norm -> gated feed-forward -> add ] -> norm -> logits

Only `attend` differs: dense over the given tokens, or over the cache for a prefill chunk or a
decode step.

Source: Touvron et al., "LLaMA" (2302.13971); Ainslie et al., "GQA" (2305.13245); Su et al.,
"RoFormer" (2104.09864).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Many
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kv_cache_rl.paged.attention import paged_attention, paged_prefill
from kv_cache_rl.paged.block_pool import BlockPool, PoolError
from kv_cache_rl.paged.checkpoint import (
    EMBEDDING,
    HEAD,
    LAST_NORM,
    SHIPPED,
    DecoderGeometry,
    read_eos,
    read_geometry,
    read_weights,
    tensor_shapes,
)
from kv_cache_rl.paged.drawing import generator_of
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.kv_cache import CacheError, KVCache
from kv_cache_rl.paged.rotary import rotary_frequencies, rotate, rotation
from kv_cache_rl.paged.sequences import Sequence, block_table, lengths
from kv_cache_rl.paged.storage import device_of, floating
from kv_cache_rl.paged.token_ids import token_ids
from kv_cache_rl.paged.tokenizer import ByteTokenizer, Tokenizer, tokenizer_in

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q [..., heads, head_dim], k and v [..., kv_heads, head_dim]) → output shaped like q."""


class Decoder:
    """A decoder's weights and the ways to run it; it holds no KV cache."""

    def __init__(
        self,
        geometry: DecoderGeometry,
        weights: Mapping[str, Tensor],
        tokenizer: Tokenizer | None = None,
        eos: Iterable[int] = (),
    ) -> None:
        self.geometry = geometry
        self.weights = dict(weights)
        self.tokenizer = tokenizer or ByteTokenizer()
        self.eos = frozenset(eos)
        """Tokens that end a text."""
        self._frequencies = rotary_frequencies(geometry).to(self.device)

    @classmethod
    def load(
        cls, folder: str | Path | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> Decoder:
        """The decoder in a folder with a Llama-family checkpoint; the shipped one without a folder.

        Raises:
            CheckpointError: the folder holds no checkpoint that can be run.
            PoolError: there is no such device here, or `dtype` is no floating one.
        """
        floating(dtype)
        folder = folder or SHIPPED
        geometry = read_geometry(folder)
        weights = read_weights(folder, geometry, dtype, device_of(device))
        return cls(geometry, weights, tokenizer_in(folder), read_eos(folder, geometry.vocab))

    @classmethod
    def untrained(cls, geometry: DecoderGeometry, seed: int, dtype: torch.dtype = torch.float32) -> Decoder:
        """A decoder before training: normal weights of 0.02, norms of 1.

        The weights that write to the residual stream are smaller, by 1 / sqrt(2 layers).

        Source: Radford et al., GPT-2.
        """
        generator, weights, dtype = generator_of(seed), {}, floating(dtype)
        for name, shape in tensor_shapes(geometry).items():
            if name.endswith("norm.weight"):
                weights[name] = torch.ones(shape, dtype=dtype)
                continue
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * geometry.layers) if residual else 0.02
            weights[name] = (torch.randn(shape, generator=generator) * std).to(dtype)
        return cls(geometry, weights)

    @property
    def dtype(self) -> torch.dtype:
        return self.weights[EMBEDDING].dtype

    @property
    def device(self) -> torch.device:
        return self.weights[EMBEDDING].device

    def to(self, dtype: torch.dtype) -> Decoder:
        """The same decoder computing in `dtype`.

        Raises:
            PoolError: it is no floating torch.dtype.
        """
        floating(dtype)
        weights = {name: w.to(dtype) for name, w in self.weights.items()}
        return Decoder(self.geometry, weights, self.tokenizer, self.eos)

    def dense_logits(self, tokens: Many[int] | Tensor) -> Tensor:
        """Logits [..., t, vocab] after each of `tokens` [..., t], computed without a cache.

        Every cached path must equal them.
        """
        ids = self.checked(tokens)
        return self.run(ids, torch.arange(ids.shape[-1], device=self.device), dense)

    def prefill(self, cache: KVCache, sequence: Sequence, tokens: Many[int]) -> Tensor:
        """Computes `tokens` behind those of `sequence` in the cache; returns the logits [vocab].

        They are those after the last token. A prompt may come in chunks.

        Raises:
            PoolError: the pool has too few free blocks; nothing has changed.
            RequestError, CacheError: the tokens, the sequence or the cache do not fit.
        """
        ids, start = self.checked(tokens), sequence.length
        if ids.dim() != 1:
            raise RequestError(
                f"tokens of shape {list(ids.shape)}; give the ids of one sequence, one after the other"
            )
        self._check_fits(cache)
        _check_continues(sequence, ids.tolist())
        slots = cache.extend(sequence, len(ids))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, slots, k, v)
            return paged_prefill(q, cache, layer, sequence, start)

        with _undone_on_error([sequence], len(ids)):
            logits = self.run(
                ids, torch.arange(start, start + len(ids), device=self.device), attend, last_only=True
            )[0]
            self._check_finite(logits)
        sequence.tokens[start : start + len(ids)] = ids.tolist()
        return logits

    def decode(self, cache: KVCache, sequences: Many[Sequence], tokens: Many[int]) -> Tensor:
        """Computes one more token of each sequence in one batch; returns the logits [n, vocab].

        Nothing has changed after one of these errors.

        Raises:
            PoolError: the pool has too few free blocks for all sequences.
            CacheError: a sequence cannot grow in this cache.
            RequestError: the tokens do not fit the model or the sequences.
        """
        ids = self.checked(tokens)
        self._check_fits(cache)
        if ids.shape != (len(sequences),) or len({id(s) for s in sequences}) < len(sequences):
            raise RequestError(
                f"{len(sequences)} sequences and {ids.numel()} tokens; "
                "give one token for each sequence, each once"
            )
        starts = [sequence.length for sequence in sequences]
        for sequence, token in zip(sequences, ids.tolist(), strict=True):
            _check_continues(sequence, [token])
            cache.check_extend(sequence, 1)  # all refusals before the first change
        self._check_room(cache, sequences)
        slots = torch.cat([cache.extend(sequence, 1) for sequence in sequences])
        tables, lens = block_table(sequences, self.device), lengths(sequences)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache.write(layer, slots, k, v)
            return paged_attention(q, cache, layer, tables, lens)

        with _undone_on_error(sequences, 1):
            logits = self.run(ids, torch.tensor(starts, device=self.device), attend)
            self._check_finite(logits)
        for sequence, start, token in zip(sequences, starts, ids.tolist(), strict=True):
            sequence.tokens[start : start + 1] = [token]
        return logits

    def _check_finite(self, logits: Tensor) -> None:
        lowest, highest = torch.aminmax(logits)  # NaN where there is one
        if not (lowest - highest).isfinite():
            raise RequestError(
                f"{self.geometry.name}: logits in {self.dtype} hold NaN or infinity, no token follows from "
                "them; compute in float32 (`to`), or mend the weights"
            )

    def _check_fits(self, cache: KVCache) -> None:
        pool, g = cache.pool, self.geometry
        if (pool.layers, pool.kv_heads, pool.head_dim, pool.dtype) != (
            g.layers,
            g.kv_heads,
            g.head_dim,
            self.dtype,
        ):
            raise RequestError(
                f"{g.name} has {g.layers} layers of {g.kv_heads} KV heads of {g.head_dim} in {self.dtype}, "
                f"the cache {pool.layers} of {pool.kv_heads} of {pool.head_dim} in {pool.dtype}; "
                "build the pool for the model (`new_cache`)"
            )

    def _check_room(self, cache: KVCache, sequences: Many[Sequence]) -> None:
        """Raises PoolError unless all sequences can grow; `extend` is atomic for one only."""
        size = cache.pool.block_tokens
        holders = Counter(s.blocks[s.length // size] for s in sequences if s.length % size)
        fresh = sum(s.length == len(s.blocks) * size for s in sequences)
        copied = sum(min(n, cache.pool.references(block) - 1) for block, n in holders.items())
        if fresh + copied > cache.pool.free:
            raise PoolError(
                f"decoding {len(sequences)} sequences needs {fresh} blocks and {copied} copies, "
                f"{cache.pool.free} are free; "
                "release, preempt or swap out some, or build a larger pool"
            )

    def new_cache(self, blocks: int, block_tokens: int = 16) -> KVCache:
        """An empty cache of this decoder's shape and dtype."""
        g = self.geometry
        return KVCache(
            BlockPool(g.layers, blocks, block_tokens, g.kv_heads, g.head_dim, self.dtype, self.device)
        )

    def checked(self, tokens: Many[int] | Tensor) -> Tensor:
        """The token ids as an int64 tensor; raises RequestError as `token_ids` does."""
        return token_ids(tokens, self.geometry.name, self.geometry.vocab, self.device)

    def run(self, ids: Tensor, positions: Tensor, attend: Attend, last_only: bool = False) -> Tensor:
        """Logits [..., t, vocab] of `ids` [..., t] at `positions` [t], with `attend` as attention.

        With `last_only` those of the last token alone, of one sequence.
        """
        x = F.embedding(ids, self.weights[EMBEDDING])
        turn = rotation(self._frequencies, positions, self.dtype)
        for layer in range(self.geometry.layers):
            x = self._layer(layer, x, turn, attend)
        x = self._norm(x[-1:] if last_only else x, LAST_NORM)
        return F.linear(x, self.weights[EMBEDDING if self.geometry.tied else HEAD])

    def _layer(self, layer: int, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        at = f"model.layers.{layer}."
        h = self._norm(x, at + "input_layernorm.weight")
        q, k, v = (self._heads(at, name, h) for name in "qkv")
        out = attend(layer, rotate(q, *turn), rotate(k, *turn), v)
        x = x + self._project(at + "self_attn.o_proj", out.flatten(-2))
        h = self._norm(x, at + "post_attention_layernorm.weight")
        gated = F.silu(self._project(at + "mlp.gate_proj", h)) * self._project(at + "mlp.up_proj", h)
        return x + self._project(at + "mlp.down_proj", gated)

    def _heads(self, at: str, name: str, h: Tensor) -> Tensor:
        heads = self._project(f"{at}self_attn.{name}_proj", h).unflatten(-1, (-1, self.geometry.head_dim))
        norm = f"{at}self_attn.{name}_norm.weight"
        return self._norm(heads, norm) if norm in self.weights else heads

    def _project(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[name]
        return F.rms_norm(x, weight.shape, weight, self.geometry.norm_eps)


@contextmanager
def _undone_on_error(sequences: Many[Sequence], count: int) -> Iterator[None]:
    """If computing fails (K/V that are not finite), takes `count` tokens off each length.

    The blocks taken for them stay with the sequences.
    """
    try:
        yield
    except ValueError:
        for sequence in sequences:
            sequence.length -= count
        raise


def _check_continues(sequence: Sequence, tokens: list[int]) -> None:
    """Raises unless the sequence has its blocks, and `tokens` are those it lists without K/V."""
    if sequence.released:
        raise CacheError(
            f"sequence {sequence.id} was released: it has no keys and values any more; "
            "swap it in, or recompute it"
        )
    named = sequence.tokens[sequence.length :]
    if named[: len(tokens)] != tokens[: len(named)]:
        raise RequestError(
            f"sequence {sequence.id} goes on with tokens {named[:4]}... after {sequence.length}, "
            f"got {tokens[:4]}...; feed its own tokens, or clear `tokens` behind `length`"
        )


def dense(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention [..., t, heads, head_dim] over the given tokens alone, without a cache."""
    q, k, v = (x.transpose(-3, -2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(-3, -2)
