"""The catalogue and the derivation of one model, as tables and as JSON; bad names, files and amounts."""

import json

import pytest

from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.models.catalogue import CATALOGUE

WINDOWS = {
    "model_type": "gemma3_text",
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 1024,
}


def test_the_catalogue_has_every_model_with_its_source(kv):
    found = kv("models", "--json").json
    assert [row["model"] for row in found["models"]] == list(CATALOGUE)
    assert all(row["source"] and row["repo"] and row["groups"] for row in found["models"])
    said = kv("models").out
    assert "kimi-k3" in said and "69 delta attention state" in " ".join(said.split())


def test_a_model_has_its_bytes_at_three_lengths_and_precisions_and_what_fits(kv):
    found = kv("models", "llama-3.1-8b", "--gpu-memory", "80GB", "--json").json
    assert found["linear"] and found["bytes_per_token"] == 131_072
    assert found["bytes"]["fp16"] == {"1k": 2**27, "8k": 2**30, "128k": 2**34}
    assert found["bytes"]["fp8"]["8k"] == 2**29 and found["bytes"]["int4"]["8k"] == 2**28
    free = 0.9 * 80e9 - MODELS["llama-3.1-8b"].weight_gb * 1e9
    assert found["longest"] == int(free / 131_072) and found["fit"]["128k"] == int(free / 2**34)
    said = " ".join(kv("models", "llama-3.1-8b").out.split())
    assert "32 full attention all 2 (K and V) x 8 KV heads x 128 128 KiB a token" in said


def test_a_file_is_derived_group_by_group(kv, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(WINDOWS))
    found = kv("models", "config.json", "--json").json
    assert found["model"] == tmp_path.name and not found["linear"] and "source" not in found
    assert [(group["keeps"], group["layers"], group["window"]) for group in found["groups"]] == [
        ("full attention", 1, None),
        ("sliding window", 5, 1024),
    ]
    assert found["bytes"]["fp16"]["8k"] == 4096 * (8192 + 5 * 1024)
    said = " ".join(kv("models", "config.json").out.split())
    assert "not linear in tokens: 5 of 6 layers keep the last 1,024 tokens" in said
    assert "without the weights, which are not known" in said


def test_states_keep_their_precision(kv):
    found = kv("models", "qwen3-next-80b-a3b", "--gpu-memory", "10GB", "--json").json
    assert found["bytes"]["fp16"]["1k"] - found["bytes"]["fp8"]["1k"] == 1024 * found["bytes_per_token"] / 2
    assert found["state_bytes"] > 0 and found["longest"] == found["fit"]["1k"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpt-os-20b",), "unknown model 'gpt-os-20b'; did you mean gpt-oss-20b?"),
        (("none.json",), "none.json: there is no such file"),
        (
            ("qwen3-8b", "--gpu-memory", "5000"),
            "--gpu-memory 5000 is no number of bytes; write it",
        ),
        (("qwen3-8b", "--gpu-memory", "many"), "--gpu-memory many is no number of bytes; write it with"),
        (("qwen3-8b", "--gpu-memory", "nan"), "--gpu-memory nan is no number of bytes; write it with"),
    ],
    ids=str,
)
def test_what_cannot_be_counted_says_what_to_give(kv, arguments, words):
    said = kv("models", *arguments)
    assert said.code == 2 and words in said.err.replace("\n", " ")
