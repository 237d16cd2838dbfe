"""Mambas beside attention: Jamba, Falcon-H1, Nemotron 3."""

from kv_cache_rl.models.catalogue.entry import PAPER, VLLM, Entry, gqa, made

ENTRIES: tuple[Entry, ...] = (
    made(
        "jamba-v0.1",
        "ai21labs/Jamba-v0.1",
        PAPER,
        {
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        },
        52,
    ),
    made(
        "falcon-h1-7b",
        "tiiuae/Falcon-H1-7B-Instruct",
        VLLM,
        {
            **gqa(44, 2),
            "num_attention_heads": 12,
            "mamba_d_ssm": 3072,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_n_heads": 24,
            "mamba_d_head": 128,
            "mamba_n_groups": 1,
        },
        7.59,
    ),
    made(
        "nemotron-3-nano-30b-a3b",
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        VLLM,
        {
            **gqa(52, 2),
            "num_attention_heads": 32,
            "hybrid_override_pattern": "MEMEM*" + "EMEMEM*" * 4 + "EMEMEMEM*" + "EMEMEMEME",
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "n_groups": 8,
            "mamba_num_heads": 64,
            "mamba_head_dim": 64,
            "mamba_ssm_cache_dtype": "float32",
        },
        31.6,
        kib=6,
    ),
)
