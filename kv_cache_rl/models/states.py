"""Constant states: what linear attention, Mambas and short convolutions keep of a sequence of any length.

Source: vLLM, `model_executor/layers/mamba/mamba_utils.py`, for shapes and for the precisions where the
configuration names none. Convolutions keep their last inputs at 16 bits, one fewer than their width.
"""

from kv_cache_rl.core.geometry import LayerGroup
from kv_cache_rl.models.fields import Config, ModelError

HALF, SINGLE = 2, 4
"""Bytes of a number of a state at 16 and at 32 bits."""
WIDTHS = {"float32": SINGLE, "float16": HALF, "bfloat16": HALF, "auto": HALF}


def linear(config: Config, layers: int) -> LayerGroup:
    """Linear attention: a matrix of keys and values per head.

    Raises:
        ModelError: no known fields describe it.
    """
    if config.has("linear_attn_config"):
        return _delta_attention(config.part("linear_attn_config"), layers)
    if config.has("linear_num_value_heads"):
        return _gated_delta_net(config, layers)
    if config.has("attn_type_list") or config.text("model_type").startswith("minimax"):
        heads = config.whole("num_attention_heads")
        dim = config.whole("head_dim", default=config.whole("hidden_size", default=1) // heads)
        size = heads * dim * dim * _width(config, HALF)
        return _state("lightning attention state", layers, size, f"{heads} heads x {dim} x {dim}")
    raise ModelError(
        f"{config.where} has layers of linear attention, and no field that is known here says how large "
        "their state is (linear_attn_config, linear_num_value_heads); give another model"
    )


def mamba(config: Config, layers: int) -> LayerGroup:
    """Mamba, the first or the second."""
    config.settle("mamba_", "ssm_", "conv_", "use_mamba", "use_conv", "chunk_size", "state_size")
    taps = config.whole("mamba_d_conv", "conv_kernel", low=2) - 1
    state = config.whole("mamba_d_state", "ssm_state_size", "state_size")
    width = _width(config, HALF)
    heads = config.whole("mamba_n_heads", "mamba_num_heads", *_own(config, "num_heads"), default=0, low=0)
    if not heads:
        inner = _inner(config)
        size = inner * (taps * HALF + state * width)
        return _state(
            "Mamba state", layers, size, f"{inner:,} channels x ({state} + {taps} of the convolution)"
        )
    dim = _head(config, heads)
    groups = config.whole("mamba_n_groups", "n_groups", "mamba_ngroups", "mamba_num_groups", default=1)
    channels = heads * dim + 2 * groups * state
    return _matrices("Mamba-2 state", layers, (heads, dim, state), width, channels, taps)


def convolution(config: Config, layers: int) -> LayerGroup:
    """A short convolution (LFM2)."""
    config.settle("conv_")
    channels = config.whole("conv_dim", "hidden_size")
    taps = config.whole("conv_L_cache", low=2) - 1
    return _state("short convolution", layers, channels * taps * HALF, f"{channels:,} channels x {taps}")


def recurrent(config: Config, layers: int) -> LayerGroup:
    """A gated linear recurrent unit (RecurrentGemma)."""
    width = config.whole("lru_width", "hidden_size")
    taps = config.whole("conv1d_width", low=2) - 1
    size = width * (SINGLE + taps * HALF)
    return _state("recurrent state", layers, size, f"{width:,} channels x (1 + {taps} of the convolution)")


def _delta_attention(part: Config, layers: int) -> LayerGroup:
    """Kimi delta attention."""
    heads, dim = part.whole("num_heads"), part.whole("head_dim")
    taps = part.whole("short_conv_kernel_size", low=2) - 1
    return _matrices("delta attention state", layers, (heads, dim, dim), SINGLE, 3 * heads * dim, taps)


def _gated_delta_net(config: Config, layers: int) -> LayerGroup:
    """Gated delta net (Qwen3-Next)."""
    config.settle("linear_")
    heads, dim = config.whole("linear_num_value_heads"), config.whole("linear_value_head_dim")
    key_heads, key_dim = config.whole("linear_num_key_heads"), config.whole("linear_key_head_dim")
    taps = config.whole("linear_conv_kernel_dim", low=2) - 1
    channels = 2 * key_heads * key_dim + heads * dim
    width = _width(config, SINGLE)
    return _matrices("gated delta net state", layers, (heads, key_dim, dim), width, channels, taps)


def _matrices(
    keeps: str, layers: int, shape: tuple[int, int, int], width: int, channels: int, taps: int
) -> LayerGroup:
    """A matrix for each head (`shape`: heads, rows, columns), and the last inputs of a convolution."""
    heads, rows, columns = shape
    size = heads * rows * columns * width + channels * taps * HALF
    because = f"{heads} heads x {rows} x {columns}, and a convolution of {channels:,} x {taps}"
    return _state(keeps, layers, size, because)


def _state(keeps: str, layers: int, size: int, because: str) -> LayerGroup:
    return LayerGroup(keeps, layers, state_bytes=size, because=because)


def _width(config: Config, default: int) -> int:
    """Bytes of a number of a recurrent state."""
    for name in ("mamba_ssm_dtype", "mamba_ssm_cache_dtype"):
        if text := config.text(name):
            if text not in WIDTHS:
                raise config.wrong(name, f"one of {', '.join(WIDTHS)}")
            return WIDTHS[text]
    return default


def _own(config: Config, name: str) -> tuple[str, ...]:
    """A field's name where no layer has attention: it is the Mamba's there."""
    return () if config.has("num_attention_heads") else (name,)


def _inner(config: Config) -> int:
    """Channels of a Mamba."""
    if config.has("mamba_expand"):
        return config.whole("mamba_expand") * config.whole("hidden_size")
    expanded = config.whole("expand", default=2) * config.whole("hidden_size", default=1)
    return config.whole("intermediate_size", default=expanded)


def _head(config: Config, heads: int) -> int:
    """Channels of one head of a Mamba-2."""
    if config.values.get("mamba_d_head") == "auto":
        return _inner(config) // heads
    return config.whole("mamba_d_head", "mamba_head_dim", "mamba_headdim", *_own(config, "head_dim"))
