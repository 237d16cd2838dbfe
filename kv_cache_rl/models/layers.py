"""Which layers of a model keep what: every layer's kind, from the patterns that configurations use.

Source: the configuration classes of transformers 5 (`layer_types` and what stood for it before), and of the
models that bring their own.
"""

from collections.abc import Callable, Sequence

from kv_cache_rl.models.fields import Config, ModelError

FULL, WINDOW, CHUNK, LINEAR, MAMBA, CONV, RECURRENT, BOTH, NOTHING = (
    *("full", "window", "chunk", "linear", "mamba", "conv", "recurrent"),
    *("full and mamba", "nothing"),
)
"""What a layer keeps: K and V of all tokens, of the last ones, or of a chunk; a state of linear attention, of
a Mamba, of a short convolution or of a recurrent unit; attention beside a Mamba; nothing.
"""
NAMES = {
    **dict.fromkeys(("full_attention", "attention", "global_attention"), FULL),
    **dict.fromkeys(("deepseek_sparse_attention", "minimax_m3_sparse"), FULL),
    **dict.fromkeys(("sliding_attention", "local_attention"), WINDOW),
    **dict.fromkeys(("mamba", "mamba2"), MAMBA),
    **dict.fromkeys(("moe", "mlp"), NOTHING),
    "chunked_attention": CHUNK,
    "linear_attention": LINEAR,
    "conv": CONV,
    "recurrent": RECURRENT,
    "hybrid": BOTH,
}
"""Entry of `layer_types`, `layers_block_type` or `block_types` → kind."""
LETTERS = {"M": MAMBA, "*": FULL, "-": NOTHING, "E": NOTHING}
"""Letter of Nemotron-H's `hybrid_override_pattern` → kind."""
PERIODS = {
    "gemma2": 2,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "gemma4_text": 6,
    "cohere2": 4,
    "gpt_oss": 2,
    "olmo3": 4,
}
"""Model type → of so many layers the last one sees everything, where the file does not say it."""
ALL_WINDOWS = ("mistral", "mixtral", "ministral", "phi3", "phimoe", "starcoder2")
"""Model types whose `sliding_window` is that of every layer."""
ABOUT_WINDOWS = (
    *("sliding_window", "sliding_window_size", "sliding_window_pattern", "_sliding_window_pattern"),
    *("use_sliding_window", "max_window_layers", "attention_chunk_size", "no_rope_layers"),
    *("no_rope_layer_interval", "global_attn_every_n_layers", "attention_window_size"),
)
"""Fields that say nothing more where a list names the kind of each layer, but how long a window is."""


def layer_kinds(config: Config, layers: int) -> list[str]:
    """The kind of every layer that keeps a cache of its own; those that only draft are left out.

    Raises:
        ModelError: the configuration does not say it, or in words that are not known here.
    """
    config.note(*ABOUT_WINDOWS, *RULES)
    rule = next((rule for field, rule in RULES.items() if config.has(field)), _by_windows)
    kinds = rule(config, layers)
    shared = config.whole("num_kv_shared_layers", default=0, low=0)
    if shared >= layers:
        raise ModelError(
            f"{config.where}: num_kv_shared_layers is {shared} of {layers} layers, and one of them must keep "
            "what the others share; correct it"
        )
    kinds = kinds[: layers - shared]
    if config.flag("use_cla"):
        kinds = kinds[:: config.whole("cla_share_factor")]
    return kinds


def window_of(config: Config) -> int:
    """Tokens that a layer with a window keeps."""
    return config.whole("sliding_window", "sliding_window_size", "attention_window_size")


def _named(field: str) -> Callable[[Config, int], list[str]]:
    return lambda config, layers: _known(config, field, config.per_layer(field, str, "texts", layers))


def _repeated(config: Config, layers: int) -> list[str]:
    """RecurrentGemma: a few entries that repeat."""
    found = _known(config, "block_types", config.sequence("block_types", str, "texts"))
    return [found[k % len(found)] for k in range(layers)]


def _known(config: Config, field: str, names: list[str]) -> list[str]:
    """The kinds that a list names. Raises ModelError for a name that is not known."""
    known = NAMES | ({"attention": WINDOW} if config.has("attention_window_size") else {})
    for name in names:
        if name not in known:
            raise ModelError(
                f"{config.where}: {field} has {name!r}, and what such a layer keeps is not known here; known "
                f"are {', '.join(NAMES)}"
            )
    return [known[name] for name in names]


def _letters(config: Config, layers: int) -> list[str]:
    """Nemotron-H: a letter for every layer."""
    pattern = config.text("hybrid_override_pattern")
    strange = sorted(set(pattern) - set(LETTERS))
    if strange or len(pattern) < layers:
        raise config.wrong("hybrid_override_pattern", f"{layers} letters of {' '.join(LETTERS)}")
    return [LETTERS[letter] for letter in pattern[:layers]]


def _types(config: Config, layers: int) -> list[str]:
    """MiniMax: 1 for full attention, 0 for lightning attention."""
    found = config.per_layer("attn_type_list", int, "0 and 1", layers)
    return [FULL if one else LINEAR for one in found]


def _pattern(config: Config, layers: int) -> list[str]:
    """MiMo: 1 for a window."""
    found = config.per_layer("hybrid_layer_pattern", int, "0 and 1", layers)
    return [WINDOW if one else FULL for one in found]


def _delta(config: Config, layers: int) -> list[str]:
    """Kimi: two lists of layers."""
    part = config.part("linear_attn_config")
    full = part.sequence("full_attn_layers", int, "numbers of layers")
    delta = part.sequence("kda_layers", int, "numbers of layers")
    if len(full) + len(delta) != layers:
        raise ModelError(
            f"{part.where}: full_attn_layers and kda_layers name {len(full) + len(delta)} of {layers} "
            "layers; correct them, or num_hidden_layers"
        )
    return [FULL] * len(full) + [LINEAR] * len(delta)


def _interval(config: Config, layers: int) -> list[str]:
    """Qwen3-Next: the last of so many layers sees everything."""
    return _last_of(config.whole("full_attention_interval"), layers, LINEAR)


def _period(config: Config, layers: int) -> list[str]:
    """Jamba: one of so many layers has attention, the rest a Mamba."""
    period, offset = config.whole("attn_layer_period"), config.whole("attn_layer_offset", low=0)
    return [FULL if k % period == offset else MAMBA for k in range(layers)]


def _indices(config: Config, layers: int) -> list[str]:
    """Bamba: a list of the layers with attention."""
    full = config.sequence("attn_layer_indices", int, "numbers of layers")
    return [FULL if k in full else MAMBA for k in range(layers)]


def _attending(config: Config, layers: int) -> list[str]:
    """LFM2: a list of the layers with attention, the rest has short convolutions."""
    full = config.sequence("full_attn_idxs", int, "numbers of layers")
    return [FULL if k in full else CONV for k in range(layers)]


def _beside(config: Config, layers: int) -> list[str]:
    """Falcon-H1: attention and a Mamba in every layer."""
    return [BOTH] * layers


def _pure(config: Config, layers: int) -> list[str]:
    """Mamba without attention."""
    return [MAMBA] * layers


RULES: dict[str, Callable[[Config, int], list[str]]] = {
    "layer_types": _named("layer_types"),
    "layers_block_type": _named("layers_block_type"),
    "block_types": _repeated,
    "hybrid_override_pattern": _letters,
    "attn_type_list": _types,
    "hybrid_layer_pattern": _pattern,
    "linear_attn_config": _delta,
    "full_attention_interval": _interval,
    "attn_layer_period": _period,
    "attn_layer_indices": _indices,
    "full_attn_idxs": _attending,
    "mamba_d_ssm": _beside,
    "state_size": _pure,
}
"""Field that is there → how it says what each layer keeps; the first one counts."""


def _by_windows(config: Config, layers: int) -> list[str]:
    """Attention in every layer: of all tokens, or of the last ones in some."""
    family = config.text("model_type")
    if config.has("attention_chunk_size"):
        if config.has("no_rope_layers"):
            turned = config.per_layer("no_rope_layers", int, "0 and 1", layers)
            return [CHUNK if one else FULL for one in turned]
        return _last_of(config.whole("no_rope_layer_interval", default=4), layers, CHUNK)
    if not (config.has("sliding_window") or config.has("sliding_window_size")):
        return [FULL] * layers
    if not config.flag("use_sliding_window", default=not family.startswith(("qwen2", "qwen3"))):
        return [FULL] * layers
    if config.has("max_window_layers"):
        first = config.whole("max_window_layers", low=0)
        return [FULL if k < first else WINDOW for k in range(layers)]
    for name in ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers"):
        if isinstance(config.values.get(name), str):
            return _written(config, name, layers)
        if config.has(name):
            return _last_of(config.whole(name), layers, WINDOW)
    if family in PERIODS:
        return _last_of(PERIODS[family], layers, WINDOW)
    if family in ALL_WINDOWS:
        return [WINDOW] * layers
    raise ModelError(
        f"{config.where} has a sliding_window and does not say in which layers; add layer_types, a list of "
        "'sliding_attention' and 'full_attention', or remove sliding_window where no layer has one"
    )


def _written(config: Config, name: str, layers: int) -> list[str]:
    """EXAONE: a pattern of letters that repeats, L for a window and G for everything."""
    pattern = config.text(name)
    if set(pattern) - {"L", "G"}:
        raise config.wrong(name, "a number, or a text of L and G")
    return [WINDOW if pattern[k % len(pattern)] == "L" else FULL for k in range(layers)]


def _last_of(period: int, layers: int, other: str) -> list[str]:
    """Of each `period` layers the last sees everything, the rest is of the other kind."""
    return [other if (k + 1) % period else FULL for k in range(layers)]


def count(kinds: Sequence[str], *wanted: str) -> int:
    """How many layers are of one of these kinds."""
    return sum(kind in wanted for kind in kinds)
