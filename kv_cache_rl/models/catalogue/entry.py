"""A model of the catalogue: what its config.json says of the cache, its source, and published figures."""

from dataclasses import dataclass
from typing import Any

from kv_cache_rl.core.geometry import MODELS, ModelGeometry
from kv_cache_rl.models.configs import geometry_of

KVCACHE, GALLERY, TRANSFORMERS, VLLM, PAPER = "KVCache.AI", "Gallery", "transformers", "vLLM", "paper"
SOURCES = {
    KVCACHE: "KV cache calculator of KVCache.AI, `models.yaml` of 2026-09-14 with the fields of each "
    "config.json, <https://github.com/kvcache-ai/kvcache-blog>",
    GALLERY: "S. Raschka, LLM Architecture Gallery of 2026-03-27, "
    "<https://sebastianraschka.com/llm-architecture-gallery/>",
    TRANSFORMERS: "the model's configuration class in transformers, "
    "<https://github.com/huggingface/transformers>",
    VLLM: "the model's code and tests in vLLM, <https://github.com/vllm-project/vllm>",
    PAPER: "the model's paper or card",
}
"""Where fields and published figures were read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A model with its sources."""

    geometry: ModelGeometry
    repo: str
    """On Hugging Face."""
    source: str
    """Of the fields: a key of `SOURCES`."""
    kib_per_token: float | None = None
    """As the Gallery has it, to a tenth: of one token in all layers, windows included, without index keys and
    states.
    """
    gib_at_128k: float | None = None
    """As KVCache.AI's tests have it: of 128,000 tokens at 16 bits, index keys included; without states."""

    @property
    def name(self) -> str:
        """What the model is called here."""
        return self.geometry.name


def made(
    name: str,
    repo: str,
    source: str,
    fields: dict[str, Any],
    billions: float = 0.0,
    kib: float | None = None,
    gib: float | None = None,
) -> Entry:
    """The entry of a model with these fields in its config.json; `billions` of parameters, 0: not known."""
    return Entry(geometry_of(fields, name, repo, 2 * billions), repo, source, kib, gib)


def known(name: str, repo: str, source: str, kib: float | None = None, gib: float | None = None) -> Entry:
    """The entry of a model that `core.geometry` has already."""
    return Entry(MODELS[name], repo, source, kib, gib)


def gqa(layers: int, kv_heads: int, head_dim: int = 128) -> dict[str, Any]:
    """Fields of grouped queries."""
    return {"num_hidden_layers": layers, "num_key_value_heads": kv_heads, "head_dim": head_dim}


def mla(layers: int, rank: int = 512, turned: int = 64) -> dict[str, Any]:
    """Fields of multi-head latent attention."""
    return {"num_hidden_layers": layers, "kv_lora_rank": rank, "qk_rope_head_dim": turned}
