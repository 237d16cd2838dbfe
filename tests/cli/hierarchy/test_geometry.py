"""``--model`` as a config.json: grouped queries, latents, windows and states in tiers of bytes."""

import json

import pytest

TREE = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 512}
HEADS = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
CONFIGS = {
    "grouped": {"num_hidden_layers": 32, **HEADS},
    "latent": {"num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
    "windows": {"num_hidden_layers": 36, **HEADS, "sliding_window": 1024, "sliding_window_pattern": 6},
    "hybrid": {
        "num_hidden_layers": 48,
        **HEADS,
        "full_attention_interval": 4,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_num_value_heads": 32,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    },
}
BLOCKS = 3, 5, 9
"""Of the requests of the trace."""
STATE = 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2)
CHARGED = {
    "grouped": 512 * 131_072,
    "latent": 512 * 61 * 576 * 2,
    "windows": round((6 * 17 * 512 + 30 * 3 * 1024) * 4096 / 17),
    "hybrid": round((12 * 17 * 512 * 4096 + 3 * STATE) / 17),
}
"""Configuration → bytes that a block is charged: the sum over the requests over their blocks."""


@pytest.fixture
def tree(tmp_path):
    """A prefix-tree trace of three requests with a common first block."""
    lines = [TREE]
    for k, blocks in enumerate(BLOCKS):
        runs = [[0, 1], [100 * (k + 1), blocks - 1]]
        lines.append({"time_s": k, "sequence": k, "input_tokens": 512 * blocks, "runs": runs})
    path = tmp_path / "tree.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, config in CONFIGS.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_gives_blocks_their_bytes_in_tiers_of_bytes(kv, tree, name):
    size = CHARGED[name]
    options = ("--tiers", f"gpu={4 * size}B,host=1TB", "--json")
    found = kv("hierarchy", "replay", str(tree), "--model", f"{name}.json", *options).json
    assert found["tiers"] == {"gpu": 4 * size, "host": 10**12}
    blocks = kv("hierarchy", "replay", str(tree), "--tiers", "gpu=4,host=1000", "--json").json
    assert found["tier_hit_rate"] == blocks["tier_hit_rate"]
    assert found["bytes_moved"] == size * blocks["bytes_moved"] > 0
    assert ("charged" in found) == (name in ("windows", "hybrid"))


def test_what_a_block_is_charged_is_said_where_the_cache_is_not_linear(kv, tree):
    said = kv("hierarchy", "replay", str(tree), "--model", "windows.json", "--tiers", "gpu=1GB,host=1TB").out
    assert (
        "each block of 512 tokens is charged 34.79 MB, the mean over this trace's requests (2,901 tokens on "
        "average): windows is not linear in tokens, 30 of 36 layers keep the last 1,024 tokens"
    ) in " ".join(said.split())
    curve = ("hierarchy", "curve", str(tree), "--policy", "lru", "--workers", "1", "--points", "2")
    found = kv(*curve, "--model", "hybrid.json", "--json").json
    assert (
        found["block_bytes"] == CHARGED["hybrid"]
        and "36 of 48 layers keep a constant state" in found["charged"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("workload:rag_burst", "--model", "windows.json"),
            "belong to no sequence; give a trace",
        ),
        (("tree.jsonl", "--model", "lost.json"), "lost.json: there is no such file; check the path"),
        (
            ("tree.jsonl", "--model", "."),
            "has no config.json (it has grouped.json, hybrid.json,",
        ),
        (("tree.jsonl", "--model", "odd.json"), "odd.json has no 'num_hidden_layers'; add it"),
        (("tree.jsonl",), "does not know the bytes of its blocks; name a model"),
    ],
    ids=str,
)
def test_models_that_give_no_bytes_say_what_to_give(kv, tree, tmp_path, arguments, words):
    (tmp_path / "odd.json").write_text("{}")
    said = kv("hierarchy", "replay", *arguments, "--tiers", "gpu=80GB,host=1TB")
    assert said.code == 2 and words in said.err.replace("\n", " ")


def test_a_sweep_takes_a_configuration_too(tree):
    from kv_cache_rl.experiments.hierarchy.settings import setting_of
    from kv_cache_rl.sim.hierarchy.traces.load import load_trace

    setting = setting_of({"name": "mine", "tiers": {"gpu": "1GB"}, "model": str(tree.parent / "latent.json")})
    assert setting.sized(load_trace(str(tree))).page_bytes == CHARGED["latent"]
