"""The paged commands: what they print, which keys they promise, when they end with 1, and files that are
pictures.
"""

import json

import pytest

from kv_cache_rl.paged.measure import checks, figures
from kv_cache_rl.paged.measure.checks import Check
from kv_cache_rl.paged.measure.figures import Figure


def test_demo_checks_every_part_on_the_real_model_and_ends_with_the_sentence(kv):
    said = kv("paged", "demo")
    assert said.code == 0, said.err
    assert said.out.rstrip().endswith("All demos completed successfully!")
    for part in checks.PARTS:
        assert part in said.out
    assert "FAILED" not in said.out


def test_demo_as_json_has_every_check_with_its_limits(kv):
    said = kv("paged", "demo", "--json", "--seed", "3").json
    assert list(said["parts"]) == list(checks.PARTS) and said["failed"] == []
    found = [check for part in said["parts"].values() for check in part]
    assert len(found) >= 15
    assert all(check["passed"] is (check["low"] <= check["value"] <= check["high"]) for check in found)


@pytest.mark.parametrize("value", [2.0, float("nan")])
def test_demo_without_a_passed_check_ends_with_one_and_without_the_sentence(kv, monkeypatch, value):
    monkeypatch.setattr(
        checks, "PARTS", {"memory": lambda model, text, seed: [Check("waste", value, 0.0, 1.0)]}
    )
    said = kv("paged", "demo")
    assert said.code == 1
    assert "All demos completed successfully!" not in said.out
    assert "FAILED" in said.out and "failed: waste" in said.err


def test_generate_goes_on_from_the_prompt_and_counts_its_blocks(kv):
    said = kv("paged", "generate", "anna walks to the ", "--tokens", "12", "--json").json
    (row,) = said["continuations"]
    assert len(row["tokens"]) == 12 and row["score"] is None
    assert said["blocks"] == said["blocks_without_sharing"] == 2
    assert (
        kv("paged", "generate", "anna walks to the ", "-n", "12").out == f"anna walks to the {row['text']}\n"
    )


def test_samples_depend_on_the_seed_alone_and_share_their_prompt(kv):
    def texts(seed):
        options = ("--samples", "3", "-n", "10", "--json", "--seed", seed)
        return kv("paged", "generate", "the number of the gate is ", *options).json

    first = texts(1)
    assert first == texts(1) and first["continuations"] != texts(2)["continuations"]
    assert first["blocks"] < first["blocks_without_sharing"]
    assert first["copies"] == 2


def test_beams_come_best_first(kv):
    rows = kv("paged", "generate", "boris is at the ", "--beams", "3", "-n", "8", "--json").json[
        "continuations"
    ]
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and max(scores) < 0
    assert len({row["text"] for row in rows}) == 3


def test_generate_says_what_the_shipped_model_knows(kv):
    assert "knows its own generated tales only" in kv("paged", "generate", "a", "-n", "2").err
    assert kv("paged", "generate", "a", "-n", "2", "--json").err == ""


def test_stops_end_every_way_to_decode_and_are_not_printed(kv):
    start = ("paged", "generate", "anna walks to the ")
    (whole,) = kv(*start, "--json").json["continuations"]
    assert whole["finish_reason"] == "length" and "." in whole["text"]
    for stops in (("--stop", "."), ("--stop-token", ord(".")), ("--stop", "no", "--stop", ".")):
        (row,) = kv(*start, *stops, "--json").json["continuations"]
        assert row["text"] == whole["text"].partition(".")[0] and row["finish_reason"] == "stop"
        assert row["tokens"] == whole["tokens"][: len(row["text"]) + 1]
        assert kv(*start, *stops).out == f"anna walks to the {row['text']}\n"
    said = kv(*start, "--samples", "3", "--stop", ".", "--json").json
    assert all("." not in row["text"] for row in said["continuations"])
    assert "3 of 3 ended at a stop" in kv(*start, "--samples", "3", "--stop", ".").err


def test_beams_of_different_lengths_are_compared_by_the_length_penalty(kv):
    start = ("paged", "generate", "boris is at the ", "--beams", "4", "--stop", ".", "-n", "30", "--json")
    for penalty in (0.0, 1.0, 2.0):
        said = kv(*start, "--length-penalty", penalty).json
        rows = said["continuations"]
        ranks = [row["score"] / len(row["tokens"]) ** penalty for row in rows]
        assert [row["rank"] for row in rows] == pytest.approx(ranks)
        assert ranks == sorted(ranks, reverse=True) and said["length_penalty"] == penalty


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint that ends with token 5 and puts BOS, token 0, before a text."""
    import torch

    from kv_cache_rl.paged.checkpoint import DecoderGeometry, write_checkpoint
    from kv_cache_rl.paged.model import Decoder

    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    model = Decoder.untrained(DecoderGeometry("other", 1, 2, 2, 8, 16, 16, 8), 0)
    model.weights["model.embed_tokens.weight"].mul_(40)
    folder = tmp_path / "other"
    write_checkpoint(folder, model.geometry, model.weights, torch.float32)
    words = {name: at for at, name in enumerate(("<s>", "a", "b", "c", "d", "e", "f", "g"))}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    library.save(str(folder / "tokenizer.json"))
    return folder


def test_a_checkpoint_is_run_on_its_own_format_and_stops_at_its_end_token(kv, checkpoint):
    ways = [(), ("--samples", 2), ("--beams", 2, "--length-penalty", 0)]
    whole = {way: kv("paged", "generate", "b c", "--model", "other", *way, "--json").json for way in ways}
    for way, said in whole.items():
        assert said["prompt_tokens"] == [0, 2, 3]
        assert {row["finish_reason"] for row in said["continuations"]} == {"length"}
        end = said["continuations"][0]["tokens"][4]
        (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 7]}))
        ended = kv("paged", "generate", "b c", "--model", "other", *way, "--json").json["continuations"]
        assert all({*row["tokens"][:-1]}.isdisjoint({end, 7}) for row in ended)
        assert any(row["finish_reason"] == "stop" for row in ended)
        on = kv("paged", "generate", "b c", "--model", "other", *way, "--ignore-eos", "--json").json
        assert on["continuations"] == said["continuations"]
        (checkpoint / "generation_config.json").unlink()
    assert "tales" not in kv("paged", "generate", "b c", "--model", "other", "-n", "2").err


def test_show_prints_the_tables_of_every_stage_and_draws_them(kv, tmp_path):
    said = kv("paged", "show", "--plot", "tables.svg")
    assert said.code == 0, said.err
    for words in ("1. prefill", "3. copy on write", "7. swap in", "b0 anna", "sample 2 (host)", "references"):
        assert words in said.out
    assert (tmp_path / "tables.svg").read_text().lstrip().startswith("<?xml")
    stages = kv("paged", "show", "--json").json["stages"]
    assert [stage["title"] for stage in stages][:2] == ["prefill", "fork"]
    assert stages[1]["rows"][2]["text"] == ["anna", " wal", "ks t", "o th", "e "]
    assert stages == kv("paged", "show", "--json").json["stages"]


def test_the_help_of_bench_names_its_parts(kv):
    from kv_cache_rl.cli.paged.bench import NAMES

    assert list(NAMES) == list(figures.PARTS)
    words = " ".join(kv("paged", "bench", "--help").out.replace("│", " ").split())
    assert f"Only these of {', '.join(NAMES)}; by comma" in words


def test_bench_writes_two_pictures_and_a_json_and_names_the_best_block_size(kv, tmp_path):
    parts = ("--part", "memory,throughput,fragmentation,gpu")
    said = kv("paged", "bench", "--fast", "--headless", "--outdir", "out", *parts, "--json").json
    assert set(said["files"]) == {"out/bench_throughput.png", "out/bench_fragmentation.png", "out/bench.json"}
    for name in ("bench_throughput.png", "bench_fragmentation.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    rates = said["data"]["throughput"]["tokens_per_second"]
    assert str(said["data"]["throughput"]["best_block"]) in rates
    by_name = {figure["name"]: figure for figure in said["figures"]}
    assert by_name["throughput: best block size"]["value"] == said["data"]["throughput"]["best_block"]
    assert by_name["memory: waste, ShareGPT-like lengths, block 16"]["met"] is True
    unmeasured = [figure for figure in said["figures"] if figure["value"] is None]
    assert unmeasured and all(figure["remark"] == "not measured on a GPU" for figure in unmeasured)
    stored = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert stored["figures"] == said["figures"] and stored["machine"]["processor"]


def test_bench_shows_every_figure_beside_its_target_and_fails_on_request_where_one_is_missed(kv, monkeypatch):
    found = [
        Figure("good", 1.0, "x", high=2.0),
        Figure("bad", 3.0, "x", high=2.0),
        Figure("range", 5.0, "%", 1.0, 9.0),
    ]
    monkeypatch.setattr(figures, "PARTS", {"mine": lambda setup: (found, {})})
    said = kv("paged", "bench", "--headless")
    assert said.code == 0
    assert "≤ 2" in said.out and "1 to 9" in said.out and "no" in said.out
    said = kv("paged", "bench", "--headless", "--check")
    assert said.code == 1 and said.err == "missed: bad\n"


def test_calibrate_writes_a_profile_that_a_replay_takes(kv, tmp_path, monkeypatch):
    from kv_cache_rl.core import calibrations

    monkeypatch.setattr(calibrations, "CALIBRATIONS", dict(calibrations.CALIBRATIONS))
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.spec.CALIBRATIONS", calibrations.CALIBRATIONS)
    monkeypatch.setattr("kv_cache_rl.paged.measure.calibrate.PREFILLS", (32, 64, 128))
    said = kv("paged", "calibrate", "--fast", "--name", "mine", "--out", "out/mine.json", "--json").json
    assert json.loads((tmp_path / "out/mine.json").read_text()) == said
    assert (
        said["name"] == "mine"
        and said["notes"]["law"]["points"] >= 4
        and said["notes"]["machine"]["processor"]
    )
    replay = (
        "hierarchy",
        "replay",
        "workload:rag_burst",
        "--tiers",
        "gpu=200KB,host=2MB",
        "--footprint",
        "int4",
        "--json",
    )
    mine, theirs = (kv(*replay, *more).json for more in (("--calibration", "out/mine.json"), ()))
    assert mine["kl"] > 0 and "kl" not in theirs
    assert mine["hit_rate"] <= theirs["hit_rate"], "scales take room"
    assert mine["quality_loss"] == pytest.approx(theirs["quality_loss"], rel=0.2), (
        "task losses stay with the literature"
    )
