"""ShareGPT's conversations: texts, without arrival times and without lengths. Lengths are estimated
from the characters, as no tokenizer is asked: each answer is a request whose prompt is everything
said before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.fields import Fields, shown
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.records import read_records
from kv_cache_rl.traces.requests import Arrival, Requests, limited

CHARACTERS_PER_TOKEN = 4.0
"""Of English text. Source: OpenAI's rule of thumb for its tokenizers; other scripts have fewer."""
BESIDES = ("reasoning_content", "tool_calls", "function_call")
"""Fields of a turn, besides its text, that a model wrote."""
CALLED = {"arguments", "input", "parameters"}
"""Names of what a tool is called with."""
ANSWERS = ("gpt", "assistant", "chatgpt", "bing", "bard", "model", "chatbot", "function_call", "tool_call")
"""Names of the side that answers; a call of a tool may be a turn of its own."""


def read_sharegpt(path: str | Path) -> Iterator[Arrival]:
    """The answers of a file, conversation by conversation.

    Raises TraceError at the first bad conversation.
    """
    return sharegpt_requests(*located(path)).arrivals


def sharegpt_requests(path: str, reading: Reading) -> Requests:
    """The answers of a file in the common form, without times; a conversation is a session."""
    found = Requests(path, "sharegpt", 0, iter(()))
    found.arrivals = _answers(found, path, reading)
    found.notes.append(
        f"lengths are estimates, {CHARACTERS_PER_TOKEN:g} characters a token: no tokenizer was asked"
    )
    return found


def _answers(found: Requests, path: str, reading: Reading) -> Iterator[Arrival]:
    for number, fields in enumerate(limited(read_records(path), reading)):
        system = fields.record.get("system")
        said = len(system) / CHARACTERS_PER_TOKEN if isinstance(system, str) else 0.0
        name = "conversations" if "conversations" in fields.record else "messages"
        for at, turn in enumerate(fields.items(name)):
            inner = fields.inner(name, at, turn)
            tokens = len(_text(inner)) / CHARACTERS_PER_TOKEN
            if str(turn.get("from", turn.get("role", ""))).lower() in ANSWERS:
                if said and tokens:
                    yield Arrival(
                        fields.place,
                        None,
                        max(1, round(said)),
                        max(1, round(tokens)),
                        None,
                        f"conversation {number}",
                    )
                else:
                    found.left_out["answers that are empty or to which nothing was asked"] += 1
            said += tokens


def _text(inner: Fields) -> str:
    """All that a turn holds as one text: what was said, thought and called."""
    name = "value" if "value" in inner.record else "content"
    value: Any = inner.take(name, "")
    if not isinstance(value, str | list):
        raise inner.error(name, f"expected a text, got {shown(value)}", "write it in double quotes")
    return _words(value) + "".join(_words(inner.record.get(also)) for also in BESIDES)


def _words(value: Any) -> str:
    """The words in a text, in the parts of a text, or in calls of tools."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_words, value))
    if not isinstance(value, dict):
        return ""
    if isinstance(value.get("function"), dict):
        return _words(value["function"])
    if "name" in value and CALLED & set(value):
        given = next(value[name] for name in value if name in CALLED)
        return str(value["name"]) + (given if isinstance(given, str) else json.dumps(given or {}))
    return _words(value.get("text") or value.get("content"))
