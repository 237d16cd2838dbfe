"""Llama, Mistral, and others with the same layers."""

from kv_cache_rl.models.catalogue.entry import GALLERY, KVCACHE, PAPER, Entry, gqa, known, made, mla

ENTRIES: tuple[Entry, ...] = (
    known("llama-2-7b", "meta-llama/Llama-2-7b-hf", PAPER),
    known("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", KVCACHE),
    known("llama-3.1-70b", "meta-llama/Llama-3.1-70B-Instruct", KVCACHE, gib=39.0625),
    made("llama-3.1-405b", "meta-llama/Llama-3.1-405B-Instruct", KVCACHE, gqa(126, 8), 405),
    made("llama-3.2-1b", "meta-llama/Llama-3.2-1B", GALLERY, gqa(16, 8, 64), 1.24, kib=32),
    made("llama-3.3-70b", "meta-llama/Llama-3.3-70B-Instruct", KVCACHE, gqa(80, 8), 70.55),
    made(
        "llama-4-maverick",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct",
        GALLERY,
        {"text_config": {"model_type": "llama4_text", **gqa(48, 8), "attention_chunk_size": 8192}},
        400,
        kib=192,
    ),
    known("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", PAPER),
    made("mistral-small-24b", "mistralai/Mistral-Small-24B-Instruct-2501", KVCACHE, gqa(40, 8), 23.6),
    made("mistral-small-3.1", "mistralai/Mistral-Small-3.1-24B-Base-2503", GALLERY, gqa(40, 8), 24, kib=160),
    made("mistral-small-4", "mistralai/Mistral-Small-4-119B-2603", GALLERY, mla(36, 256), 119, kib=22.5),
    made("mistral-large-2411", "mistralai/Mistral-Large-Instruct-2411", KVCACHE, gqa(88, 8), 123),
    made("mistral-large-3", "mistralai/Mistral-Large-3-675B-Instruct-2512", GALLERY, mla(61), 673, kib=68.6),
    made("olmo-2-7b", "allenai/OLMo-2-1124-7B-Instruct", GALLERY, gqa(32, 32), 7.3, kib=512),
    *(
        made(
            name,
            repo,
            GALLERY,
            {**gqa(layers, heads), "model_type": "olmo3", "sliding_window": 4096},
            billions,
            kib=kib,
        )
        for name, repo, layers, heads, billions, kib in (
            ("olmo-3-7b", "allenai/Olmo-3-1025-7B", 32, 32, 7.3, 512),
            ("olmo-3-32b", "allenai/Olmo-3-32B-Think", 64, 8, 32, 256),
        )
    ),
    made("phi-4", "microsoft/phi-4", GALLERY, gqa(40, 10), 14.7, kib=200),
    made("smollm3-3b", "HuggingFaceTB/SmolLM3-3B-Base", GALLERY, gqa(36, 4), 3.1, kib=72),
    made("command-r", "CohereLabs/c4ai-command-r-v01", KVCACHE, gqa(40, 64), 35, gib=156.25),
    made("command-r-plus", "CohereLabs/c4ai-command-r-plus", KVCACHE, gqa(64, 8), 104, gib=31.25),
    *(
        made(
            name,
            repo,
            KVCACHE,
            {**gqa(layers, 8), "sliding_window": 4096, "sliding_window_pattern": 4},
            billions,
            gib=gib,
        )
        for name, repo, layers, billions, gib in (
            ("command-r7b", "CohereLabs/c4ai-command-r7b-12-2024", 32, 8, 4.28125),
            ("command-a", "CohereLabs/c4ai-command-a-03-2025", 64, 111, 8.5625),
            ("command-a-plus", "CohereLabs/command-a-plus-05-2026-bf16", 32, 0, 4.28125),
        )
    ),
)
