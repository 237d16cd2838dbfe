"""A model by its name, its file or its folder; what is no configuration of a model says what it is."""

import json
import os

import pytest

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.models.catalogue import CATALOGUE
from kv_cache_rl.models.reading import model_at

CONFIG = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "small"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


def test_names_of_the_catalogue_and_of_hugging_face_are_known():
    assert model_at("llama-3.1-8b") is MODELS["llama-3.1-8b"]
    assert model_at("gpt-oss-20b") is model_at("openai/gpt-oss-20b") is CATALOGUE["gpt-oss-20b"].geometry
    assert model_at("Qwen/Qwen3-8B") is MODELS["qwen3-8b"]
    assert model_at("tales-1m").layers == 4


def test_a_file_and_its_folder_are_one_model_with_the_name_of_the_folder(folder):
    found = model_at(str(folder))
    assert (found.name, found.layers, found.kv_heads, found.head_dim, found.weight_gb) == (
        "small",
        2,
        2,
        8,
        0.0,
    )
    assert model_at("small/config.json") == found
    os.chdir(folder)
    assert model_at("config.json") == model_at(".") == found


def test_a_file_of_another_name_names_the_model(folder):
    (folder / "config.json").rename(folder / "mine.json")
    assert model_at(str(folder / "mine.json")).name == "mine"


def test_a_name_of_the_catalogue_comes_before_a_file_of_that_name(folder):
    (folder / "config.json").rename("qwen3-8b")
    assert model_at("qwen3-8b") is MODELS["qwen3-8b"]


def test_the_weights_are_those_of_the_index_beside_it(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 16_000_000_000}, "weight_map": {}}))
    assert model_at(str(folder)).weight_gb == 16.0
    for broken in ("{", "[]", '{"metadata": []}', '{"metadata": {"total_size": "16"}}'):
        index.write_text(broken)
        assert model_at(str(folder)).weight_gb == 0.0


def test_infinity_and_a_mark_of_utf_8_are_read(folder):
    text = json.dumps(CONFIG | {"time_step_limit": [0.0, float("inf")]})
    (folder / "config.json").write_text("\ufeff" + text, encoding="utf-8")
    assert model_at(str(folder)).layers == 2


FOREIGN = {
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
    "a page of HTML": (b"<!doctype html><html><body>Sign in</body></html>", "download it by its raw address"),
    "GGUF": (b"GGUF\x03\x00\x00\x00\x00", "is a GGUF file; give the config.json of the model"),
    "safetensors": (b'\x40\x00\x00\x00\x00\x00\x00\x00{"w":{"dtype":"F32","shape":[1]}}', "holds weights"),
    "a packed file": (b"PK\x03\x04\x14\x00", "holds weights"),
    "nothing": (b"  \n", "is empty; download it again"),
    "half a file": (b'{"num_hidden_layers": 2,', "is not JSON (Expecting"),
    "brackets": (b"[" * 100_000, "is not JSON (its numbers or brackets are too many)"),
    "a list": (b"[1, 2]", "holds no object"),
    "bytes": (b"{\xff\xfe}", "is no text"),
    "an adapter": (
        b'{"peft_type": "LORA", "base_model_name_or_path": "Qwen/Qwen3-8B"}',
        "is of an adapter, which keeps no cache of its own; give the config.json of Qwen/Qwen3-8B",
    ),
    "a tokenizer": (
        b'{"tokenizer_class": "GPT2Tokenizer"}',
        "is of a tokenizer; give the config.json beside it",
    ),
    "a diffusion pipeline": (b'{"_class_name": "FluxPipeline"}', "is of a diffusion pipeline"),
    "Mistral's own": (b'{"dim": 4096, "n_layers": 32, "n_kv_heads": 8}', "is in Mistral's own format"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_configuration_says_what_it_is_and_what_to_give(folder, kind):
    data, words = FOREIGN[kind]
    (folder / "config.json").write_bytes(data)
    with pytest.raises(Refused) as refused:
        model_at(str(folder))
    assert words in str(refused.value) and "config.json" in str(refused.value)


def test_a_folder_without_a_configuration_says_what_it_has(folder):
    (folder / "config.json").rename(folder / "tokenizer.json")
    with pytest.raises(Refused, match=r"small has no config.json \(it has tokenizer.json\); give the folder"):
        model_at("small")
    (folder / "weights.gguf").touch()
    with pytest.raises(Refused, match=r"it has weights.gguf"):
        model_at("small")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    with pytest.raises(Refused, match=r"is of an adapter, .* of a/b"):
        model_at("small")


def test_a_name_that_does_not_exist_names_the_nearest(folder):
    for name in ("qwen3-8", "Qwen/Qwen3-8C", "deepseek-v3.3"):
        with pytest.raises(Refused, match=r"unknown model .*; did you mean .*, or give a config.json"):
            model_at(name)
    with pytest.raises(FileNotFoundError):
        model_at("none/config.json")
