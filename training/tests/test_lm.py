"""The language model's course in small: a tiny random model goes the whole way that SmolLM2 goes."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kv_cache_rl.sim.eviction import Call, Episode, decider, load_scenarios
from kv_cache_rl.sim.eviction.calls import KEEP
from training import __main__ as command
from training import decisions, generation, models, rl, rollouts, run, sft, wording
from training.batches import (
    Tokens,
    answer_logits,
    batches,
    packed,
    prompt_ids,
    tokens_of,
    tree_of,
    weighted_loss,
)
from training.tests import tiny

VERBS = ["keep", "evict", "compress", "swap_to_cpu"]
LONG = 1024
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def rows() -> list[dict]:
    return list(decisions.make(24, 1))


def fresh(base: str) -> models.Loaded:
    return models.with_adapter(models.load_base(base), seed=0, rank=4)


def plan(base: str, examples: int = 24) -> run.Plan:
    return run.Plan(base, "sft", ["data.jsonl"], examples, 1, 1e-2, 0)


def stirred(loaded: models.Loaded) -> models.Loaded:
    """The model with an adapter that does something, as after a training."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in loaded.network.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.05)
    return loaded


def test_what_the_model_writes_is_read_back_as_the_experts_calls(rows):
    for row in rows:
        said, seen = decisions.answer_of(row)
        made = wording.read("".join(said), seen)
        asked = list(decider("learned")(seen)) or [KEEP]
        assert sorted(map(str, made)) == sorted(map(str, asked))
        assert [call.verb for call in made] == sorted((call.verb for call in made), key=VERBS.index)


SEEN = {
    "used": 950, "need": 50, "cpu_free": 150, "link": 90,
    "rows": [
        "q gen chat decode m200", "ab tool code cpu m90", "c tool code idle m101 b8", "d gen code idle m9",
    ],
}  # fmt: skip


def test_the_count_in_an_answer_ends_at_the_memory_that_is_left():
    calls = [Call("evict", "ab"), Call("compress", "q"), Call("compress", "q"), Call("swap_to_cpu", "c")]
    text = " a half90 a half85 b drop85 c swap75 d keep"
    assert "".join(wording.words(calls, SEEN)) == text and wording.read(text, SEEN) == calls
    assert "".join(wording.words([], SEEN)) == " a keep c keep d keep"
    assert wording.read(" a keep", SEEN) == [KEEP]
    assert wording.read(" l drop3", SEEN) == [Call("evict", "row-l")], (
        "the environment refuses it by that name"
    )
    for unreadable in (" a drop", "a drop3", " a drop3 and", " m keep", "keep"):
        assert wording.read(unreadable, SEEN) is None
    with pytest.raises(wording.WordingError, match="decide from its rows"):
        wording.words([Call("evict", "zz")], SEEN)


def test_a_line_offers_what_its_rows_can_still_bear():
    def offered(*said: str) -> tuple[str, ...]:
        now = wording.Line(SEEN)
        for word in said:
            assert word in now.words, said
            now.write(word)
        return now.words

    assert offered() == (" a",) and offered(" a") == (" keep", " drop", " half"), "it is too large to swap"
    assert offered(" a", " half") == ("90",)
    assert offered(" a", " half", "90") == (" a", " b", " c"), "again, what lies on the CPU, the next"
    assert offered(" a", " half", "90", " a") == (" half", " swap"), "now it fits"
    assert offered(" a", " keep", " b") == (" drop",) and offered(" a", " keep") == (" b", " c")
    assert offered(" a", " keep", " c") == (" keep", " drop", " half", " swap")
    swapped = (" a", " keep", " c", " swap", "90")
    assert offered(*swapped, " d") == (" keep", " drop", " half"), "the link is taken for this window"
    assert offered(*swapped, " d", " keep") == (wording.END,) and offered(*swapped, " d", " keep", "") == ()
    many = SEEN | {"rows": [f"{name} gen chat idle m9" for name in "abcdefghijkl"]}
    calls = [Call("compress", name) for name in "abcdefgh" for _ in range(2)] + [Call("evict", "i")]
    said = wording.words(calls, many)
    assert said.count(" half") == 16 and " drop" not in said, "a window has 16 calls"
    assert len(said) == 16 * 3 + 4 * 2 + 1


def test_the_template_shows_the_rows_by_letters_and_leaves_the_system_prompt_out(base, rows):
    words = fresh(base).tokenizer
    for row in rows[:5]:
        text = words.decode(prompt_ids(words, row["messages"][:-1]))
        seen = wording.observed(row["messages"][:-1])
        shown = text.split("<|im_end|>")[0].split("\n")[1:-1]
        assert [line.split()[-1] for line in shown] == list(wording.LETTERS[: len(seen["rows"])])
        assert f"fill{(seen['used'] + seen['need'] + 5) // 10} " in text and "KV cache" not in text


def test_an_interrupted_training_ends_with_the_same_weights(base, rows, tmp_path, monkeypatch):
    def course(folder: Path, stop: int) -> models.Loaded:
        loaded = fresh(base)
        step, steps = sft.MasterAdamW.step, iter(range(10**6))

        def stopping(self, share):
            if next(steps) == stop:
                raise KeyboardInterrupt
            return step(self, share)

        with monkeypatch.context() as patch:
            patch.setattr(sft.MasterAdamW, "step", stopping)
            sft.train(loaded, rows, plan(base), folder, lambda _: None, LONG)
        return loaded

    monkeypatch.setattr(sft, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        course(tmp_path / "stopped", 2)
    went_on, whole = course(tmp_path / "stopped", -1), course(tmp_path / "whole", -1)
    for (name, one), other in zip(
        went_on.network.named_parameters(), whole.network.parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    logged = [json.loads(line) for line in (tmp_path / "stopped/log.jsonl").read_text().splitlines()]
    assert logged[-1]["examples"] >= 24
    stored = models.load_trained(tmp_path / "stopped")
    assert stored.tokenizer.chat_template == wording.TEMPLATE


def test_what_is_learned_becomes_likelier_and_verbs_weigh_twice(base, rows):
    loaded = fresh(base)
    optimiser = sft.MasterAdamW(loaded.network.parameters(), 1e-2)
    batch = packed([tree_of([tokens_of(loaded.tokenizer, rows[0])])], loaded.tokenizer.pad_token_id)
    losses = []
    for _ in range(8):
        logits, chosen = answer_logits(loaded, batch)
        losses.append(weighted_loss(loaded.tokenizer, logits, chosen, batch["token"]))
        losses[-1].backward()
        optimiser.step(1.0)
    assert losses[-1] < 0.9 * losses[0]
    acts = [loaded.tokenizer.decode([token])[1:] in wording.WORDS.values() for token in batch["token"]]
    weights = torch.tensor([2.0 if one else 1.0 for one in acts])
    each = torch.nn.functional.cross_entropy(logits, chosen, reduction="none")
    assert 0 < sum(acts) < len(acts) and float(losses[-1]) == pytest.approx(
        float((each * weights).sum() / weights.sum()), rel=1e-5
    )


def test_answers_of_a_batch_are_those_of_each_prompt_alone(base, rows):
    loaded = stirred(fresh(base))
    before = [value.clone() for value in loaded.network.parameters()]
    prompts = [tokens_of(loaded.tokenizer, row).prompt[-40 - 7 * k :] for k, row in enumerate(rows[:5])]
    seen = [wording.observed(row["messages"][:-1]) for row in rows[:5]]
    for held in (seen, [None] * 5):
        with generation.merged(loaded):
            together = generation.generate(loaded, prompts, held, most=30)
            pairs = zip(prompts, held, strict=True)
            alone = [generation.generate(loaded, [prompt], [one], most=30)[0] for prompt, one in pairs]
            twice = generation.generate(loaded, prompts, held, most=30, draws=2)
        assert [one.tokens for one in together] == [one.tokens for one in alone]
        assert [one.tokens for one in twice] == [one.tokens for one in together for _ in range(2)]
    for value, kept in zip(loaded.network.parameters(), before, strict=True):
        assert torch.equal(value, kept), "the weights come back exactly"


def test_an_answer_is_the_likeliest_at_each_of_its_choices_and_only_there(base, rows):
    """A single pass over prompt and answer gives the chances; the answer was made choice by choice."""
    loaded = stirred(fresh(base))
    loaded.network.float()
    body, head = models.trunk(loaded)
    for row in rows[:4]:
        prompt, seen = tokens_of(loaded.tokenizer, row).prompt, wording.observed(row["messages"][:-1])
        passes = []
        hook = body.register_forward_pre_hook(lambda *_, passes=passes, **__: passes.append(1))
        (said,) = generation.generate(loaded, [prompt], [seen])
        hook.remove()
        choices = [k for k, may in enumerate(said.allowed) if len(may) > 1]
        assert len(passes) == len(choices) < len(said.tokens) and not said.cut
        with torch.inference_mode():
            logits = head(body(torch.tensor([prompt + said.tokens])).last_hidden_state[0]).float()
        for k in choices:
            open_to = logits[len(prompt) + k - 1, said.allowed[k]]
            assert open_to.max() - open_to[said.allowed[k].index(said.tokens[k])] < 1e-5


def test_an_answer_has_at_most_as_many_tokens_as_are_asked_for(base, rows):
    loaded = stirred(fresh(base))
    prompt, seen = tokens_of(loaded.tokenizer, rows[0]).prompt, wording.observed(rows[0]["messages"][:-1])
    whole, cut = (generation.generate(loaded, [prompt], [seen], most=most)[0] for most in (128, 5))
    assert cut.cut and cut.tokens == whole.tokens[:5] and cut.allowed == whole.allowed[:5]
    assert cut.calls(seen) is None


def drawn(loaded: models.Loaded, row: dict, count: int) -> list[Tokens]:
    """Different answers to an example's prompt."""
    prompt, seen = tokens_of(loaded.tokenizer, row).prompt, wording.observed(row["messages"][:-1])
    generator = torch.Generator().manual_seed(0)
    said = generation.generate(loaded, [prompt], [seen], 1.0, generator=generator, draws=count)
    answers = [Tokens(prompt, one.tokens, one.allowed) for one in said]
    assert not any(one.cut for one in said) and len({tuple(one.answer) for one in answers}) == count
    return answers


def test_an_answer_that_is_drawn_is_one_of_the_wording_and_none_of_its_calls_is_refused(base, rows):
    loaded = stirred(fresh(base))
    for rollout in rollouts.play(loaded, load_scenarios(split="eval", num_examples=2), 1.0):
        assert rollout.unreadable == 0 < rollout.calls
        assert rollout.refused / rollout.calls < 0.1, "what the view rounds"


def test_a_packed_group_gives_each_answer_the_chances_that_it_has_alone(base, rows):
    loaded = stirred(fresh(base))
    group = rl.Group(drawn(loaded, rows[0], 3), np.ones(3), np.zeros(3))
    (other,) = drawn(loaded, rows[1], 1)
    with torch.no_grad():
        found = rl.chances(loaded, packed([group.tree, tree_of([other])], loaded.tokenizer.pad_token_id))
        alone = []
        for one in [*group.answers, other]:
            logits = loaded.network(input_ids=torch.tensor([one.prompt + one.answer])).logits[0].float()
            for before, token, allowed in zip(
                logits[len(one.prompt) - 1 :], one.answer, one.allowed, strict=False
            ):
                if len(allowed) > 1:
                    alone.append(float((before[token] - torch.logsumexp(before[allowed], 0)).detach()))
    assert found.tolist() == pytest.approx(alone, abs=0.03) and len(alone) > 40


def test_the_same_rows_under_other_heads_share_what_stands_before_the_head(base, rows):
    words = fresh(base).tokenizer
    (tree,) = next(batches(words, rows, 1, 0, LONG))
    assert len(tree.branches) > 1 and tree.length <= LONG
    texts = [words.decode(tree.prompt + one.prompt) for one in tree.branches]
    assert (
        len({text.split("\nleft")[0] for text in texts})
        == 1
        < len({text.split("\nleft")[1] for text in texts})
    )
    first = tree_of([tokens_of(words, row) for row in rows[:1]])
    whole = [Tokens(first.prompt + one.prompt, one.answer, one.allowed) for one in first.branches]
    assert tree_of(whole) == first
    changed = decisions.under_another_head(rows[0], rows[3])
    seen, donor = (wording.observed(row["messages"][:-1]) for row in (changed, rows[3]))
    assert seen["need"] == donor["need"] and seen["rows"] != donor["rows"]
    asked = wording.read("".join(decisions.answer_of(changed)[0]), seen)
    assert sorted(map(str, asked)) == sorted(map(str, list(decider("learned")(seen)) or [KEEP]))


def test_an_update_makes_the_better_answer_likelier_and_the_kl_grows_from_0(base, rows, tmp_path):
    loaded = stirred(fresh(base))
    models.save(loaded, tmp_path / "adapter")
    loaded = models.load_trained(tmp_path, base)
    rl.with_reference(loaded, tmp_path)
    answers = drawn(loaded, rows[0], 2)
    group = rl.Group(answers, np.array([3, 5]), np.array([0.2, 0.6]))
    assert group.centred @ group.counts == pytest.approx(0)
    chosen = [value for name, value in loaded.network.named_parameters() if "reference" not in name]
    optimiser = sft.MasterAdamW(chosen, 1e-3)
    rows_of = packed([group.tree], loaded.tokenizer.pad_token_id)
    before = rl.chances(loaded, rows_of).detach()
    first = rl.update(loaded, optimiser, [group], 0.2, beta=0.02)
    for _ in range(3):
        last = rl.update(loaded, optimiser, [group], 0.2, beta=0.02)
    after = rl.chances(loaded, rows_of).detach()
    worse = sum(len(one) > 1 for one in answers[0].allowed)
    assert after[worse:].sum() > before[worse:].sum() and after[:worse].sum() < before[:worse].sum()
    assert first["kl"] < 1e-4 < last["kl"]


def test_rl_goes_on_where_it_was_interrupted(base, tmp_path, monkeypatch):
    monkeypatch.setattr(rl, "GROUP", 2)
    monkeypatch.setattr(rl, "generate", functools.partial(generation.generate, most=4))
    models.save(stirred(fresh(base)), tmp_path / "sft/adapter")
    scenarios = load_scenarios(split="train", num_examples=2)

    def course(episodes: int) -> list[dict]:
        loaded = models.load_trained(tmp_path / "sft", base)
        rl.with_reference(loaded, tmp_path / "sft")
        asked = run.Plan(base, "rl", [], episodes, 1, 1e-4, 0)
        rl.train(loaded, scenarios, asked, tmp_path / "rl", lambda _: None)
        return [json.loads(line) for line in (tmp_path / "rl/log.jsonl").read_text().splitlines()]

    assert [entry["episodes"] for entry in course(1)] == [1]
    log = course(2)
    assert [entry["episodes"] for entry in log] == [1, 2] and log[0]["groups"] == scenarios[0].steps


def test_a_rollout_counts_what_could_not_be_read_and_is_labelled_in_every_window(base, monkeypatch):
    monkeypatch.setattr(rollouts, "generate", functools.partial(generation.generate, most=4))
    loaded = fresh(base)
    (made,) = rollouts.play(loaded, load_scenarios(split="eval", num_examples=1))
    assert made.episode.done and made.unreadable == 15, "every answer is cut in the middle of a verdict"
    examples = made.examples()
    assert [row["window"] for row in examples] == list(range(1, 16))
    assert "No tool was called" in examples[1]["messages"][1]["content"]


def test_bad_runs_and_models_are_refused_with_the_remedy(base, rows, tmp_path):
    run.begin(tmp_path / "run", plan(base))
    with pytest.raises(run.RunError, match=r"its batch is 1, asked for is 8; give --out another folder"):
        run.begin(tmp_path / "run", run.Plan(base, "sft", ["data.jsonl"], 60, 8, 1e-2, 0))
    stored = json.loads((tmp_path / "run/run.json").read_text())
    (tmp_path / "run/run.json").write_text(json.dumps(stored | {"environment_version": 1}))
    with pytest.raises(run.RunError, match="environment version 1"):
        run.begin(tmp_path / "run", plan(base))
    with pytest.raises(models.ModelError, match="give the folder of a run"):
        models.load_trained(tmp_path)
    with pytest.raises(models.ModelError, match="cannot be loaded"):
        models.load_base(str(tmp_path / "nothing"))
    decisions.write(tmp_path / "old.jsonl", [rows[0] | {"environment_version": 1}])
    with pytest.raises(decisions.DataError, match="environment version 1"):
        decisions.load([tmp_path / "old.jsonl"])
    (tmp_path / "none.jsonl").write_text('{"messages": []}\n')
    with pytest.raises(decisions.DataError, match="no file of examples"):
        decisions.load([tmp_path / "none.jsonl"])
    words = tiny.tokenizer()
    words.chat_template = None
    words.save_pretrained(base_without := tmp_path / "without")
    models.load_base(base).network.save_pretrained(base_without)
    (base_without / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(models.ModelError, match="give an instruct model"):
        models.load_base(str(base_without))


def test_a_loss_that_is_no_number_changes_nothing_and_says_how_to_go_on(base):
    loaded = fresh(base)
    optimiser = sft.MasterAdamW(loaded.network.parameters(), 1e-3)
    for value in optimiser.trained:
        value.grad = torch.full_like(value, float("nan"))
    before = [value.clone() for value in optimiser.trained]
    with pytest.raises(Exception, match="go on from the last checkpoint with a lower --rate"):
        optimiser.step(1.0)
    assert all(torch.equal(one, kept) for one, kept in zip(optimiser.trained, before, strict=True))


def test_the_reward_of_an_answer_is_what_its_episode_earns_when_the_expert_plays_on():
    (scenario,) = load_scenarios(split="train", difficulty="hard", num_examples=1)
    episode, expert = Episode(scenario, "brief"), decider(decisions.EXPERT)
    begun: list[tuple[list, list[Call]]] = []
    while not episode.done:
        calls = list(expert(episode.observation())) or [KEEP]
        begun.append((list(episode.log), calls))
        episode.step(calls)
    earned = episode.report().normalized
    for log, calls in (begun[0], begun[7], begun[-1]):
        assert rl.finished(scenario, log, calls) == earned
    log, calls = next(one for one in begun if one[1] != [KEEP])
    assert rl.finished(scenario, log, [KEEP]) != earned


def test_a_tokenizer_that_splits_letters_is_refused(base):
    words = models.load_base(base).tokenizer
    words.encode = lambda text, **_: [1, 2]
    with pytest.raises(wording.WordingError, match="splits ' a'"):
        wording.check_tokenizer(words)


def test_the_notebook_plays_an_episode_with_an_adapter(base, tmp_path, monkeypatch, capsys):
    models.save(fresh(base), tmp_path)
    monkeypatch.setenv("KV_CACHE_RL_ADAPTER", str(tmp_path))
    notebook = json.loads((Path(__file__).parents[2] / "notebooks/training/smollm2.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    scope: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), scope)
    assert "window 15:" in capsys.readouterr().out and scope["scores"]["learned"] > scope["scores"]["keep"]


def test_a_base_is_served_as_it_comes_or_held_to_the_wording_and_answers_alike(base, monkeypatch, rows):
    served = []
    monkeypatch.setattr("training.serve.serve", lambda loaded, *_: served.append(loaded))
    for words in ([base], [base, "--held"]):
        command.app(["serve", *words], standalone_mode=False)
    free, held = served
    assert not free.trained and held.trained and held.tokenizer.chat_template == wording.TEMPLATE
    ids = torch.tensor([tokens_of(held.tokenizer, rows[0]).prompt])
    with torch.inference_mode():
        hidden = [models.trunk(one)[0](ids).last_hidden_state for one in served]
    assert torch.equal(*hidden), "a fresh adapter adds nothing"


def test_a_missing_file_is_said_at_once_and_a_folder_to_write_to_is_made(tmp_path, monkeypatch, capsys):
    def said(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["training", *words])
        with pytest.raises(SystemExit) as ended:
            command.main()
        return f"{ended.value.code} {capsys.readouterr().err}"

    assert said("sft", "--data", "none.jsonl") == "2 none.jsonl: there is no such file; check the path\n"
    made = tmp_path / "runs/lm/data.jsonl"
    assert said("data", "--examples", "2", "--out", str(made)).startswith("0 ")
    assert len(decisions.load([made])) == 2
    assert said("data", "--examples", "2", "--out", f"{made}/data.jsonl").startswith("2 ")
