"""Where a continuation ends: one stop or several, for everything that generates."""

import numpy as np
import pytest
import torch
from decoders import decoder, log_probability, prompt
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.paged.checkpoint import CheckpointError, read_eos, write_checkpoint
from kv_cache_rl.paged.decoding import Beam, beam, greedy, sample
from kv_cache_rl.paged.ending import ending_of
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.scheduler import Scheduler

COUNT = 30


def scheduled(model, start, **stops):
    """The output of the only request of a scheduler."""
    scheduler = Scheduler(model, model.new_cache(40, 4))
    request = scheduler.add(start, COUNT, **stops)
    scheduler.run()
    scheduler.clear()
    scheduler.check()
    return request.output


def alone(model, start, **stops):
    cache = model.new_cache(40, 4)
    found = greedy(model, cache, start, COUNT, **stops)
    cache.check()
    assert cache.pool.used == 0
    return found


def drawn(model, start, **stops):
    cache = model.new_cache(120, 4)
    (found, _, _) = sample(model, cache, start, 3, COUNT, 5, **stops)
    cache.check()
    assert cache.pool.used == 0
    return found


def narrowest(model, start, **stops):
    """A beam of one; by score alone it is greedy, because no longer beam can outrank a finished one."""
    cache = model.new_cache(120, 4)
    found = beam(model, cache, start, 1, COUNT, length_penalty=0, **stops)[0].tokens
    cache.check()
    assert cache.pool.used == 0
    return found


WAYS = {"greedy": alone, "sample": drawn, "beam": narrowest, "scheduler": scheduled}


def cut(tokens, stops):
    """The tokens up to the first stop, which is kept."""
    ends = [at for at, token in enumerate(tokens) if token in stops]
    return tokens[: ends[0] + 1] if ends else tokens


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "form", [list, tuple, set, frozenset, iter, np.array, torch.tensor], ids=lambda form: form.__name__
)
def test_several_stops_of_any_form_end_at_the_first_of_them(way, form):
    model, start = decoder(3), [1, 2, 3]
    whole = WAYS[way](model, start)
    stops = [whole[9], whole[5]]
    assert len(whole) == COUNT
    assert WAYS[way](model, start, stop=form(stops)) == cut(whole, stops)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", [int, np.int64, torch.tensor], ids=lambda form: form.__name__)
def test_one_stop_needs_no_list(way, form):
    model, start = decoder(3), [1, 2, 3]
    whole = WAYS[way](model, start)
    assert WAYS[way](model, start, stop=form(whole[7])) == cut(whole, [whole[7]])
    assert WAYS[way](model, start, stop=[]) == WAYS[way](model, start, stop=None) == whole


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("stops", "words"),
    [
        ({"stop": "x"}, "stop 'x'; give token ids, one or several, or a text as stop_text"),
        ({"stop": b"x"}, "stop b'x'; give token ids"),
        ({"stop": {1: 2}}, "give token ids"),
        ({"stop": 1.0}, "stop 1.0 among the stop tokens; give a whole number"),
        ({"stop": [1, "2"]}, "stop '2' among the stop tokens; give a whole number"),
        ({"stop": [1, [2]]}, "give a whole number"),
        ({"stop": True}, "stop True among the stop tokens; give a whole number"),
        ({"stop": 40}, "stop 40 is no token; give ids from 0 to 39"),
        ({"stop": [-1]}, "stop -1 is no token"),
        ({"stop_text": ""}, "stop text ''; give texts of at least one character"),
        ({"stop_text": ["a", 3]}, "stop text 3; give texts"),
        ({"stop_text": 3}, "stop text 3; give texts"),
    ],
    ids=str,
)
def test_what_is_no_stop_is_refused_before_anything_is_computed(way, stops, words):
    model = decoder(0)
    model.run = None  # nothing is computed
    with pytest.raises(RequestError, match=words.replace("(", r"\(")):
        WAYS[way](model, [1], **stops)


@pytest.mark.parametrize("way", WAYS)
def test_the_models_own_end_tokens_stop_it_unless_they_are_ignored(way):
    model, start = decoder(3), [1, 2, 3]
    whole = WAYS[way](model, start)
    ends = Decoder(model.geometry, model.weights, model.tokenizer, eos=[whole[6]])
    assert WAYS[way](ends, start) == cut(whole, [whole[6]])
    assert WAYS[way](ends, start, ignore_eos=True) == whole
    assert WAYS[way](ends, start, ignore_eos=True, stop=whole[2]) == cut(whole, [whole[2]])
    assert ends.to(torch.float64).eos == {whole[6]}


def test_a_stop_text_ends_the_output_with_the_token_that_completes_it(shipped):
    start = shipped.tokenizer.encode("anna walks to the ")
    whole = greedy(shipped, shipped.new_cache(10), start, 60)
    text = shipped.tokenizer.decode(whole)
    at = text.index(" the ", 5)
    for stop in (" the ", ["nowhere", " the "]):
        found = greedy(shipped, shipped.new_cache(10), start, 60, stop_text=stop)
        assert found == whole[: at + 5]
        assert ending_of(shipped, stop_text=stop).text(found) == text[:at]


def test_the_text_leaves_out_the_stop_token_and_what_follows_a_stop_text():
    ending = ending_of(decoder(0, vocab=256), stop=[46], stop_text=["bc", "c"])
    assert ending.text(list(b"aa.")) == "aa" and ending.reached(list(b"aa."))
    assert ending.text(list(b"a.abc")) == "a.a" and ending.reached(list(b"abc"))
    assert ending.text(list(b"ab")) == "ab" and not ending.reached(list(b"ab"))


@given(
    length=st.integers(1, 20),
    samples=st.integers(1, 6),
    stops=st.lists(st.integers(0, 39), max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_samples_are_those_without_stops_cut_at_their_first_one(length, samples, stops, seed):
    model = decoder(seed % 5)
    cache, start = model.new_cache(400, 4), prompt(model, length, seed)
    whole = sample(model, cache, start, samples, 12, seed)
    held = []
    found = sample(
        model, cache, start, samples, 12, seed, after_step=lambda now: held.append(len(now)), stop=stops
    )
    assert found == [cut(tokens, stops) for tokens in whole]
    # Those that ended are not computed any further.
    assert held[1:] == [sum(len(tokens) > step for tokens in found) for step in range(1, len(held))]
    cache.check()
    assert cache.pool.used == 0


def ranked(beams, penalty, width):
    return sorted(beams, key=lambda b: -b[1] / len(b[0]) ** penalty)[:width]


@pytest.mark.parametrize("penalty", [1.0, 0.0, 0.6, 2.0, -1.0])
@pytest.mark.parametrize("stops", [[0], [0, 3, 7], list(range(9))])
def test_beams_that_end_are_those_of_a_search_that_goes_to_the_last_token(penalty, stops):
    """The same rule without a cache, and without stopping early."""
    model, width, start, count = decoder(2, vocab=12, scale=4.0), 3, [3, 1, 4], 7
    exact = model.to(torch.float64)
    running, finished = [([], 0.0)], []
    for step in range(count):
        longer = []
        for tokens, score in running:
            gains = exact.dense_logits(start + tokens)[-1].log_softmax(-1)
            longer += [([*tokens, token], score + float(gain)) for token, gain in enumerate(gains)]
        longer.sort(key=lambda item: -item[1])
        finished += [b for b in longer[:width] if b[0][-1] in stops]
        running = [b for b in longer if b[0][-1] not in stops][:width]
        if step == count - 1:
            finished += running
    cache = model.new_cache(80, 4)
    found = beam(model, cache, start, width, count, stop=stops, length_penalty=penalty)
    assert [b.tokens for b in found] == [tokens for tokens, _ in ranked(finished, penalty, width)]
    for b in found:
        assert b.ended == (b.tokens[-1] in stops)
        assert b.score == pytest.approx(log_probability(model, start, b.tokens), abs=1e-4)
        assert b.rank(penalty) == pytest.approx(b.score / len(b.tokens) ** penalty)
    cache.check()
    assert cache.pool.used == 0


def test_a_search_ends_as_soon_as_no_beam_can_outrank_the_finished_ones():
    model, steps = decoder(2, vocab=12, scale=4.0), []
    stops = list(range(11))
    found = beam(
        model, model.new_cache(400, 4), [3, 1, 4], 2, 200, lambda held: steps.append(0), stop=stops,
        length_penalty=0.0,
    )  # fmt: skip
    assert all(b.ended for b in found) and len(steps) < 50


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
@pytest.mark.parametrize("width", [2, 4])
def test_beams_are_those_of_transformers(tmp_path, penalty, width):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: no independent beam search to compare with"
    )
    ours = decoder(1, vocab=20, scale=5.0, tied=False)
    write_checkpoint(tmp_path, ours.geometry, ours.weights, torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    start, stops = [1, 2, 3, 4], [0, 5, 9]
    with torch.no_grad():
        found = theirs.generate(
            torch.tensor([start]), num_beams=width, num_return_sequences=width, max_new_tokens=10,
            do_sample=False, early_stopping="never", length_penalty=penalty, eos_token_id=stops,
            pad_token_id=19, bos_token_id=None, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    wanted = [cut(row, stops) for row in found.sequences[:, len(start) :].tolist()]
    got = beam(ours, ours.new_cache(80, 4), start, width, 10, stop=stops, length_penalty=penalty)
    assert [b.tokens for b in got] == wanted
    assert [b.rank(penalty) for b in got] == pytest.approx(found.sequences_scores.tolist(), abs=1e-3)


@pytest.mark.parametrize("penalty", [float("nan"), float("inf"), 11, "x", None, True])
def test_a_length_penalty_is_a_number_between_its_bounds(penalty):
    model = decoder(0)
    with pytest.raises(RequestError, match=r"a length penalty of .*; give a number"):
        beam(model, model.new_cache(9), [1], 2, 3, length_penalty=penalty)


def test_longer_beams_rank_higher_by_their_mean():
    short, long = Beam([1], -1.0), Beam([1, 2, 3], -2.0)
    assert long.rank() > short.rank() and long.rank(0) < short.rank(0)


@pytest.fixture
def folder(tmp_path):
    model = decoder(0, tied=False)
    write_checkpoint(tmp_path, model.geometry, model.weights, torch.float32)
    return tmp_path


def with_eos(folder, config=None, generation=None):
    """The checkpoint with these `eos_token_id`, as JSON; None: the key or the file is absent."""
    text = (folder / "config.json").read_text()
    if config is not None:
        (folder / "config.json").write_text(text.replace("{", '{"eos_token_id": ' + config + ",", 1))
    if generation is not None:
        (folder / "generation_config.json").write_text('{"eos_token_id": ' + generation + "}")
    return folder


@pytest.mark.parametrize(
    ("config", "generation", "eos"),
    [
        (None, None, set()),
        ("2", None, {2}),
        ("[2, 5]", None, {2, 5}),
        ("2", "[7, 9]", {7, 9}),
        ("2", "7", {7}),
        ("2", "null", {2}),
        (None, "7", {7}),
        ("null", None, set()),
        ("-1", None, set()),
        ("[3, 50000]", None, {3}),
    ],
)
def test_end_tokens_are_read_from_either_file_one_or_a_list(folder, config, generation, eos):
    assert Decoder.load(with_eos(folder, config, generation)).eos == eos


@pytest.mark.parametrize("wrong", ['"2"', "2.0", "true", '{"a": 1}', '["2"]', "[true]"])
@pytest.mark.parametrize("name", ["config", "generation"])
def test_an_end_token_of_another_kind_is_named(folder, name, wrong):
    with pytest.raises(CheckpointError, match=rf"{name}.*json: eos_token_id is .*, not an id or a list"):
        read_eos(with_eos(folder, **{name: wrong}), 40)


def test_a_broken_generation_config_is_named(folder):
    (folder / "generation_config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: holds a list, not an object"):
        Decoder.load(folder)
