"""What goes to a chat server: the dialogue so far, in the form that every OpenAI-compatible server takes.

Pure functions of JSON values. What a server or a model did well passes unchanged."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from kv_cache_rl.adapters.wire import MAX_NAME, unused

UNREADABLE = "unreadable"
"""The key under which arguments that are no JSON object go back to the server."""
NOT_SENT_BACK = ("refusal", "annotations", "audio", "function_call", "tool_calls", "content", "role")
"""Fields of a reply that strict servers refuse in a request, and the three that are written anew."""


def history(messages: Iterable[Any]) -> list[Any]:
    """The messages in the one form that every OpenAI-compatible server takes.

    Assistant turns have `content`, null beside calls and text otherwise, and no empty `tool_calls`. Calls
    have names of the allowed characters, ids that are unique in the dialogue, and arguments that are the
    text of a JSON object. Tool results follow the ids of their calls. What is in that form already stays."""
    seen: set[str] = set()
    waiting: list[tuple[Any, str]] = []
    sent = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if role == "assistant":
            message = assistant_turn(message, seen)
            waiting = [(call.pop("was"), call["id"]) for call in message.get("tool_calls", ())]
        elif role == "tool":
            message = tool_result(message, waiting)
        sent.append(message)
    return sent


def assistant_turn(message: dict, seen: set[str]) -> dict:
    """One past reply as a request holds it; each call has the id it came with under `was`."""
    calls, content = message.get("tool_calls"), message.get("content")
    calls = calls if isinstance(calls, list) else []
    more = {key: value for key, value in message.items() if value is not None and key not in NOT_SENT_BACK}
    if not calls:
        return {"role": "assistant", "content": content or message.get("refusal") or "", **more}
    asked = [past_call(call, seen) for call in calls]
    return {"role": "assistant", "content": content or None, **more, "tool_calls": asked}


def past_call(call: dict, seen: set[str]) -> dict:
    function = call.get("function") or {}
    name = allowed_name(function.get("name"))
    arguments = object_text(function.get("arguments"))
    was = call.get("id")
    made = {"id": unused(was, seen), "type": "function", "function": {"name": name, "arguments": arguments}}
    return {**made, "was": was}


def allowed_name(name: Any) -> str:
    """The function's name with other characters replaced, as OpenAI's schema of requests asks for."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", str(name or ""))[:MAX_NAME] or "unknown"


def object_text(arguments: Any) -> str:
    """The text of a JSON object: the arguments themselves, or an object that says what they were."""
    if isinstance(arguments, dict):
        return json.dumps(arguments)
    text = arguments if isinstance(arguments, str) else ""
    if not text.strip():
        return "{}"
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError:
        value = None
    return text if isinstance(value, dict) else json.dumps({UNREADABLE: text[:200]})


def tool_result(message: dict, waiting: list[tuple[Any, str]]) -> dict:
    """A tool message under the id that its call goes out with."""
    given = message.get("tool_call_id")
    position = next((k for k, (was, _) in enumerate(waiting) if was == given), None)
    if position is not None:
        message = {**message, "tool_call_id": waiting.pop(position)[1]}
    if "name" in message:
        message = {**message, "name": allowed_name(message["name"])}
    return message


def one_by_one(messages: Iterable[Any]) -> Iterator[Any]:
    """The messages with each call of a past turn, and its result, as turns of their own.

    Some templates, such as Llama 3.1's, write one call a turn and refuse more.
    """
    waiting: list[dict] = []
    for message in messages:
        calls = message.get("tool_calls") if isinstance(message, dict) else None
        if isinstance(calls, list) and len(calls) > 1:
            waiting = [{"role": "assistant", "content": None, "tool_calls": [call]} for call in calls]
            waiting[0] = {**message, "tool_calls": calls[:1]}
        elif waiting and message.get("role") == "tool":
            yield waiting.pop(0)
            yield message
        else:
            yield message
