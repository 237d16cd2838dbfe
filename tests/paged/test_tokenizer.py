"""Special tokens around a text are those that the checkpoint's files prescribe."""

import json

import pytest
import torch
from decoders import decoder

from kv_cache_rl.paged.checkpoint import CheckpointError, write_checkpoint
from kv_cache_rl.paged.measure.calibrate import calibrate
from kv_cache_rl.paged.measure.memory import beam_sharing
from kv_cache_rl.paged.measure.quality import held_out_tokens, windows
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.tokenizer import ByteTokenizer, FileTokenizer

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed: only bytes can be read")
BOS, EOS, A, MILL = 0, 1, 2, 3


def files(folder, template=None, **config):
    """A tokenizer of four words with a template; `config` is its tokenizer_config.json."""
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<s>": BOS, "</s>": EOS, "a": A, "mill": MILL, "?": 4}, unk_token="?")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.add_special_tokens(["<s>", "</s>"])
    if template:
        words.post_processor = tokenizers.processors.TemplateProcessing(
            single=template, pair=f"{template} $B", special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    words.save(str(folder / "tokenizer.json"))
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
BEFORE, BEHIND = "<s> $A", "$A </s>"


@pytest.mark.parametrize(
    ("template", "config", "ids"),
    [
        (None, {}, [A, MILL]),
        (BEFORE, {}, [BOS, A, MILL]),
        (BEHIND, {}, [A, MILL, EOS]),
        ("<s> $A </s>", {}, [BOS, A, MILL, EOS]),
        ("<s> <s> $A", {}, [BOS, BOS, A, MILL]),
        (None, {"add_bos_token": True} | NAMES, [BOS, A, MILL]),
        (None, {"add_bos_token": True, "bos_token": {"content": "<s>", "lstrip": False}}, [BOS, A, MILL]),
        (None, {"add_bos_token": False} | NAMES, [A, MILL]),
        (None, {"add_bos_token": None} | NAMES, [A, MILL]),
        (BEFORE, {"add_bos_token": True} | NAMES, [BOS, A, MILL]),
        (BEFORE, {"add_bos_token": False} | NAMES, [A, MILL]),
        (BEFORE, {"add_bos_token": None} | NAMES, [BOS, A, MILL]),
        (BEFORE, NAMES, [BOS, A, MILL]),
        (BEHIND, {"add_eos_token": False} | NAMES, [A, MILL]),
        (None, {"add_eos_token": True} | NAMES, [A, MILL, EOS]),
    ],
    ids=str,
)
def test_a_text_begins_and_ends_as_the_files_say(tmp_path, template, config, ids):
    tokenizer = FileTokenizer(files(tmp_path, template, **config))
    assert tokenizer.encode("a mill") == ids
    assert tokenizer.plain("a mill") == [A, MILL]
    assert tokenizer.decode(ids) == "a mill"


@pytest.mark.parametrize("template", [None, BEFORE, BEHIND, "<s> $A </s>", "<s> <s> $A"])
def test_a_template_is_read_as_the_library_itself_reads_it(tmp_path, template):
    path = files(tmp_path, template)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in ("a", "a mill", "mill burns a", "<s> a", ""):
        assert FileTokenizer(path).encode(text) == theirs.encode(text).ids


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"add_bos_token": True}, "add_bos_token is true and bos_token is None, no token of tokenizer.json"),
        ({"add_bos_token": True, "bos_token": "<x>"}, "bos_token is '<x>', no token of tokenizer.json"),
        ({"add_bos_token": True, "bos_token": [1]}, r"bos_token is \[1\], no token"),
        ({"add_bos_token": "yes"} | NAMES, "add_bos_token is 'yes', not true or false"),
    ],
    ids=str,
)
def test_a_bos_token_that_is_asked_for_and_unknown_is_named(tmp_path, config, words):
    with pytest.raises(CheckpointError, match=words):
        FileTokenizer(files(tmp_path, **config))


def test_a_broken_tokenizer_config_is_named(tmp_path):
    path = files(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: not JSON"):
        FileTokenizer(path)


def test_bytes_have_no_special_tokens():
    assert ByteTokenizer().opening == [] and ByteTokenizer().plain("ab") == [97, 98]


@pytest.fixture
def model(tmp_path):
    """A decoder with a tokenizer that puts BOS first."""
    made = decoder(1, vocab=16, head_dim=32)
    write_checkpoint(tmp_path, made.geometry, made.weights, torch.float32)
    files(tmp_path, BEFORE)
    return Decoder.load(tmp_path)


def test_every_window_that_is_measured_begins_with_the_special_tokens(model, monkeypatch):
    seen = []
    run = Decoder.run

    def noted(self, ids, *rest, **more):
        if ids.dim() == 2:
            seen.append(ids.clone())
        return run(self, ids, *rest, **more)

    monkeypatch.setattr(Decoder, "run", noted)
    monkeypatch.setattr("kv_cache_rl.paged.measure.calibrate.PREFILLS", (32, 64, 128))
    tokens = torch.randint(2, 16, (3 * 130,), generator=torch.Generator().manual_seed(0)).tolist()
    found = calibrate(model, tokens, "mine", "a test", 3, 130, 16, 1, 0, 4.0)
    assert found.notes["opening"] == [BOS]
    (rows,) = seen  # those of the attention errors; the others are run window by window
    assert rows.shape == (3, 130) and (rows[:, 0] == BOS).all() and (rows[:, 1:] != BOS).all()
    assert rows[:, 1:].flatten().tolist() == tokens[: 3 * 129]


def test_windows_without_special_tokens_are_the_text_itself():
    tokens = list(range(2 * 130))
    assert windows(tokens, 2, 130).flatten().tolist() == tokens
    assert windows(tokens, 2, 130, [7, 8])[1].tolist() == [7, 8, *range(128, 256)]


def test_a_measured_text_has_no_special_tokens_inside(model):
    assert BOS not in held_out_tokens(model, 50)


def test_prompts_that_are_measured_begin_with_them(model, monkeypatch):
    prompts = []
    prefill = Decoder.prefill
    monkeypatch.setattr(
        Decoder,
        "prefill",
        lambda self, cache, sequence, tokens: (
            prompts.append(tokens) or prefill(self, cache, sequence, tokens)
        ),
    )
    beam_sharing(model, [5] * 20, [(4, 3), (6, 2)], 2)
    assert prompts == [[BOS, 5, 5, 5], [BOS, 5, 5, 5, 5, 5]]
