"""DeepSeek, Kimi and GLM: latents, index keys of sparse attention, compressed entries, delta attention."""

from typing import Any

from kv_cache_rl.models.catalogue.entry import GALLERY, KVCACHE, Entry, gqa, made, mla

INDEXED = {"index_head_dim": 128, "num_nextn_predict_layers": 1}
SHARED_INDEX = INDEXED | {"index_topk_freq": 4, "index_skip_topk_offset": 3}
"""GLM since 5.2: one layer of four has an indexer."""


def compressed(ratios: list[int]) -> dict[str, Any]:
    """Fields of DeepSeek V4; the last ratio is of the layer that only drafts."""
    return {
        "model_type": "deepseek_v4",
        "num_hidden_layers": len(ratios) - 1,
        "head_dim": 512,
        "sliding_window": 128,
        "index_head_dim": 128,
        "compress_ratios": ratios,
    }


def delta(layers: int, full: list[int], heads: int) -> dict[str, Any]:
    """Fields of Kimi delta attention with latents in these layers, counted from 1."""
    rest = [layer for layer in range(1, layers + 1) if layer not in full]
    return {
        **mla(layers),
        "linear_attn_config": {
            "full_attn_layers": full,
            "kda_layers": rest,
            "num_heads": heads,
            "head_dim": 128,
            "short_conv_kernel_size": 4,
        },
    }


ENTRIES: tuple[Entry, ...] = (
    made("deepseek-v3", "deepseek-ai/DeepSeek-V3", KVCACHE, mla(61), 671, kib=68.6),
    made("deepseek-r1", "deepseek-ai/DeepSeek-R1", KVCACHE, mla(61), 671, kib=68.6),
    made("deepseek-v3.2", "deepseek-ai/DeepSeek-V3.2", KVCACHE, mla(61) | INDEXED, 671, kib=68.6),
    made(
        *("deepseek-v4-flash", "deepseek-ai/DeepSeek-V4-Flash", KVCACHE),
        compressed([0, 0, *[4, 128] * 20, 4, 0]),
    ),
    made(
        *("deepseek-v4-pro", "deepseek-ai/DeepSeek-V4-Pro", KVCACHE),
        compressed([128, *[128, 4] * 30, 0]),
        gib=1.1814193725585938,
    ),
    made("kimi-k2", "moonshotai/Kimi-K2-Base", GALLERY, mla(61), 1000, kib=68.6),
    made("kimi-k2.5", "moonshotai/Kimi-K2.5", KVCACHE, mla(61), 1000, kib=68.6, gib=8.3770751953125),
    made("kimi-k2.6", "moonshotai/Kimi-K2.6", KVCACHE, mla(61), 1000),
    made("kimi-k2.7-code", "moonshotai/Kimi-K2.7-Code", KVCACHE, mla(61), 1000),
    made(
        *("kimi-linear-48b-a3b", "moonshotai/Kimi-Linear-48B-A3B-Base", GALLERY),
        delta(27, [*range(4, 25, 4), 27], 32),
        48,
        kib=7.9,
    ),
    made("kimi-k3", "moonshotai/Kimi-K3", KVCACHE, delta(93, [*range(4, 93, 4), 93], 96)),
    made("glm-4.5", "zai-org/GLM-4.5", GALLERY, gqa(92, 8), 355, kib=368),
    made("glm-4.7", "zai-org/GLM-4.7", GALLERY, gqa(92, 8), 355, kib=368),
    made("glm-5", "zai-org/GLM-5", KVCACHE, mla(78) | INDEXED, 744, kib=87.8, gib=13.092041015625),
    made("glm-5.1", "zai-org/GLM-5.1", KVCACHE, mla(78) | INDEXED, 744),
    made("glm-5.2", "zai-org/GLM-5.2", KVCACHE, mla(78) | SHARED_INDEX, 743.38),
    made("glm-5.3", "zai-org/GLM-5.3", KVCACHE, mla(78) | SHARED_INDEX),
    made(
        *("glm-5.3-flash", "zai-org/GLM-5.3-Flash", KVCACHE),
        delta(45, [*range(4, 45, 4)], 64) | mla(45, 512, 0) | INDEXED | {"index_kpool": 4},
    ),
)
