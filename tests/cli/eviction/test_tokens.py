"""``tokens``: counts of each view and history, by a tokenizer that the user gives."""

import json

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="pip install 'kv-cache-rl[tokens]'")


@pytest.fixture
def file(tmp_path):
    """A tokenizer of which every character is a token."""
    characters = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    characters.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    characters.save(str(tmp_path / "tokenizer.json"))
    return "tokenizer.json"


def test_a_row_for_each_view_and_history_and_the_tokenizer_is_named(kv, file):
    found = kv("tokens", "--tokenizer", file, "-n", 1, "--json").json
    assert found["tokenizer"] == file and found["template"] == "Qwen2.5" and found["policy"] == "learned"
    pairs = [(row["view"], row["history"]) for row in found["rows"]]
    assert pairs == [("full", "full"), ("full", "window"), ("brief", "full"), ("brief", "window")]
    by_pair = dict(zip(pairs, found["rows"], strict=True))
    full, brief = by_pair["full", "full"], by_pair["brief", "window"]
    assert brief["observation"]["mean"] < full["observation"]["mean"] / 3
    assert brief["read"]["mean"] < full["read"]["mean"] / 10
    assert found["system_prompt"]["brief"] < found["system_prompt"]["full"]


def test_one_view_and_history_as_a_table(kv, file):
    said = kv("tokens", "--tokenizer", file, "-n", 1, "--view", "brief", "--history", "window", "-p", "lru")
    assert said.code == 0 and "played by lru" in said.out and "brief" in said.out
    assert "full" not in said.out.replace("(full)", "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--view", "breif"], "unknown view 'breif'"),
        (["--history", "half"], "unknown history 'half'"),
        (["--policy", "me"], "unknown policy 'me'"),
        (["--tokenizer", "absent.json"], "absent.json"),
        (["--tokenizer", "."], "is a folder"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(kv, file, options, words):
    given = options if "--tokenizer" in options else ["--tokenizer", file, *options]
    said = kv("tokens", *given, "-n", 1)
    assert (said.code, said.out) == (2, "") and words in said.err


def test_json_is_one_object(kv, file):
    said = kv("tokens", "--tokenizer", file, "-n", 1, "--view", "brief", "--history", "window", "--json")
    assert json.loads(said.out)["rows"][0]["view"] == "brief"
