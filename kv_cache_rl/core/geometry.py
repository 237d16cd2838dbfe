"""Model geometry: how many bytes of KV cache one token takes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelGeometry:
    """The shape of a model's KV cache.

    Source: the models' published configurations (``num_hidden_layers``, ``num_key_value_heads``,
    ``head_dim``).
    """

    name: str
    layers: int
    kv_heads: int
    head_dim: int
    weight_gb: float
    """Weights at 16 bits, in 10^9 bytes. They share the GPU's memory with the cache."""


def bytes_per_token(model: ModelGeometry, bytes_per_element: float = 2.0) -> float:
    """Bytes of K and V that one cached token takes over all layers.

    >>> bytes_per_token(MODELS["llama-3.1-8b"])
    131072.0
    """
    return 2 * model.layers * model.kv_heads * model.head_dim * bytes_per_element


def block_bytes(model: ModelGeometry, block_tokens: int) -> int:
    """Bytes of one block of a model's cache at fp16, whose two bytes per element leave nothing to round.

    >>> block_bytes(MODELS["llama-3.1-8b"], 64)
    8388608
    """
    return round(bytes_per_token(model) * block_tokens)


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
