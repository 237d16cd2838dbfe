"""Gemma, gpt-oss, MiMo and MiniMax: windows beside full attention, shared layers, index keys."""

from typing import Any

from kv_cache_rl.models.catalogue.entry import GALLERY, KVCACHE, TRANSFORMERS, Entry, gqa, made


def gemma3(layers: int, kv_heads: int, head_dim: int, window: int) -> dict[str, Any]:
    """Fields of Gemma 3; one layer of six sees everything."""
    return {**gqa(layers, kv_heads, head_dim), "model_type": "gemma3_text", "sliding_window": window}


def gemma4(layers: int, kv_heads: int, window: int, period: int = 6, **more: int) -> dict[str, Any]:
    """Fields of Gemma 4; the last layer of each period sees everything."""
    kinds = ["full_attention" if (k + 1) % period == 0 else "sliding_attention" for k in range(layers)]
    own = {
        "model_type": "gemma4_text",
        "sliding_window": window,
        "global_head_dim": 512,
        "layer_types": kinds,
    }
    return {"text_config": {**gqa(layers, kv_heads, 256), **own, **more}}


def mimo(full: int, windows: int, kv_heads: int) -> dict[str, Any]:
    """Fields of MiMo V2; which layer is which changes no byte, and they stand in order here."""
    return {
        **gqa(full + windows, kv_heads, 192),
        "v_head_dim": 128,
        "swa_num_key_value_heads": 8,
        "swa_head_dim": 192,
        "swa_v_head_dim": 128,
        "sliding_window": 128,
        "hybrid_layer_pattern": [0] * full + [1] * windows,
    }


ENTRIES: tuple[Entry, ...] = (
    made("gemma-3-270m", "google/gemma-3-270m", GALLERY, gemma3(18, 1, 256, 512), 0.27, kib=18),
    made("gemma-3-27b", "google/gemma-3-27b-it", GALLERY, gemma3(62, 16, 128, 1024), 27.4, kib=496),
    made(
        "gemma-3n-e4b",
        "google/gemma-3n-E4B-it",
        TRANSFORMERS,
        {
            "text_config": {
                **gqa(35, 2, 256),
                "model_type": "gemma3n_text",
                "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
                "sliding_window": 512,
                "num_kv_shared_layers": 15,
            }
        },
    ),
    made(
        *("gemma-4-e2b", "google/gemma-4-E2B", KVCACHE),
        gemma4(35, 1, 512, 5, num_kv_shared_layers=20),
        gib=0.73828125,
    ),
    made("gemma-4-e4b", "google/gemma-4-E4B", KVCACHE, gemma4(42, 2, 512, num_kv_shared_layers=18)),
    made(
        *("gemma-4-26b-a4b", "google/gemma-4-26B-A4B", KVCACHE),
        gemma4(30, 8, 1024, num_global_key_value_heads=2, attention_k_eq_v=True),
        26,
    ),
    made(
        *("gemma-4-31b", "google/gemma-4-31B", KVCACHE),
        gemma4(60, 16, 1024, num_global_key_value_heads=4, attention_k_eq_v=True),
        31,
        gib=10.546875,
    ),
    *(
        made(
            name,
            f"openai/{name}",
            GALLERY,
            {**gqa(layers, 8, 64), "model_type": "gpt_oss", "sliding_window": 128},
            billions,
            kib=kib,
        )
        for name, layers, billions, kib in (("gpt-oss-20b", 24, 21, 48), ("gpt-oss-120b", 36, 117, 72))
    ),
    made("mimo-v2.5", "XiaomiMiMo/MiMo-V2.5", KVCACHE, mimo(9, 39, 4), gib=2.7703857421875),
    made("mimo-v2.5-pro", "XiaomiMiMo/MiMo-V2.5-Pro", KVCACHE, mimo(10, 60, 8), gib=6.14013671875),
    made("minimax-m2", "MiniMaxAI/MiniMax-M2", KVCACHE, gqa(62, 8), 230, kib=248),
    made("minimax-m2.1", "MiniMaxAI/MiniMax-M2.1", KVCACHE, gqa(62, 8), 230),
    made("minimax-m2.5", "MiniMaxAI/MiniMax-M2.5", KVCACHE, gqa(62, 8), 230, kib=248),
    made("minimax-m2.7", "MiniMaxAI/MiniMax-M2.7", KVCACHE, gqa(62, 8), 230),
    made(
        "minimax-m3",
        "MiniMaxAI/MiniMax-M3",
        KVCACHE,
        {
            "text_config": {
                **gqa(60, 4),
                "sparse_attention_config": {
                    "sparse_index_dim": 128,
                    "sparse_attention_freq": [0] * 3 + [1] * 57,
                },
            }
        },
    ),
)
