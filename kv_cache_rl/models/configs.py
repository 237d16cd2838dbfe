"""The geometry of a model from its Hugging Face configuration.

fields of the text model → kind of each layer → groups of layers that keep the same → ModelGeometry

A field that may say something of the cache and that no rule has read is refused: a wrong number would look
like a right one.
"""

import re
from collections.abc import Mapping
from typing import Any

from kv_cache_rl.core.geometry import LayerGroup, ModelGeometry
from kv_cache_rl.models import layers as kinds_of
from kv_cache_rl.models import states
from kv_cache_rl.models.fields import LARGEST, Config, ModelError
from kv_cache_rl.models.layers import BOTH, CHUNK, CONV, FULL, LINEAR, MAMBA, RECURRENT, WINDOW, count

MOST_LAYERS, MOST_BYTES = 10_000, 2**40
"""Of a model; and of a token or a state in one group of layers."""
TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a model of several senses keeps the part that reads and writes text."""
GEMMA3 = {"num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": GEMMA3 | {"sliding_window": 4096},
    "gemma3n_text": GEMMA3 | {"num_hidden_layers": 35, "num_key_value_heads": 2, "sliding_window": 512},
    "gemma4_text": GEMMA3 | {"num_hidden_layers": 30, "sliding_window": 512, "global_head_dim": 512},
    "llama4_text": {
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attention_chunk_size": 8192,
    },
    "mistral": {"num_key_value_heads": 8},
    "mixtral": {"num_key_value_heads": 8},
    "recurrent_gemma": {"conv1d_width": 4, "attention_window_size": 2048},
}
"""Model type → what a file may leave out. Source: the configuration classes of transformers 5."""
NONE = re.compile("window|chunk")
"""Names of fields where null is a value."""
SUSPECT = re.compile(
    r"window|sliding|swa_|chunk_size|mamba|ssm_|^conv|_conv|^linear_|kv_lora|compress|^index|kpool|shared_layers"
    r"|recurrent|lru_|^state_|kda|lightning|lightnet|_cla|cla_|kv_source|kv_shar|layer_types|layer_pattern"
    r"|block_type|attn_type|hybrid|block_configs|layer_group|attn_config|cross_layer|sparse_att"
)
"""Names of fields that may say what a cache holds."""
HARMLESS = re.compile(
    r"_bias$|_theta$|_norm$|_act$|attention_heads$|^mlp_|^hybrid_block_size$|^compression_config$|_dtype$"
)
"""Of them, those that say nothing of its size."""
ENCODERS = re.compile(r"For(MaskedLM|QuestionAnswering|TokenClassification|ImageClassification|CTC)$")
BERTS = re.compile(r"bert(?!.*(decoder|generation))|^(electra|esm|mpnet|clip_text_model)$")
"""Model types that read a text whole, unless `is_decoder` says otherwise."""
RATES = {"compressed_sparse_attention": 4, "heavily_compressed_attention": 128, "sliding_attention": 0}
"""DeepSeek V4: entry of `layer_types` → tokens of an entry. Source: transformers, `DeepseekV4Config`."""


def geometry_of(values: Mapping[str, Any], name: str, where: str, weight_gb: float = 0.0) -> ModelGeometry:
    """The geometry that a configuration describes.

    Args:
        values: the fields of config.json.
        name: what the model is called.
        where: the file, for errors.
        weight_gb: weights at 16 bits, in 10^9 bytes; 0: not known.

    Raises:
        ModelError: a field is missing or wrong, or says something of the cache that is not known here.
    """
    config = _text_part(values, where)
    layers = config.whole("num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if layers > MOST_LAYERS:
        raise ModelError(f"{where}: it has {layers:,} layers, and no model has that many; correct it")
    if config.text("model_type") == "longcat_flash":
        layers *= 2  # a layer has two attentions
    if config.text("model_type").startswith("deepseek_v4"):
        groups = _compressed(config, layers)
    else:
        groups = _groups(config, kinds_of.layer_kinds(config, layers))
    _refuse_unread(config)
    for group in groups:
        if not 0 < group.layers * (group.elements + group.state_bytes) < MOST_BYTES:
            raise ModelError(
                f"{where}: its {group.keeps} would take {group.because}, as no model does; correct the file"
            )
    if [group.keeps for group in groups] == ["full attention"]:
        only = groups[0]
        heads, dim = _heads(config, FULL), _dims(config, FULL)
        if dim[0] == dim[1] and only.layers == layers:
            return ModelGeometry(name, layers, heads, dim[0], weight_gb)
    return ModelGeometry(name, layers, 0, 0, weight_gb, tuple(groups))


def _text_part(values: Mapping[str, Any], where: str) -> Config:
    """The part that describes the text model, with what its type has by default."""
    while part := next((name for name in TEXT_PARTS if isinstance(values.get(name), dict)), ""):
        values, where = values[part], f"{where}: {part}" if len(where) < 200 else where
    named = Config(values, where)
    architectures = values.get("architectures")
    last = architectures[0] if isinstance(architectures, list) and architectures else ""
    reads = BERTS.search(named.text("model_type")) and not named.flag("is_decoder")
    if reads or named.flag("is_encoder_decoder") or (isinstance(last, str) and ENCODERS.search(last)):
        raise ModelError(f"{where} is of no decoder, and keeps no cache of what it read; give another model")
    defaults = DEFAULTS.get(named.text("model_type"), {})
    present = {name: value for name, value in values.items() if value is not None or name not in defaults}
    # A null window or chunk says that there is none; a null number of heads says nothing.
    absent = {name: value for name, value in defaults.items() if not (name in values and NONE.search(name))}
    return Config({**absent, **present}, where)


def _groups(config: Config, kinds: list[str]) -> list[LayerGroup]:
    groups = list[LayerGroup]()
    if full := count(kinds, FULL, BOTH):
        groups += _latent(config, full) if config.has("kv_lora_rank") else [_attention(config, full, FULL)]
        groups += _indexer(config, kinds)
    if windows := count(kinds, WINDOW):
        groups.append(_attention(config, windows, WINDOW, kinds_of.window_of(config)))
    if chunks := count(kinds, CHUNK):
        groups.append(_attention(config, chunks, CHUNK, config.whole("attention_chunk_size")))
    for kind, of in STATES.items():
        if layers := count(kinds, *kind):
            groups.append(of(config, layers))
    return groups


STATES = {
    (LINEAR,): states.linear,
    (MAMBA, BOTH): states.mamba,
    (CONV,): states.convolution,
    (RECURRENT,): states.recurrent,
}
"""Kinds of layers → their constant state."""
QUERY_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
"""Spellings; a model without KV heads of their own has one for each of these."""
KEEPS = {FULL: "full attention", WINDOW: "sliding window", CHUNK: "chunk"}


def _attention(config: Config, layers: int, kind: str, window: int | None = None) -> LayerGroup:
    """Keys and values of grouped heads."""
    heads, (key, value) = _heads(config, kind), _dims(config, kind)
    because = f"2 (K and V) x {heads} KV heads x {key}"
    if key != value:
        because = f"{heads} KV heads x ({key} of K + {value} of V)"
    return LayerGroup(KEEPS[kind], layers, heads * (key + value), window, because=because)


def _heads(config: Config, kind: str) -> int:
    """KV heads of a kind of layer."""
    if kind == WINDOW and config.has("swa_num_key_value_heads"):
        return config.whole("swa_num_key_value_heads")
    # Gemma 4 has other KV heads in layers that see everything where it takes values from the keys.
    if config.has("num_global_key_value_heads") and config.flag("attention_k_eq_v", True) and kind == FULL:
        return config.whole("num_global_key_value_heads")
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        return config.whole("multi_query_group_num", default=1)
    if config.flag("multi_query_attention"):
        return config.whole("multi_query_group_num")
    found = config.whole(
        "num_key_value_heads", "num_kv_heads", "n_head_kv", "num_attention_groups", default=-1
    )
    return config.whole(*QUERY_HEADS) if found < 0 else found


def _dims(config: Config, kind: str) -> tuple[int, int]:
    """Numbers of a key and of a value of one head."""
    if kind == FULL and config.has("global_head_dim"):
        return (config.whole("global_head_dim"),) * 2
    if kind == WINDOW and config.has("swa_head_dim"):
        dim = config.whole("swa_head_dim")
        return dim, config.whole("swa_v_head_dim", "v_head_dim", default=dim)
    dim = config.whole("head_dim", "attention_head_dim", "kv_channels", default=-1)
    if dim < 0:
        heads, width = config.whole(*QUERY_HEADS), config.whole("hidden_size", "n_embd", "d_model")
        if width % heads:
            raise ModelError(
                f"{config.where}: a width of {width:,} is no multiple of its {heads:,} heads; correct it, or "
                "add 'head_dim' as the model's maker publishes it"
            )
        dim = width // heads
    return dim, config.whole("v_head_dim", default=dim)


def _latent(config: Config, layers: int) -> list[LayerGroup]:
    """Multi-head latent attention: one latent and one rotated key for all heads."""
    rank, turned = config.whole("kv_lora_rank"), config.whole("qk_rope_head_dim", default=0, low=0)
    because = f"a latent of {rank} + {turned} of a rotated key"
    return [LayerGroup("latent", layers, rank + turned, because=because)]


def _indexer(config: Config, kinds: list[str]) -> list[LayerGroup]:
    """Sparse attention: the keys that say which tokens are attended to."""
    config.settle("index")
    part = config.part("sparse_attention_config")
    if part.has("sparse_index_dim"):
        used = part.per_layer("sparse_attention_freq", int, "0 and 1", len(kinds))
        layers, dim = sum(map(bool, used)), part.whole("sparse_index_dim")
    elif config.has("index_head_dim"):
        attending = [k for k, kind in enumerate(kinds) if kind == FULL]
        layers, dim = len(_with_indexer(config, attending, len(kinds))), config.whole("index_head_dim")
    else:
        return []
    if not layers:
        return []
    pool = config.whole("index_kpool", default=1)
    return [LayerGroup("index keys", layers, dim, stride=pool, because=f"{dim} of a key of the indexer")]


def _with_indexer(config: Config, attending: list[int], layers: int) -> list[int]:
    """Of the attending layers, those with an indexer of their own (GLM-5.2 shares them).

    Source: transformers, `GlmMoeDsaConfig`.
    """
    if config.has("indexer_types"):
        types = config.per_layer("indexer_types", str, "texts", layers)
        return [k for k in attending if types[k] == "full"]
    period = config.whole("index_topk_freq", default=1)
    offset = config.whole("index_skip_topk_offset", default=2, low=0)
    return [k for k in attending if max(k - offset + 1, 0) % period == 0]


def _compressed(config: Config, layers: int) -> list[LayerGroup]:
    """DeepSeek V4: a window in every layer, and an entry for every few tokens in most.

    Source: transformers, `DeepseekV4Config`; KVCache.AI's calculator counts alike.
    """
    dim, window = config.whole("head_dim"), config.whole("sliding_window")
    if config.has("kv_source_layer_ids"):
        raise config.wrong("kv_source_layer_ids", "none: how layers share their keys is not known here")
    if config.has("layer_types"):
        names = config.per_layer("layer_types", str, "texts", layers)
        if set(names) - set(RATES):
            raise config.wrong("layer_types", f"only {', '.join(RATES)}")
        given = config.part("compress_rates")
        rates = {name: given.whole(name, default=rate, low=0) for name, rate in RATES.items()}
        ratios, sparse = [rates[name] for name in names], rates["compressed_sparse_attention"]
    else:
        sparse = RATES["compressed_sparse_attention"]
        ratios = config.per_layer("compress_ratios", int, "numbers of tokens", layers)
        if not all(0 <= ratio <= LARGEST for ratio in ratios):
            raise config.wrong("compress_ratios", "numbers of tokens of 0 or more")
    one = f"{dim}, K and V in one"
    groups = [LayerGroup("sliding window", layers, dim, window, because=one)]
    for rate in sorted(set(ratios) - {0}):
        groups.append(LayerGroup("compressed", ratios.count(rate), dim, stride=rate, because=one))
    config.settle("index", "compress", "kv_source")
    if sparse in ratios:
        keys = config.whole("index_head_dim")
        because = f"{keys} of a key of the indexer"
        groups.append(LayerGroup("index keys", ratios.count(sparse), keys, stride=sparse, because=because))
    return groups


def _refuse_unread(config: Config) -> None:
    left = [name for name in config.unread(SUSPECT) if not HARMLESS.search(name)]
    if left:
        raise ModelError(
            f"{config.where}: {', '.join(sorted(left)[:3])} may say what the cache holds, in a way that is "
            "not known here; take it out of a copy of the file if the cache does not depend on it"
        )
