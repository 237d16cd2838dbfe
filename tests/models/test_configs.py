"""Every kind of layer that configurations name becomes the bytes that it keeps; others are refused."""

import pytest

from kv_cache_rl.core.geometry import MODELS, is_linear
from kv_cache_rl.models.configs import geometry_of
from kv_cache_rl.models.fields import ModelError

GQA = {"num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
FULL, KV = "full attention", 2 * 4 * 64
MLA = {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_attention_heads": 128}
DELTA_NET = {
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
}
DELTA_NET_STATE = 4 * 16 * 8 * 4 + (2 * 2 * 8 + 4 * 16) * 3 * 2
KIMI = {"num_heads": 2, "head_dim": 8, "short_conv_kernel_size": 4}
KIMI_STATE = 2 * 8 * 8 * 4 + 3 * 2 * 8 * 3 * 2
MAMBA2 = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_n_heads": 8, "mamba_d_head": 4, "mamba_n_groups": 2}
MAMBA2_STATE = (8 * 4 + 2 * 2 * 16) * 3 * 2 + 8 * 4 * 16 * 2
V4 = {
    "model_type": "deepseek_v4",
    "num_hidden_layers": 5,
    "head_dim": 512,
    "sliding_window": 128,
    "index_head_dim": 128,
}


def kinds(*names, **more):
    return {
        **GQA,
        "layer_types": [f"{name}_attention" for name in names],
        "num_hidden_layers": len(names),
    } | more


def groups(config):
    """What the layers of a configuration keep: (name, layers, elements, window, stride, bytes of a state)."""
    return [
        (group.keeps, group.layers, group.elements, group.window, group.stride, group.state_bytes)
        for group in geometry_of(config, "mine", "config.json").layer_groups
    ]


def full(layers, elements=KV):
    return (FULL, layers, elements, None, 1, 0)


def window(layers, tokens, elements=KV):
    return ("sliding window", layers, elements, tokens, 1, 0)


def state(keeps, layers, size):
    return (keeps, layers, 0, None, 1, size)


KNOWN = {
    "grouped queries": (GQA, [full(12)]),
    "a head for each query": ({**GQA, "num_key_value_heads": None}, [full(12, 2 * 16 * 64)]),
    "no head_dim": ({**GQA, "head_dim": None, "hidden_size": 1024}, [full(12)]),
    "gpt-2": ({"n_layer": 12, "n_head": 12, "n_embd": 768}, [full(12, 2 * 768)]),
    "falcon, one head": (
        {"n_layer": 2, "num_attention_heads": 71, "hidden_size": 4544, "multi_query": True},
        [full(2, 2 * 64)],
    ),
    "chatglm": (
        {
            "num_layers": 28,
            "num_attention_heads": 32,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
        },
        [full(28, 2 * 2 * 128)],
    ),
    "in text_config": (
        {"model_type": "any_vl", "vision_config": {"window": 8}, "text_config": GQA},
        [full(12)],
    ),
    "keys and values differ": ({**GQA, "v_head_dim": 32}, [full(12, 4 * (64 + 32))]),
    "latent": ({**MLA, "v_head_dim": 128}, [("latent", 61, 576, None, 1, 0)]),
    "draft layers": ({**MLA, "num_nextn_predict_layers": 3}, [("latent", 61, 576, None, 1, 0)]),
    "draft layers in a list": (
        kinds("full", "sliding", "sliding", sliding_window=9, num_hidden_layers=2),
        [full(1), window(1, 9)],
    ),
    "two attentions in a layer": (
        {"model_type": "longcat_flash", "num_layers": 28, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
        [("latent", 56, 576, None, 1, 0)],
    ),
    "index keys": (
        {**MLA, "index_head_dim": 128, "index_topk": 2048, "index_n_heads": 64},
        [("latent", 61, 576, None, 1, 0), ("index keys", 61, 128, None, 1, 0)],
    ),
    "shared indexers": (
        {
            **MLA,
            "num_hidden_layers": 78,
            "index_head_dim": 128,
            "index_topk_freq": 4,
            "index_skip_topk_offset": 3,
        },
        [("latent", 78, 576, None, 1, 0), ("index keys", 21, 128, None, 1, 0)],
    ),
    "pooled indexers in words": (
        {
            **MLA,
            "num_hidden_layers": 4,
            "index_head_dim": 128,
            "index_kpool": 4,
            "indexer_types": ["full", "shared", "full", "shared"],
        },
        [("latent", 4, 576, None, 1, 0), ("index keys", 2, 128, None, 4, 0)],
    ),
    "block-sparse attention": (
        {
            **GQA,
            "sparse_attention_config": {"sparse_index_dim": 128, "sparse_attention_freq": [0] * 3 + [1] * 9},
        },
        [full(12), ("index keys", 9, 128, None, 1, 0)],
    ),
    "a window in every layer": (
        {**GQA, "model_type": "mistral", "sliding_window": 4096},
        [window(12, 4096)],
    ),
    "a window that is not used": (
        {
            **GQA,
            "model_type": "qwen2",
            "sliding_window": 4096,
            "use_sliding_window": False,
            "max_window_layers": 9,
        },
        [full(12)],
    ),
    "a window from a layer on": (
        {**GQA, "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 9},
        [full(9), window(3, 4096)],
    ),
    "a window in five of six": (
        {**GQA, "sliding_window": 512, "sliding_window_pattern": 6},
        [full(2), window(10, 512)],
    ),
    "a pattern of letters": (
        {**GQA, "model_type": "exaone4", "sliding_window": 512, "sliding_window_pattern": "LLLG"},
        [full(3), window(9, 512)],
    ),
    "a pattern of the model type": (
        {**GQA, "model_type": "gpt_oss", "sliding_window": 128},
        [full(6), window(6, 128)],
    ),
    "types of layers": (kinds("sliding", "full", "sliding", sliding_window=128), [full(1), window(2, 128)]),
    "what gemma 3 leaves out": (
        {"text_config": {"model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024}},
        [full(5, 2 * 4 * 256), window(29, 1024, 2 * 4 * 256)],
    ),
    "null is no window": ({**GQA, "model_type": "gemma3_text", "sliding_window": None}, [full(12)]),
    "other heads in windows": (
        {
            **GQA,
            "head_dim": 192,
            "v_head_dim": 128,
            "sliding_window": 128,
            "attention_chunk_size": 128,
            "swa_num_key_value_heads": 8,
            "swa_head_dim": 192,
            "swa_v_head_dim": 128,
            "swa_rope_theta": 1e4,
            "hybrid_layer_pattern": [0, 1, 1] * 4,
        },
        [full(4, 4 * 320), window(8, 128, 8 * 320)],
    ),
    "other heads in full layers, and shared layers": (
        {
            **kinds("sliding", "full", "sliding", "full", "sliding", "full", sliding_window=64),
            "model_type": "gemma4_text",
            "global_head_dim": 512,
            "num_global_key_value_heads": 2,
            "attention_k_eq_v": True,
            "num_kv_shared_layers": 3,
        },
        [full(1, 2 * 2 * 512), window(2, 64)],
    ),
    "layers that share in pairs": ({**GQA, "use_cla": True, "cla_share_factor": 2}, [full(6)]),
    "chunks": (
        {**GQA, "attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 3},
        [full(3), ("chunk", 9, KV, 8192, 1, 0)],
    ),
    "chunks by an interval": (
        {**GQA, "attention_chunk_size": 8192, "no_rope_layers": [], "no_rope_layer_interval": 3},
        [full(4), ("chunk", 8, KV, 8192, 1, 0)],
    ),
    "compressed": (
        {**V4, "compress_ratios": [0, 4, 128, 4, 128, 0]},
        [
            ("sliding window", 5, 512, 128, 1, 0),
            ("compressed", 2, 512, None, 4, 0),
            ("compressed", 2, 512, None, 128, 0),
            ("index keys", 2, 128, None, 4, 0),
        ],
    ),
    "gated delta nets": (
        {**GQA, "full_attention_interval": 4, **DELTA_NET},
        [full(3), state("gated delta net state", 9, DELTA_NET_STATE)],
    ),
    "gated delta nets at 16 bits": (
        {**kinds("linear", "full"), **DELTA_NET, "mamba_ssm_dtype": "bfloat16"},
        [full(1), state("gated delta net state", 1, DELTA_NET_STATE - 4 * 16 * 8 * 2)],
    ),
    "delta attention": (
        {
            **MLA,
            "num_hidden_layers": 4,
            "linear_attn_config": KIMI | {"full_attn_layers": [4], "kda_layers": [1, 2, 3]},
        },
        [("latent", 1, 576, None, 1, 0), state("delta attention state", 3, KIMI_STATE)],
    ),
    "lightning attention": (
        {**GQA, "attn_type_list": [0, 0, 1] * 4},
        [full(4), state("lightning attention state", 8, 16 * 64 * 64 * 2)],
    ),
    "jamba": (
        {
            **GQA,
            "hidden_size": 256,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "mamba_dt_rank": 256,
        },
        [full(3), state("Mamba state", 9, 512 * (3 * 2 + 16 * 2))],
    ),
    "bamba": (
        {**GQA, "attn_layer_indices": [3, 7], **MAMBA2, "mamba_chunk_size": 256},
        [full(2), state("Mamba-2 state", 10, MAMBA2_STATE)],
    ),
    "attention beside a mamba": (
        {**GQA, **MAMBA2, "mamba_d_ssm": 32, "attn_layer_indices": None},
        [full(12), state("Mamba-2 state", 12, MAMBA2_STATE)],
    ),
    "letters": (
        {
            **GQA,
            "num_hidden_layers": 6,
            "hybrid_override_pattern": "M-M*ME",
            "ssm_state_size": 16,
            "conv_kernel": 4,
            "mamba_num_heads": 8,
            "mamba_head_dim": 4,
            "n_groups": 2,
            "mamba_ssm_cache_dtype": "float32",
        },
        [full(1), state("Mamba-2 state", 3, MAMBA2_STATE + 8 * 4 * 16 * 2)],
    ),
    "mamba alone": (
        {
            "model_type": "falcon_mamba",
            "num_hidden_layers": 64,
            "hidden_size": 4096,
            "intermediate_size": 8192,
            "state_size": 16,
            "conv_kernel": 4,
            "expand": 2,
        },
        [state("Mamba state", 64, 8192 * (3 * 2 + 16 * 2))],
    ),
    "mamba-2 alone": (
        {
            "model_type": "mamba2",
            "num_hidden_layers": 8,
            "hidden_size": 16,
            "num_heads": 8,
            "head_dim": 4,
            "n_groups": 2,
            "state_size": 16,
            "conv_kernel": 4,
            "chunk_size": 256,
        },
        [state("Mamba-2 state", 8, MAMBA2_STATE)],
    ),
    "short convolutions": (
        {
            **GQA,
            "layer_types": ["conv", "conv", "full_attention"] * 4,
            "conv_L_cache": 3,
            "conv_dim": 2048,
            "conv_bias": False,
        },
        [full(4), state("short convolution", 8, 2048 * 2 * 2)],
    ),
    "recurrent units": (
        {
            **GQA,
            "block_types": ["recurrent", "recurrent", "attention"],
            "lru_width": 256,
            "attention_window_size": 2048,
            "conv1d_width": 4,
        },
        [window(4, 2048), state("recurrent state", 8, 256 * (4 + 3 * 2))],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_layers_keep_what_their_configuration_says(name):
    config, expected = KNOWN[name]
    assert groups(config) == expected


def test_a_model_of_which_all_layers_are_alike_is_the_one_known_by_name():
    config = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    assert geometry_of(config, "llama-3.1-8b", "config.json", 16.1) == MODELS["llama-3.1-8b"]


def test_two_spellings_of_compressed_layers_are_one():
    words = ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"]
    named = {**V4, "layer_types": [words[k] for k in (0, 1, 2, 1, 2)]}
    assert groups(named) == groups(KNOWN["compressed"][0])
    other = groups({**named, "compress_rates": {"compressed_sparse_attention": 8}})
    assert [(keeps, layers, stride) for keeps, layers, _, _, stride, _ in other] == [
        ("sliding window", 5, 1),
        ("compressed", 2, 8),
        ("compressed", 2, 128),
        ("index keys", 2, 8),
    ]


def test_layers_of_short_convolutions_are_named_by_those_that_attend():
    words = KNOWN["short convolutions"][0]
    numbers = {**words, "layer_types": None, "full_attn_idxs": [2, 5, 8, 11], "conv_use_xavier_init": True}
    assert groups(numbers) == groups(words)


def test_layers_in_words_are_those_in_letters():
    letters = KNOWN["letters"][0]
    words = ["mamba", "mlp", "mamba", "attention", "mamba", "moe"]
    assert groups({**letters, "hybrid_override_pattern": None, "layers_block_type": words}) == groups(letters)


def test_only_models_that_keep_every_token_in_every_layer_are_linear():
    linear = {name for name, (config, _) in KNOWN.items() if is_linear(geometry_of(config, "m", "f"))}
    assert {"grouped queries", "latent", "index keys", "layers that share in pairs"} < linear
    assert not linear & {"a window in every layer", "chunks", "compressed", "gated delta nets", "mamba alone"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "config.json has no 'num_hidden_layers'; add it"),
        ({"num_hidden_layers": 2}, "config.json has no 'num_attention_heads'"),
        (
            {**GQA, "num_hidden_layers": 0},
            "num_hidden_layers is 0, expected a whole number from 1 to 16,777,216; cor",
        ),
        ({**GQA, "num_key_value_heads": [8, 4]}, "num_key_value_heads is [8, 4], expected a whole number"),
        ({**GQA, "head_dim": "128"}, "head_dim is '128', expected a whole number"),
        ({**GQA, "head_dim": True}, "head_dim is True, expected a whole number"),
        ({**GQA, "head_dim": 2**60}, "expected a whole number from 1 to"),
        ({**GQA, "num_hidden_layers": 2**24}, "it has 16,777,216 layers, and no model has that many"),
        (
            {**GQA, "head_dim": 2**24, "num_key_value_heads": 2**24},
            "its full attention would take 2 (K and V) x",
        ),
        (
            {**GQA, "head_dim": None, "hidden_size": 8},
            "a width of 8 is no multiple of its 16 heads",
        ),
        (
            {**V4, "compress_ratios": [0, 4, -4, 4, 4]},
            "compress_ratios is [0, 4, -4, 4, 4], expected numbers",
        ),
        ({**GQA, "model_type": 7}, "model_type is 7, expected a text"),
        ({**GQA, "layer_types": "full"}, "layer_types is 'full', expected a list of texts"),
        ({**GQA, "layer_types": ["full_attention"]}, "layer_types has 1 entries for 12 layers"),
        (kinds("full", "mega"), "layer_types has 'mega_attention', and what such a layer keeps is not known"),
        ({"text_config": {**GQA, "head_dim": 0}}, "config.json: text_config: head_dim is 0"),
        (kinds("full", "sliding"), "config.json has no 'sliding_window'"),
        ({**GQA, "sliding_window": 512}, "does not say in which layers; add layer_types"),
        (
            {**GQA, "sliding_window": 9, "sliding_window_pattern": "LxG"},
            "expected a number, or a text of L and G",
        ),
        ({**GQA, "num_kv_shared_layers": 12}, "num_kv_shared_layers is 12 of 12 layers"),
        (kinds("linear", "full"), "no field that is known here says how large their state is"),
        (
            {**GQA, "hybrid_override_pattern": "M*?"},
            "hybrid_override_pattern is 'M*?', expected 12 letters of",
        ),
        (
            {**MLA, "linear_attn_config": KIMI | {"full_attn_layers": [4], "kda_layers": [1]}},
            "config.json: linear_attn_config: full_attn_layers and kda_layers name 2 of 61 layers",
        ),
        (
            {**KNOWN["gated delta nets"][0], "mamba_ssm_dtype": "fp64"},
            "mamba_ssm_dtype is 'fp64', expected one of float32",
        ),
        (
            {**GQA, "kv_source_layer_ids": [2, 8]},
            "config.json: kv_source_layer_ids may say what the cache holds",
        ),
        ({**GQA, "mamba_d_state": 16}, "mamba_d_state may say what the cache holds"),
        ({**GQA, "attn_config": {"kv_n_heads": 8}}, "attn_config may say what the cache holds"),
        (
            {**V4, "compress_ratios": [0] * 5, "kv_source_layer_ids": [2]},
            "kv_source_layer_ids is [2], expected none",
        ),
        ({**GQA, "is_encoder_decoder": True}, "config.json is of no decoder"),
        ({**GQA, "architectures": ["BertForMaskedLM"]}, "config.json is of no decoder"),
        ({**GQA, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"]}, "is of no decoder"),
        ({**GQA, "head_dim": None, "hidden_size": 4097}, "a width of 4,097 is no multiple of its"),
        ({**GQA, "sliding_window_ratio": 3}, "sliding_window_ratio may say what the cache holds"),
    ],
    ids=str,
)
def test_what_a_configuration_lacks_or_says_wrongly_is_named(config, words):
    with pytest.raises(ModelError) as refused:
        geometry_of(config, "mine", "config.json")
    assert words in str(refused.value)
