"""``serving transfer``: agents where they were not trained."""

import pytest

from kv_cache_rl.cli.serving.transfer import LOADS, TASKS

SHORT = ("--seeds", "2", "--ticks", "300", "--workers", "1", "--policy", "stability,lru")


@pytest.fixture
def trace(users):
    return users("users.jsonl")


def test_rows_are_traces_at_each_load_then_half_the_memory(kv, trace):
    found = kv("serving", "transfer", trace, *SHORT, "--json").json
    worlds = list(dict.fromkeys(row["world"] for row in found["rows"]))
    assert worlds == [
        *(f"users.jsonl, load {load:g}" for load in LOADS),
        *(f"{name}, 5,000 GPU blocks" for name in TASKS),
    ]
    assert [row["agent"] for row in found["rows"]] == ["stability", "lru"] * len(worlds)
    assert all(row["score"]["n"] == 2 and 0 < row["score"]["mean"] < 1 for row in found["rows"])
    again = kv("serving", "transfer", trace, *SHORT, "--json").json
    assert again["rows"] == found["rows"], "kept episodes are the same"


def test_without_a_trace_it_is_half_the_memory_alone(kv):
    said = kv("serving", "transfer", *SHORT, "--markdown")
    assert said.out.startswith("| agent | medium, 5,000 GPU blocks: score · minus stability |")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("none.jsonl",), "none.jsonl: there is no such file"),
        (("--policy", "ppoo"), "unknown agent 'ppoo'; did you mean ppo?"),
        (("--policy", "none.safetensors"), "none.safetensors: No such file or directory; train them with"),
        (("--seeds", "101"), "101 seeds asked for; give a number from 1 to 100"),
        (("--json", "--markdown"), "--json and --markdown are both given"),
        (("--policy", "llm"), "llm plays in kv-cache-rl serving evaluate and simulate alone; leave it out"),
    ],
)
def test_what_cannot_be_played_is_refused_with_the_remedy(kv, words, said):
    found = kv("serving", "transfer", *words)
    assert found.code == 2 and said in found.err
