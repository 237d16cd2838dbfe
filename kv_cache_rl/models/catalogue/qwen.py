"""Qwen: grouped queries up to Qwen3, gated delta nets with full attention in every fourth layer since."""

from typing import Any

from kv_cache_rl.models.catalogue.entry import GALLERY, KVCACHE, TRANSFORMERS, Entry, gqa, known, made

UNUSED_WINDOW = {"sliding_window": 131072, "use_sliding_window": False}
"""Qwen2.5 names a window and does not use it."""


def hybrid(layers: int, kv_heads: int, value_heads: int) -> dict[str, Any]:
    """Fields of Qwen3-Next and all since Qwen3.5."""
    return {
        **gqa(layers, kv_heads, 256),
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }


ENTRIES: tuple[Entry, ...] = (
    known("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", KVCACHE),
    made("qwen2.5-14b", "Qwen/Qwen2.5-14B-Instruct", KVCACHE, gqa(48, 8) | UNUSED_WINDOW, 14.7),
    made("qwen2.5-32b", "Qwen/Qwen2.5-32B-Instruct", KVCACHE, gqa(64, 8) | UNUSED_WINDOW, 32.5),
    made("qwen2.5-72b", "Qwen/Qwen2.5-72B-Instruct", KVCACHE, gqa(80, 8) | UNUSED_WINDOW, 72.7, gib=39.0625),
    made("qwen2.5-coder-32b", "Qwen/Qwen2.5-Coder-32B-Instruct", KVCACHE, gqa(64, 8) | UNUSED_WINDOW, 32.5),
    made("qwen3-0.6b", "Qwen/Qwen3-0.6B", KVCACHE, gqa(28, 8), 0.6),
    made("qwen3-1.7b", "Qwen/Qwen3-1.7B", KVCACHE, gqa(28, 8), 1.7),
    made("qwen3-4b", "Qwen/Qwen3-4B", KVCACHE, gqa(36, 8), 4.0, kib=144),
    known("qwen3-8b", "Qwen/Qwen3-8B", KVCACHE, kib=144),
    known("qwen3-14b", "Qwen/Qwen3-14B", KVCACHE),
    known("qwen3-32b", "Qwen/Qwen3-32B", KVCACHE, kib=256, gib=31.25),
    made("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B", KVCACHE, gqa(48, 4), 30.5),
    known("qwen3-coder-30b-a3b", "Qwen/Qwen3-Coder-30B-A3B-Instruct", GALLERY, kib=96),
    made("qwen3-235b-a22b", "Qwen/Qwen3-235B-A22B", KVCACHE, gqa(94, 4), 235, kib=188),
    made("qwen3-next-80b-a3b", "Qwen/Qwen3-Next-80B-A3B-Instruct", TRANSFORMERS, hybrid(48, 2, 32), 79.67),
    made("qwen3.5-0.8b", "Qwen/Qwen3.5-0.8B", KVCACHE, hybrid(24, 2, 16), gib=1.46484375),
    made("qwen3.5-2b", "Qwen/Qwen3.5-2B", KVCACHE, hybrid(24, 2, 16)),
    made("qwen3.5-4b", "Qwen/Qwen3.5-4B", KVCACHE, hybrid(32, 4, 32)),
    made("qwen3.5-9b", "Qwen/Qwen3.5-9B", KVCACHE, hybrid(32, 4, 32)),
    made("qwen3.5-27b", "Qwen/Qwen3.5-27B", KVCACHE, hybrid(64, 4, 48)),
    made("qwen3.5-35b-a3b", "Qwen/Qwen3.5-35B-A3B", KVCACHE, hybrid(40, 2, 32)),
    made("qwen3.5-122b-a10b", "Qwen/Qwen3.5-122B-A10B", KVCACHE, hybrid(48, 2, 64)),
    made(
        *("qwen3.5-397b-a17b", "Qwen/Qwen3.5-397B-A17B", KVCACHE, hybrid(60, 2, 64), 397),
        kib=30,
        gib=3.662109375,
    ),
    made("qwen3.6-27b", "Qwen/Qwen3.6-27B", KVCACHE, hybrid(64, 4, 48), gib=7.8125),
    made("qwen3.6-35b-a3b", "Qwen/Qwen3.6-35B-A3B", KVCACHE, hybrid(40, 2, 32), gib=2.44140625),
    made("qwen3.8-27b", "Qwen/Qwen3.8-27B", KVCACHE, hybrid(64, 4, 48) | {"mamba_ssm_dtype": "float32"}),
    made(
        "qwen3.8-2.4t-a95b",
        "Qwen/Qwen3.8-2.4T-A95B",
        KVCACHE,
        hybrid(92, 4, 128) | {"mamba_ssm_dtype": "float32"},
    ),
)
