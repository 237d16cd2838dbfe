"""Llama-family checkpoints in a folder: the same results as transformers, and refusals with the reason."""

import json

import pytest
import torch
from decoders import decoder, dense_greedy, prompt
from safetensors.torch import load_file, save_file

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.paged.checkpoint import SHIPPED, CheckpointError, read_geometry, write_checkpoint
from kv_cache_rl.paged.decoding import greedy
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.scheduler import Scheduler

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32, "rope_theta": 10_000.0}
FAMILIES = {
    "llama": ("LlamaForCausalLM", {}),
    "llama, tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "llama 3.1": ("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    "llama, one head for all": ("LlamaForCausalLM", {"num_key_value_heads": 1}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}),
}
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": None,
    "eos_token_id": None, "pad_token_id": 63,
}  # fmt: skip
PROMPT = torch.randint(62, (50,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def transformers():
    """The library, or a skipped test."""
    return pytest.importorskip(
        "transformers", reason="transformers is not installed: no independent decoder to compare with"
    )


def theirs(transformers, name, folder):
    """transformers' randomly initialised model, saved in shards of 20 kB; biases and norms random as well."""
    kind, change = FAMILIES[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(
        getattr(transformers, kind.replace("ForCausalLM", "Config"))(**SMALL | change)
    ).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    model.save_pretrained(folder, max_shard_size="20KB")
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sharded_checkpoint_gives_the_logits_and_the_tokens_of_transformers(transformers, name, tmp_path):
    model = theirs(transformers, name, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = Decoder.load(tmp_path)
    with torch.no_grad():
        assert (ours.dense_logits(PROMPT) - model(PROMPT[None]).logits[0]).abs().max() < 1e-4
        expected = model.generate(PROMPT[None], max_new_tokens=12, do_sample=False)[0, len(PROMPT) :].tolist()
    assert greedy(ours, ours.new_cache(20, 4), PROMPT.tolist(), 12) == expected


def test_the_shipped_weights_are_a_checkpoint_that_transformers_runs_alike(transformers, shipped):
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval()
    tokens = torch.tensor(
        shipped.tokenizer.encode("greta walks to the harbour. the number of the safe is 0917. ")
    )
    with torch.no_grad():
        assert (shipped.dense_logits(tokens) - model(tokens[None]).logits[0]).abs().max() < 1e-4


def test_the_scheduler_gives_every_request_the_tokens_of_generate_and_of_generate_batch(
    transformers, tmp_path
):
    """Theirs is continuous batching over a paged cache as well, written by others."""
    if not hasattr(transformers, "ContinuousBatchingConfig"):
        pytest.skip(
            f"transformers {transformers.__version__} has no configurable generate_batch; "
            "install 5.23 or newer"
        )
    model, ours = theirs(transformers, "llama", tmp_path), Decoder.load(tmp_path)
    scheduler = Scheduler(ours, ours.new_cache(16, 4))
    requests = [scheduler.add(PROMPT[:length].tolist(), 10) for length in (5, 12, 30, 41)]
    scheduler.run()
    assert scheduler.report().preemptions > 0
    size = transformers.ContinuousBatchingConfig(page_size=16, num_blocks=16, max_batch_tokens=128)
    settings = transformers.GenerationConfig(
        max_new_tokens=10, do_sample=False, eos_token_id=-1, pad_token_id=63
    )
    prompts = [request.prompt for request in requests]
    batch = model.generate_batch(
        prompts, generation_config=settings, continuous_batching_config=size, warmup=False
    )
    by_prompt = {tuple(answer.prompt_ids): answer.generated_tokens for answer in batch.values()}
    with torch.no_grad():
        for request in requests:
            given = torch.tensor([request.prompt])
            alone = model.generate(given, max_new_tokens=10, do_sample=False)[0, given.shape[1] :].tolist()
            assert request.output == alone == by_prompt[tuple(request.prompt)]


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of one shard."""
    model = decoder(0, tied=False)
    write_checkpoint(tmp_path, model.geometry, model.weights, torch.float32)
    return tmp_path


def test_what_is_written_is_read_back_to_the_bit(folder):
    model, again = decoder(0, tied=False), Decoder.load(folder)
    assert again.geometry == model.geometry
    assert all(torch.equal(again.weights[name], weight) for name, weight in model.weights.items())
    assert greedy(again, again.new_cache(10, 4), [1, 2], 8) == dense_greedy(model, [1, 2], 8)


def test_llama3_frequencies_survive_writing(tmp_path):
    model = decoder(0, rope_llama3=(8.0, 1.0, 4.0, 32.0))
    write_checkpoint(tmp_path, model.geometry, model.weights, torch.float32)
    tokens = prompt(model, 60)
    assert torch.equal(Decoder.load(tmp_path).dense_logits(tokens), model.dense_logits(tokens))
    assert not torch.allclose(decoder(0).dense_logits(tokens), model.dense_logits(tokens), atol=1e-3)


def test_a_checkpoint_with_missing_tensors_names_them(folder):
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.startswith("model.layers.1.mlp")]:
        del weights[name]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"model\.layers\.1\.mlp\.down_proj\.weight, .* missing of 21 tensors; download every",
    ):
        Decoder.load(folder)


def test_a_checkpoint_with_a_missing_shard_names_it(transformers, tmp_path):
    theirs(transformers, "llama", tmp_path)
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(
        CheckpointError, match=f"{shard.name} is named in model.safetensors.index.json and absent"
    ):
        Decoder.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w | {"model.norm.weight": w["model.norm.weight"].half()},
            r"tensors are of torch.float16, torch.float32; convert",
        ),
        (
            lambda w: w | {"model.norm.weight": torch.ones(7)},
            r"model.norm.weight is \[7\], config.json says \[24\]",
        ),
        (
            lambda w: w | {"model.norm.weight": torch.full((24,), torch.nan)},
            "model.norm.weight holds values that are not finite",
        ),
    ],
    ids=["mixed dtypes", "another shape", "not finite"],
)
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    with pytest.raises(CheckpointError, match=message):
        Decoder.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2'; this decoder runs llama, mistral, qwen2, qwen3"),
        (
            {"model_type": "mistral", "sliding_window": 4096},
            "sliding_window is 4096, which this decoder does not compute",
        ),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rotary scaling 'yarn'; this decoder computes default and llama3",
        ),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 KV heads evenly"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_of_another_decoder_is_refused(folder, change, message):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    with pytest.raises(CheckpointError, match=message):
        read_geometry(folder)


def test_a_folder_without_a_checkpoint_says_what_is_absent(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"no config\.json; give a folder with a Llama-family checkpoint"
    ):
        Decoder.load(tmp_path)
    write_checkpoint(tmp_path, decoder(0).geometry, decoder(0).weights, torch.float32)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*; download the shard again"):
        Decoder.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors; download the weights"):
        Decoder.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        Decoder.load(tmp_path)


def test_a_checkpoint_brings_its_own_tokenizer(folder):
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers is not installed: only bytes can be read"
    )
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "mill": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    tokenizer = Decoder.load(folder).tokenizer
    assert tokenizer.encode("a mill burns") == [0, 1, 2]
    assert tokenizer.decode([0, 1]) == "a mill"


SCALED = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
SCALED |= {"original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": "2"}, "num_hidden_layers is '2', not a whole number"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0, not a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True, not a whole number"),
        ({"num_attention_heads": None}, "'num_attention_heads' is missing"),
        ({"num_attention_heads": 0, "head_dim": None}, "heads is 0; give at least 1"),
        ({"num_key_value_heads": 0}, "kv_heads is 0; give at least 1"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not a finite number"),
        ({"rms_norm_eps": 0}, "norm_eps is 0.0; give a finite number above 0"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\], not an object"),
        ({"rope_parameters": {"rope_theta": "a"}}, "rope_theta is 'a', not a finite number"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0.0; give a finite number above 0"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta is 10+, not a finite number"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "'factor' is missing"),
        ({"rope_parameters": SCALED | {"factor": "x"}}, "factor is 'x', not a finite number"),
        ({"rope_parameters": SCALED | {"high_freq_factor": 1}}, "the first bound below the second"),
        ({"name": [1]}, r"name is \[1\], not a text"),
        ({"model_type": [1]}, r"model_type \[1\]; this decoder runs"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', not true or false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, which this decoder does not compute"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
    ],
    ids=str,
)
def test_a_field_of_another_kind_is_named(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        read_geometry(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b"[1]", "config.json: holds a list, not an object"),
        ("config.json", b"\xff\xfe\x00", "config.json: not JSON"),
        ("config.json", b"[" * 100_000, "config.json: not JSON"),
        ("model.safetensors.index.json", b"{", "index.json: not JSON"),
        ("model.safetensors.index.json", b"{}", "index.json: 'weight_map' is missing"),
        ("model.safetensors.index.json", b'{"weight_map": [1]}', r"weight_map is \[1\], not an object"),
        ("model.safetensors.index.json", b'{"weight_map": {"a": 1}}', "a is 1, not a text"),
        ("tokenizer.json", b"{", r"tokenizer\.json.*(download the tokenizer again|pip install)"),
    ],
    ids=str,
)
def test_a_broken_file_of_the_checkpoint_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        Decoder.load(folder)
