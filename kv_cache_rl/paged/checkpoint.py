"""A Llama-family checkpoint in a folder: its geometry (config.json) and weights (safetensors)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kv_cache_rl.files import regular
from kv_cache_rl.paged.config_files import CheckpointError, field, read_object
from kv_cache_rl.paged.errors import whole

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""The values of `model_type` that this decoder runs.

Qwen2 adds biases to q, k and v. Qwen3 adds norms of q and k.
"""
SHIPPED = Path(__file__).parent / "weights"
EMBEDDING, HEAD, LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True, slots=True)
class DecoderGeometry:
    """The shape of a decoder, named as `core.geometry` names it."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    """Channels of the residual stream."""
    hidden: int
    """Channels of the gated feed-forward."""
    vocab: int
    family: str = "llama"
    tied: bool = True
    """Whether the output layer is the embedding."""
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_llama3: tuple[float, float, float, float] | None = None
    """Llama 3's rotary scaling: factor, low and high frequency factors, original context."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "kv_heads", "head_dim", "width", "hidden", "vocab"):
            size = getattr(self, name)
            if whole(size, f"{self.name}: {name} is {size!r}", CheckpointError) < 1:
                raise CheckpointError(f"{self.name}: {name} is {getattr(self, name)}; give at least 1")
        for name in ("norm_eps", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise CheckpointError(
                    f"{self.name}: {name} is {getattr(self, name)}; give a finite number above 0"
                )
        if self.heads % self.kv_heads:
            raise CheckpointError(
                f"{self.name}: {self.heads} query heads cannot share {self.kv_heads} KV heads evenly; "
                "give a divisor of it"
            )
        if self.head_dim % 2:
            raise CheckpointError(
                f"{self.name}: rotary embedding turns pairs, head_dim {self.head_dim} is odd; "
                "give an even one"
            )


def tensor_shapes(geometry: DecoderGeometry) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor that the decoder needs, with the Hugging Face names."""
    g = geometry
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (g.vocab, g.width), LAST_NORM: (g.width,)}
    if not g.tied:
        shapes[HEAD] = (g.vocab, g.width)
    queries, keys = g.heads * g.head_dim, g.kv_heads * g.head_dim
    for layer in range(g.layers):
        at = f"model.layers.{layer}."
        shapes |= {
            at + "input_layernorm.weight": (g.width,),
            at + "post_attention_layernorm.weight": (g.width,),
        }
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            shapes[f"{at}self_attn.{name}_proj.weight"] = (rows, g.width)
            if g.family == "qwen2":
                shapes[f"{at}self_attn.{name}_proj.bias"] = (rows,)
        if g.family == "qwen3":
            shapes |= {f"{at}self_attn.{name}_norm.weight": (g.head_dim,) for name in ("q", "k")}
        shapes[at + "self_attn.o_proj.weight"] = (g.width, queries)
        shapes |= {f"{at}mlp.{name}_proj.weight": (g.hidden, g.width) for name in ("gate", "up")}
        shapes[at + "mlp.down_proj.weight"] = (g.width, g.hidden)
    return shapes


def read_geometry(folder: str | Path) -> DecoderGeometry:
    """The geometry in a folder's config.json.

    Raises:
        CheckpointError: the file is missing or bad, or says what this decoder does not compute.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json; give a folder with a Llama-family checkpoint")
    config, rope = read_object(path), {}
    family = config.get("model_type")
    if family not in FAMILIES:
        raise CheckpointError(f"{path}: model_type {family!r}; this decoder runs {', '.join(FAMILIES)}")
    for name in ("rope_scaling", "rope_parameters"):  # the latter since transformers 5
        rope = field(path, config, name, dict, None) or rope
    _refuse_other_arithmetic(path, config, rope)
    heads = field(path, config, "num_attention_heads", int)
    width = field(path, config, "hidden_size", int)
    theta = field(path, config, "rope_theta", float, 10_000.0)
    return DecoderGeometry(
        name=field(path, config, "name", str, None) or Path(folder).name,
        layers=field(path, config, "num_hidden_layers", int),
        heads=heads,
        kv_heads=field(path, config, "num_key_value_heads", int, heads),
        head_dim=field(path, config, "head_dim", int, width // max(heads, 1)),
        width=width,
        hidden=field(path, config, "intermediate_size", int),
        vocab=field(path, config, "vocab_size", int),
        family=family,
        tied=field(path, config, "tie_word_embeddings", bool, False),
        norm_eps=field(path, config, "rms_norm_eps", float, 1e-6),
        rope_theta=field(path, rope, "rope_theta", float, theta),
        rope_llama3=_llama3(path, rope),
    )


def read_eos(folder: str | Path, vocab: int) -> frozenset[int]:
    """The ids that end a text: those of generation_config.json, else those of config.json.

    Either file names one, several or none. Ids outside the vocabulary are never generated, and -1
    stands for none: they are left out. Source: transformers, `GenerationConfig`.

    Raises:
        CheckpointError: a file is bad, or its `eos_token_id` is neither an id nor a list of them.
    """
    for name in ("generation_config.json", "config.json"):
        path = Path(folder) / name
        found = read_object(path).get("eos_token_id") if path.is_file() else None
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            raise CheckpointError(
                f"{path}: eos_token_id is {found!r:.80}, not an id or a list of ids; correct it"
            )
        return frozenset(token for token in ids if 0 <= token < vocab)
    return frozenset()


def _llama3(path: Path, rope: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"{path}: rotary scaling {kind!r}; this decoder computes default and llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, context = (field(path, rope, name, float) for name in names)
    if factor <= 0 or context <= 0 or not 0 <= low < high:
        raise CheckpointError(
            f"{path}: llama3 scaling by {factor:g} between {low:g} and {high:g} turns of {context:g} tokens; "
            "factor and tokens are above 0, and the first bound below the second"
        )
    return factor, low, high, context


def _refuse_other_arithmetic(path: Path, config: dict[str, Any], rope: dict[str, Any]) -> None:
    window = (
        config.get("sliding_window")
        if config.get("use_sliding_window", config["model_type"] == "mistral")
        else None
    )
    attention_bias = config.get("attention_bias", False) and config["model_type"] != "qwen2"
    for name, wrong in (
        ("sliding_window", window is not None),
        ("attention_bias", attention_bias),
        ("mlp_bias", config.get("mlp_bias", False)),
        ("hidden_act", config.get("hidden_act", "silu") != "silu"),
        ("quantization_config", "quantization_config" in config),
        ("partial_rotary_factor", (config | rope).get("partial_rotary_factor") not in (None, 1)),
    ):
        if wrong:
            raise CheckpointError(
                f"{path}: {name} is {(config | rope).get(name)!r}, which this decoder does not compute; "
                "use another checkpoint"
            )


def read_weights(
    folder: str | Path, geometry: DecoderGeometry, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Every tensor that the geometry needs, by name, from the folder's *.safetensors, as `dtype`.

    Raises:
        CheckpointError: a tensor is missing, has a wrong shape, another dtype than the rest, or
            values that are not finite.
    """
    found: dict[str, Tensor] = {}
    for path in _shards(Path(folder)):
        try:
            with safe_open(regular(path), "pt") as shard:
                found |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as wrong:
            raise CheckpointError(f"{path}: {wrong}; download the shard again") from wrong
    needed = tensor_shapes(geometry)
    missing = sorted(needed.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{folder}: {', '.join(missing[:3])}{more} missing of {len(needed)} tensors; download every shard"
        )
    kinds = {str(found[name].dtype) for name in needed}
    if len(kinds) > 1:
        raise CheckpointError(
            f"{folder}: tensors are of {', '.join(sorted(kinds))}; convert them to one dtype"
        )
    for name, shape in needed.items():
        if tuple(found[name].shape) != shape:
            raise CheckpointError(
                f"{folder}: {name} is {list(found[name].shape)}, config.json says {list(shape)}; "
                "they are not of one model"
            )
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(
                f"{folder}: {name} holds values that are not finite; download the shard again"
            )
    return {name: found[name].to(device, dtype) for name in needed}


def _shards(folder: Path) -> list[Path]:
    """The files that the folder's index names; without an index all *.safetensors in it."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        shards = sorted(folder.glob("*.safetensors"))
        if not shards:
            raise CheckpointError(f"{folder}: no *.safetensors; download the weights beside config.json")
        return shards
    shard_of = field(index, read_object(index), "weight_map", dict)
    named = sorted({field(index, shard_of, tensor, str) for tensor in shard_of})
    for name in named:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: {name} is named in {index.name} and absent; download every shard"
            )
    return [folder / name for name in named]


def write_checkpoint(
    folder: str | Path, geometry: DecoderGeometry, weights: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Writes config.json and model.safetensors, readable by this module and by transformers."""
    g, folder = geometry, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": g.rope_theta}
    if g.rope_llama3:
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        rope |= {"rope_type": "llama3"} | dict(zip(names, g.rope_llama3, strict=True))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": g.family,
        "name": g.name,
        "num_hidden_layers": g.layers,
        "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads,
        "head_dim": g.head_dim,
        "hidden_size": g.width,
        "intermediate_size": g.hidden,
        "vocab_size": g.vocab,
        "hidden_act": "silu",
        "rms_norm_eps": g.norm_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": g.tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    kept = {name: weights[name].detach().to("cpu", dtype).contiguous() for name in tensor_shapes(g)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
