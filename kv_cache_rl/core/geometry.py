"""Model geometry: how many bytes of KV cache the tokens of a sequence take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kv_cache_rl.core.errors import Refused

if TYPE_CHECKING:
    import numpy as np


class NotLinear(Refused):
    """A model whose cache does not grow by the same bytes with each token, where nothing says how long the
    sequences are.
    """


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that keep the same of a sequence."""

    keeps: str
    """In words: `full attention`, `sliding window`, `latent`, `Mamba-2 state`, ..."""
    layers: int
    elements: int = 0
    """Numbers per entry and layer, in the precision of the cache: K and V of all KV heads, or one latent."""
    window: int | None = None
    """So many tokens at most have entries, the last ones. None: all."""
    stride: int = 1
    """Tokens that share an entry."""
    state_bytes: int = 0
    """Bytes per layer of a sequence of any length, in a precision of their own."""
    because: str = ""
    """How the elements, or the bytes of the state, were found."""

    def held(self, tokens: Any, bytes_per_element: float) -> Any:
        """Bytes of all layers for a sequence of so many tokens; an array of lengths gives an array."""
        kept = tokens
        if self.window is not None:  # the smaller of the two, of numbers and of arrays alike
            kept = tokens - (tokens - self.window) * (tokens > self.window)
        entries = kept // self.stride * float(self.elements * bytes_per_element)
        return self.layers * (entries + float(self.state_bytes) * (tokens > 0))


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """The shape of a model's KV cache.

    Source: the models' published configurations (``num_hidden_layers``, ``num_key_value_heads``,
    ``head_dim``); `models.configs` reads one.
    """

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    weight_gb: float
    """Weights at 16 bits, or as a checkpoint stores them, in 10^9 bytes. They share the GPU's memory with the
    cache. 0: not known.
    """
    groups: tuple[LayerGroup, ...] = ()
    """What the layers keep where not all of them keep K and V of every token; then `kv_heads` and `head_dim`
    are 0.
    """

    @property
    def layer_groups(self) -> tuple[LayerGroup, ...]:
        """What the layers keep, whatever the model."""
        if self.groups:
            return self.groups
        because = f"2 (K and V) x {self.kv_heads} KV heads x {self.head_dim}"
        return (
            LayerGroup("full attention", self.layers, 2 * self.kv_heads * self.head_dim, because=because),
        )


def is_linear(model: ModelGeometry) -> bool:
    """Whether each token of a sequence adds the same bytes to the cache."""
    return all(
        group.window is None and group.stride == 1 and not group.state_bytes for group in model.layer_groups
    )


def bytes_per_token(model: ModelGeometry, bytes_per_element: float = 2.0) -> float:
    """Bytes that each further token adds over all layers, once every window is full.

    Of a linear model that is each token's share; of any other `bytes_held` says how long sequences count.

    >>> bytes_per_token(MODELS["llama-3.1-8b"])
    131072.0
    """
    growing = (group for group in model.layer_groups if group.window is None)
    return float(sum(group.layers * group.elements * bytes_per_element / group.stride for group in growing))


def bytes_held(model: ModelGeometry, tokens: Any, bytes_per_element: float = 2.0) -> Any:
    """Bytes of the cache of one sequence of so many tokens; an array of lengths gives an array.

    Windows hold their last tokens only. Constant states count once, in a precision of their own.

    >>> bytes_held(MODELS["llama-3.1-8b"], 1000)
    131072000.0
    """
    return sum(group.held(tokens, bytes_per_element) for group in model.layer_groups)


def mean_bytes_per_token(model: ModelGeometry, lengths: np.ndarray | None = None) -> float:
    """Bytes that a token takes at fp16 on average in sequences of these lengths (int64 [R], in tokens); in
    any, if the model is linear.

    Raises:
        NotLinear: the model is not, and there are no lengths.
    """
    if is_linear(model):
        return bytes_per_token(model)
    if lengths is None or not lengths.sum():
        raise NotLinear(
            f"the cache of {model.name} is not linear in tokens ({not_linear(model)}), and nothing says how "
            "long the sequences are; name a model of which every layer keeps every token"
        )
    return float(bytes_held(model, lengths).sum() / lengths.sum())


def not_linear(model: ModelGeometry) -> str:
    """Why a model's cache is not linear, in words; "" where it is."""
    parts = dict[str, None]()
    for group in model.layer_groups:
        these = f"{group.layers} of {model.layers} layers keep{'s' if group.layers == 1 else ''}"
        if group.window is not None:
            parts[f"{these} the last {group.window:,} tokens"] = None
        elif group.stride > 1:
            parts[f"{these} an entry for {group.stride} tokens"] = None
        if group.state_bytes:
            parts[f"{these} a constant state"] = None
    return ", ".join(parts)


def block_bytes(model: ModelGeometry, block_tokens: int, lengths: np.ndarray | None = None) -> int:
    """Bytes that a block of a model's cache is charged at fp16.

    Where the cache is not linear all blocks are charged alike: with the mean over sequences of these
    `lengths` (int64 [R], in tokens), so that together they take what the sequences hold.

    Raises:
        NotLinear: the model is not linear, and there are no lengths.

    >>> block_bytes(MODELS["llama-3.1-8b"], 64)
    8388608
    """
    size = round(mean_bytes_per_token(model, lengths) * block_tokens)
    return size if is_linear(model) else max(size, 1)


MODELS: dict[str, ModelGeometry] = {
    model.name: model
    for model in (
        ModelGeometry("llama-3.1-8b", 32, 8, 128, 16.1),
        ModelGeometry("mistral-7b", 32, 8, 128, 14.5),
        ModelGeometry("qwen2.5-7b", 28, 4, 128, 15.2),
        ModelGeometry("llama-3.1-70b", 80, 8, 128, 141.1),
        ModelGeometry("qwen3-8b", 36, 8, 128, 16.4),
        ModelGeometry("qwen3-14b", 40, 8, 128, 29.5),
        ModelGeometry("qwen3-32b", 64, 8, 128, 65.5),
        ModelGeometry("qwen3-coder-30b-a3b", 48, 4, 128, 61.1),
        ModelGeometry("llama-2-7b", 32, 32, 128, 13.5),
    )
}
