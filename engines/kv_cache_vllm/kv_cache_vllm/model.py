"""A model for an engine that only has to keep books: a tiny Llama, made of its config.json and no weights."""

import json
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.files import NotJson, read_json

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the least that the attention for CPUs takes
    "vocab_size": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_tiny(folder: Path, length: int, **shape: Any) -> Path:
    """The folder, with a model in it that reads prompts and answers of `length` tokens together.

    Args:
        shape: what its config.json says otherwise, for one that is not tiny.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY | shape | {"max_position_embeddings": length}))
    return folder


def vocabulary_of(folder: Path) -> int:
    """How many token ids the model in a folder has."""
    found = _config_of(folder).get("vocab_size")
    if not isinstance(found, int):
        raise EngineError(f"{folder / 'config.json'} has no vocab_size; give the folder of a language model")
    return found


def length_of(folder: Path) -> int | None:
    """Tokens that the model in a folder reads at most; None where it does not say."""
    found = _config_of(folder).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _config_of(folder: Path) -> dict[str, Any]:
    """What a model says of itself. Raises EngineError where that cannot be read."""
    try:
        found = read_json(folder / "config.json")
    except NotJson as damaged:
        raise EngineError(f"{damaged}; give the folder of a language model") from None
    return found if isinstance(found, dict) else {}
