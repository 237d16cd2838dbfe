"""Bad input to the paged commands: exit code 2 and the remedy, before anything is measured."""

import subprocess
import sys

import pytest

from kv_cache_rl.paged.measure import calibrate as calibrating
from kv_cache_rl.paged.measure import figures


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--temperature", "inf", "--samples", "1"), "--temperature is inf; give a number, or leave it out"),
        (("--temperature", "0.5"), "--temperature 0.5 is of samples; give --samples, or leave it out"),
        (("--beams", "2", "--temperature", "0.5"), "give --samples, or leave it out"),
        (("--tokens", "2000000000"), "give fewer or smaller blocks, that is fewer tokens or sequences"),
        (("--tokens", "2", "--block-tokens", "2000000000"), "give fewer or smaller blocks"),
        (("--samples", "100000"), "100,000 continuations at once; give at most 1,024. Sample i of --seed S"),
        (("--beams", "1025"), "1,025 continuations at once; give at most 1,024"),
        (("--samples", "1000", "--tokens", "100000000"), "give fewer or smaller blocks"),
        (("--stop", ""), "is empty (a shell variable that is not set?)"),
        (("--stop-token", "256"), "stop 256 is no token; give ids from 0 to 255"),
        (
            ("--beams", "2", "--length-penalty", "nan"),
            "--length-penalty is nan; give a number",
        ),
        (("--seed", "99999999999999999999999"), "--seed"),
    ],
)
def test_what_generate_cannot_do_is_refused(kv, arguments, words):
    said = kv("paged", "generate", "a", *arguments)
    assert said.code == 2 and words in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a" * 60,), "60 tokens and 6 more take 17 blocks of 4, a picture shows 12 of a sequence"),
        (("",), "what follows show is empty"),
        (("a", "--plot", "x.txt"), "unknown kind of picture '.txt'"),
        (("a", "--plot", "plain.txt/x.png"), "plain.txt"),
    ],
)
def test_what_show_cannot_draw_is_refused(kv, tmp_path, arguments, words):
    (tmp_path / "plain.txt").write_text("a file, not a folder")
    said = kv("paged", "show", *arguments)
    assert said.code == 2 and words in said.err


def test_an_interrupt_says_how_far_decoding_came(kv, monkeypatch):
    from kv_cache_rl.paged.model import Decoder

    decode, steps = Decoder.decode, []

    def interrupted(self, *rest):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return decode(self, *rest)

    monkeypatch.setattr(Decoder, "decode", interrupted)
    said = kv("paged", "generate", "a", "--samples", 3, "--tokens", 20)
    assert said.code == 130 and said.out == ""
    assert "interrupted: 5 of 20 tokens of each continuation were decoded" in said.err


def test_the_largest_seed_draws_as_many_samples_as_are_asked_for(kv):
    assert kv("paged", "generate", "a", "--seed", 2**63 - 1, "--samples", 3, "--tokens", 2).code == 0


def test_a_prompt_that_is_no_text_is_refused(kv):
    said = kv("paged", "generate", "a\udcff")
    assert said.code == 2 and "the prompt is not UTF-8 text; give one without stray bytes" in said.err


@pytest.mark.parametrize("vocab", [64, 300])
def test_a_checkpoint_without_a_tokenizer_is_refused_where_bytes_do_not_fit(kv, tmp_path, vocab):
    import torch

    from kv_cache_rl.paged.checkpoint import DecoderGeometry, write_checkpoint
    from kv_cache_rl.paged.model import Decoder

    model = Decoder.untrained(DecoderGeometry("other", 1, 2, 2, 8, 16, 16, vocab), 0)
    write_checkpoint(tmp_path / "other", model.geometry, model.weights, torch.float32)
    for command in (("generate", "a"), ("demo",)):
        said = kv("paged", *command, "--model", "other")
        assert said.code == 2
        assert (
            f"other has no tokenizer.json and {vocab} tokens, bytes would need 256; put the checkpoint's"
            in said.err
        )


def test_a_broken_index_of_a_checkpoint_is_refused(kv, tmp_path):
    from kv_cache_rl.paged.checkpoint import SHIPPED

    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text((SHIPPED / "config.json").read_text())
    (tmp_path / "model/model.safetensors.index.json").write_text("{")
    said = kv("paged", "generate", "a", "--model", "model")
    assert said.code == 2 and "index.json: not JSON" in said.err


@pytest.mark.parametrize(
    "command", [("bench", "--outdir"), ("calibrate", "--out")], ids=lambda command: command[0]
)
def test_what_cannot_be_written_is_found_before_anything_is_measured(kv, tmp_path, monkeypatch, command):
    def measured(*_, **__):
        raise AssertionError("measured first")

    monkeypatch.setattr(figures, "PARTS", {"mine": measured})
    monkeypatch.setattr(calibrating, "calibrate", measured)
    (tmp_path / "plain.txt").write_text("a file, not a folder")
    name, option = command
    said = kv("paged", name, option, "plain.txt/below/it")
    assert said.code == 2 and "plain.txt is a file, not a folder; give another path" in said.err


def test_probing_leaves_what_is_there_alone(tmp_path):
    from kv_cache_rl.cli.paged.options import probe

    path = tmp_path / "below" / "it.json"
    probe(path)
    assert list(path.parent.iterdir()) == []
    path.write_text("kept")
    probe(path)
    assert path.read_text() == "kept" and len(list(path.parent.iterdir())) == 1


def test_errors_of_another_command_need_no_torch():
    code = (
        "import sys\nfrom kv_cache_rl.cli import app\n"
        "try:\n    app(['stability', 'plan', '--trace', 'nothing.csv'])\nexcept SystemExit as end:\n    "
        "code = end.code\n"
        "print(code, [name for name in sys.modules if name.startswith(('torch', 'kv_cache_rl.paged'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n" and "nothing.csv" in done.stderr
