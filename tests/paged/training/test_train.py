"""The shipped weights are those of their record, beat letter frequencies, and use their past."""

import json
import re
from random import Random

import pytest
import torch
from torch.nn.functional import cross_entropy

from kv_cache_rl.paged.checkpoint import SHIPPED
from kv_cache_rl.paged.decoding import greedy
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.training import corpus, train


@pytest.fixture(scope="module")
def record():
    """training.json."""
    return json.loads((SHIPPED / "training.json").read_text())


def test_the_weights_fit_and_are_of_the_geometry_that_the_training_program_names(shipped):
    assert (SHIPPED / "model.safetensors").stat().st_size <= 4_000_000
    assert shipped.geometry == train.GEOMETRY


def test_the_weights_reach_the_loss_on_record_far_below_that_of_letter_frequencies(shipped, record):
    length = record["length"]
    found = train.held_out_nll(shipped, length)
    assert found == pytest.approx(record["held_out_nll_as_stored"], abs=1e-3)
    assert found == pytest.approx(record["held_out_nll"], abs=0.01), (
        "storing in 16 bits costs no more than this"
    )
    assert found < train.unigram_nll(length) / 5


def test_the_record_names_the_command_and_the_whole_loss_curve(record):
    assert record["command"].startswith("python -m kv_cache_rl.paged.train")
    steps = [point["step"] for point in record["curve"]]
    assert steps == sorted(steps) and steps[-1] * record["rows"] * record["length"] == record["tokens"]
    assert record["curve"][0]["held_out_nll"] > record["curve"][-1]["held_out_nll"] == record["held_out_nll"]


@torch.no_grad()
def test_what_stands_further_back_than_eight_bytes_helps_to_guess_the_next(shipped):
    """Otherwise its keys and values would not matter, and no measurement would tell about a cache."""
    rows = train.held_out(256)[:24]
    places = range(64, 256, 8)
    targets = torch.stack([rows[:, at + 1] for at in places], 1).flatten()
    full = shipped.dense_logits(rows[:, :-1])[:, 64:256:8]
    short = torch.stack([shipped.dense_logits(rows[:, at - 7 : at + 1])[:, -1] for at in places], 1)
    everything, little = (float(cross_entropy(logits.flatten(0, 1), targets)) for logits in (full, short))
    assert everything < 0.9 * little


def test_greedy_text_is_sentences_of_the_tales_and_not_one_over_and_over(shipped):
    prompt = shipped.tokenizer.encode(
        "greta is at the tower. jonas is at the mill. the rope lies in the cellar. "
    )
    told = shipped.tokenizer.decode(greedy(shipped, shipped.new_cache(60, 16), prompt, 400))
    sentences = [s.strip() for s in re.findall(r"[^.?\n]+[.?]", told)]
    words = set(re.findall(r"[a-z]+", " ".join(corpus.tale(Random(seed)) for seed in range(60))))
    assert len(set(sentences)) >= 5
    assert sum(set(re.findall(r"[a-z]+", s)) <= words for s in sentences) >= 0.9 * len(sentences)


@pytest.mark.parametrize("seed", range(20))
def test_every_answer_of_a_tale_follows_from_what_was_told_before(seed):
    """The books kept by reading, not by writing."""
    place, thing, number = {}, {}, {}
    for sentence in re.findall(r"[^.?]+[.?](?: [^.?]+\.)?(?<=\.)", corpus.tale(Random(seed)).strip()):
        said = sentence.strip()
        if match := re.fullmatch(r"what is the number of the (\w+)\? it is (\d{4})\.", said):
            assert number[match[1]] == match[2]
        elif match := re.fullmatch(r"where is the (\w+)\? (?:in the (\w+)|(\w+) has it)\.", said):
            assert thing[match[1]] == (match[2] or match[3])
        elif match := re.fullmatch(r"where is (\w+)\? at the (\w+)\.", said):
            assert place[match[1]] == match[2]
        for told in re.findall(r"[^.?]+\.", said):
            if match := re.fullmatch(
                r"\s?(\w+) (?:is at|walks to|runs to|goes to|returns to|hurries to) the (\w+)\.", told
            ):
                place[match[1]] = match[2]
            elif match := re.fullmatch(r"\s?the (\w+) lies in the (\w+)\.|\s?(\w+) takes the (\w+)\.", told):
                thing[match[1] or match[4]] = match[2] or match[3]
            elif match := re.fullmatch(r"\s?the number of the (\w+) is (\d{4})\.", told):
                number[match[1]] = match[2]
    assert place and thing


def test_the_same_seed_writes_the_same_text_and_another_another():
    assert corpus.text(3, 5000) == corpus.text(3, 5000) and len(corpus.text(3, 5000)) == 5000
    assert corpus.text(3, 5000) != corpus.text(4, 5000)
    assert corpus.text(3, 2000) == corpus.text(3, 5000)[:2000]


def test_training_lowers_the_loss_and_is_the_same_for_the_same_seed(capsys, monkeypatch):
    monkeypatch.setattr(train, "HELD_OUT_BYTES", 2_000)
    monkeypatch.setattr(train, "TRAIN_BYTES", 20_000)
    monkeypatch.setattr(train, "WARMUP", 2)
    first, second = (train.train(steps=6, rows=2, length=48, seed=0, log_every=3) for _ in range(2))
    assert [p["train_nll"] for p in first[1]] == [p["train_nll"] for p in second[1]]
    start = train.held_out_nll(Decoder.untrained(train.GEOMETRY, 0), 48)
    assert first[1][-1]["held_out_nll"] < start - 0.5
    assert all(torch.equal(first[0].weights[name], weight) for name, weight in second[0].weights.items())
    assert len(capsys.readouterr().out.splitlines()) == 4
