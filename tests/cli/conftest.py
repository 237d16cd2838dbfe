"""The command line in this process, and a stand-in for the environment package that plays through the real
endpoint.
"""

import functools
import json
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from typer.testing import CliRunner

from kv_cache_rl.cli import app
from kv_cache_rl.experiments.eviction.sets import scenarios_from_trace
from kv_cache_rl.reports.eviction.outcome import from_report
from kv_cache_rl.sim.eviction import (
    SYSTEM_PROMPT,
    TOOLS,
    Episode,
    load_scenarios,
    parse_call,
    text_only_reply,
    tool_messages,
)


@dataclass(frozen=True)
class Said:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def kv(tmp_path, monkeypatch):
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Said:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@functools.cache
def one_client() -> openai.OpenAI:
    """A client costs as much as fifty calls: it loads the certificates of the machine."""
    return openai.OpenAI(api_key="any", max_retries=0)


class FakeEnvironment:
    """Plays the evaluation's seam one episode after the other;

    `trouble` maps (model, number) to what happens there.
    """

    def __init__(self) -> None:
        self.trouble: dict[tuple[str, int], str | BaseException] = {}
        self.before_rollout: dict[tuple[str, int], Callable[[dict], None]] = {}
        self.asked: list[dict] = []
        self.played: list[tuple[str, str]] = []

    def evaluate(
        self, *, model, base_url, api_key_var, output_dir, resume, on_rollout=None, quiet=True, **arguments
    ):
        self.asked.append(
            {"model": model, "base_url": base_url, "api_key_var": api_key_var, "resume": resume, **arguments}
        )
        source = {key: arguments[key] for key in ("difficulty", "num_examples", "seed")}
        if arguments["trace"]:
            scenarios = scenarios_from_trace(Path(arguments["trace"]), **source).scenarios
        else:
            scenarios = load_scenarios(split=arguments["split"], **source)
        saved, rows = Path(output_dir) / "saved.jsonl", []
        saved.parent.mkdir(parents=True, exist_ok=True)
        known = {}
        if resume and saved.is_file():
            known = {row["scenario_id"]: row for row in map(json.loads, saved.read_text().splitlines())}
        for number, scenario in enumerate(scenarios):
            row = known.get(scenario.id)
            if row is None:
                self.before_rollout.get((model, number), lambda row: None)({})
                trouble = self.trouble.get((model, number))
                if isinstance(trouble, BaseException):
                    raise trouble
                row = (
                    self.play(scenario, model, base_url)
                    if trouble is None
                    else self.lost(scenario, model, trouble)
                )
                if trouble is None:
                    with saved.open("a") as lines:
                        lines.write(json.dumps(row) + "\n")
            rows.append(row)
            if on_rollout is not None:
                on_rollout(row)
        return rows

    def lost(self, scenario, model, trouble) -> dict:
        row = dict.fromkeys(("reward", "normalized", "rewards", "metrics"))
        row |= {
            "scenario_id": scenario.id,
            "difficulty": scenario.difficulty,
            "split": scenario.split,
            "model": model,
        }
        return row | {"error": trouble, "log": []}

    def play(self, scenario, model, base_url) -> dict:
        self.played.append((model, scenario.id))
        episode, read, wrote = Episode(scenario), 0, 0
        messages: list = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": episode.prompt()},
        ]
        chat = one_client().with_options(base_url=base_url).chat.completions
        while not episode.done:
            reply = chat.create(model=model, messages=messages, tools=TOOLS)
            message, calls = reply.choices[0].message, reply.choices[0].message.tool_calls or []
            read, wrote = read + reply.usage.prompt_tokens, wrote + reply.usage.completion_tokens
            messages.append(message.model_dump(exclude_none=True))
            texts = episode.step([parse_call(call.function.name, call.function.arguments) for call in calls])
            prompt = None if episode.done else episode.prompt()
            for call, content in zip(calls, tool_messages(texts, prompt), strict=True):
                messages.append({"role": "tool", "tool_call_id": call.id, "content": content})
            if not calls and prompt:
                messages.append({"role": "user", "content": text_only_reply(prompt)})
        outcome = from_report(scenario, model, episode.report(), episode.log, 0.1).to_json()
        return outcome | {"model_calls": episode.t, "prompt_tokens": read, "completion_tokens": wrote}


@pytest.fixture
def environment(monkeypatch):
    fake = FakeEnvironment()
    module = types.ModuleType("kv_cache_eviction")
    module.evaluate = fake.evaluate
    monkeypatch.setitem(sys.modules, "kv_cache_eviction", module)
    return fake
