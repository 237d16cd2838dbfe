"""What comes from a chat server: replies, bounded before anything works on them, and the refusals that some
servers send in place of one.

Pure functions of JSON values. What a server or a model did well passes unchanged."""

import json
import math
import re
from codecs import BOM_UTF8
from typing import Any, TypeGuard

from pydantic_core import from_json, to_json

from kv_cache_rl.adapters.refusals import BROKE_OFF
from kv_cache_rl.sim.eviction import MAX_CALLS_PER_STEP

MOST_CALLS = 64
"""Up to so many calls of one message are answered one by one. Of a longer message only those that can count
are kept, and one more that stands for the rest."""
MAX_ARGUMENTS, MAX_BRACKETS = 4_096, 200
"""Characters and opening brackets of a call's arguments that are still read; it needs about 20 and 1."""
MAX_NAME, MAX_ID = 64, 64
"""Source: OpenAI's API reference allows 64 characters in a function's name."""
NOT_READ = "not_read"
"""The key of arguments that stand in place of what was not read; its value says what that was."""

HEAD = ("id", "created", "model", "service_tier", "system_fingerprint")
"""Fields of a reply that name it and decide nothing."""
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
OTHER_WORDS = {
    "length": ("max_tokens", "max_length", "model_length", "length_cap"),
    "content_filter": ("content_filtered", "guardrail_intervened", "safety", "sensitive"),
}
"""What other servers write for an end, by OpenAI's word for it."""
BROKEN_OFF = ("error", "abort", "aborted", "network_error", "insufficient_system_resource")
"""Ends of a reply that the server could not finish (OpenRouter, vLLM, SGLang, Zhipu, DeepSeek)."""
MOST_TOKENS = 2**40
"""A larger count of tokens is none."""
DETAILS = ("prompt_tokens_details", "completion_tokens_details")
"""Parts of a usage that split its counts."""
ODD = "odd_counts"
"""The key of a usage under which a reply says which of its counts were none, for the episode's notes."""


STATUS_OF = (
    (r"rate_?limit|too_many_requests|resource_exhausted", 429),
    (r"overloaded|unavailable", 503),
    (r"insufficient_(quota|credits|balance|funds)", 402),
    (r"invalid_api_key|authentication|unauthorized", 401),
    (r"permission", 403),
    (r"not_found", 404),
    (r"context_length|invalid_request|invalid_argument|bad_?request", 400),
)
"""Statuses of errors that have a name and no number."""


class NoReply(Exception):
    """A body that holds no assistant message; the text says what it holds instead."""


def refusal(body: bytes) -> tuple[int, str] | None:
    """Status and words of an error that came in place of a reply, or that broke one off; None where there is
    none.

    OpenRouter sends errors so, with status 200: {"error": {"code": 429, "message": ...}}.
    """
    if b'"error"' not in body:
        return None
    try:
        raw = read(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    choices = raw.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = choice.get("error") or raw.get("error") or (raw if raw.get("object") == "error" else None)
    whole = isinstance(choice.get("message"), dict) and not choice.get("error")
    if not error or (whole and choice.get("finish_reason") not in BROKEN_OFF):
        return None
    return status_of(error), excerpt(error, 500)


def status_of(error: Any) -> int:
    """The HTTP status that an error names; 500 where it names none."""
    fields = error if isinstance(error, dict) else {}
    names = [fields.get(name) for name in ("code", "status_code", "status", "type")]
    for name in names:
        if (digits := str(name)).isdecimal() and 400 <= int(digits) < 600:
            return int(digits)
    text = " ".join(str(name) for name in names)
    return next((status for words, status in STATUS_OF if re.search(words, text, re.IGNORECASE)), 500)


def tamed(body: bytes) -> bytes:
    """The chat completion with one choice, complete fields, and calls that cost little to read.

    Text that is no valid Unicode is repaired. A body that is no JSON comes back as it is.

    Raises:
        NoReply: the body is JSON without an assistant message.
    """
    try:
        raw = read(body)
    except (ValueError, RecursionError):
        return body
    choice = first_choice(raw)
    reply = {k: v for k, v in raw.items() if v is not None and k not in HEAD} | head_of(raw)
    reply |= {"object": "chat.completion", "choices": [choice], "usage": counted(raw.get("usage"))}
    return to_json(reply, inf_nan_mode="null")


def read(body: bytes) -> Any:
    """The JSON value of a body, in which lone surrogates and broken UTF-8 become replacement characters.

    A byte order mark in front of it is passed over.
    """
    body = body.removeprefix(BOM_UTF8)
    try:
        return from_json(body)
    except ValueError:
        text = json.dumps(json.loads(body.decode(errors="replace")), ensure_ascii=False)
        return from_json(text.encode(errors="replace"))


def first_choice(raw: Any) -> dict:
    """The first choice, complete and bounded. Raises NoReply where there is none."""
    choices = raw.get("choices") if isinstance(raw, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise NoReply(f"the server answered without an assistant message: {excerpt(raw)}")
    if choice.get("finish_reason") in BROKEN_OFF:
        raise NoReply(f"{BROKE_OFF} (finish_reason {choice['finish_reason']!r})")
    message = {**message, "role": "assistant", "content": text_of(message)}
    given = message.pop("tool_calls", None)
    if calls := bounded(given):
        message["tool_calls"] = calls
    elif not any(message.get(name) for name in ("content", "reasoning_content", "reasoning")):
        refuse_other_forms({"tool_calls": given, "function_call": message.get("function_call")})
    reason = end_of(choice.get("finish_reason"))
    return {**choice, "index": 0, "message": message, "finish_reason": reason}


def end_of(reason: Any) -> str:
    """Why a reply ended, in OpenAI's words."""
    if reason in FINISH_REASONS:
        return reason
    word = str(reason).lower()
    return next((known for known, others in OTHER_WORDS.items() if word in (known, *others)), "stop")


def refuse_other_forms(fields: dict[str, Any]) -> None:
    """Raises NoReply for a reply whose calls stand in one of these fields, in a form that is not read."""
    for name, value in fields.items():
        if value:
            raise NoReply(
                f"the server answered with the field {name!r} in a form that is not read ({excerpt(value)}); "
                "it must send tool_calls, a list of calls"
            )


def head_of(raw: dict) -> dict:
    """The fields of a reply that name it, each of the kind that a client reads."""
    texts = {name: raw[name] for name in HEAD if isinstance(raw.get(name), str)}
    created = raw.get("created")
    return {"id": "chat", "model": "", **texts, "created": created if is_count(created) else 0}


def not_json(body: bytes, content_type: str) -> str | None:
    """What a body is where it is no JSON; None where it is."""
    try:
        read(body)
    except (ValueError, RecursionError):
        start = " ".join(body[:400].decode(errors="replace").split())[:80]
        return f"{content_type or 'no content type'}, {f'it begins {start!r}' if start else 'empty'}"
    return None


def excerpt(value: Any, most: int = 200) -> str:
    return to_json(value, inf_nan_mode="null").decode(errors="replace")[:most]


def text_of(message: dict) -> str | None:
    """The text of an assistant message: a string, the text of its parts, or its refusal."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        content = str(content)
    refusal = message.get("refusal")
    return content or (refusal if isinstance(refusal, str) and refusal else content)


def counted(usage: Any) -> dict | None:
    """Token counts with the three fields that a client reads, or None; what is no count is 0 or left out.

    Counts of prompt or reply that are odd stand under `ODD`.

    >>> counted({"prompt_tokens": -5, "completion_tokens": 2})["odd_counts"]
    'prompt_tokens -5'
    """
    if not isinstance(usage, dict):
        return None
    given = {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
    wrong = {name: value for name, value in given.items() if not (value is None or is_count(value))}
    odd = [f"{name} {excerpt(value)[:40]}" for name, value in wrong.items()]
    read_, wrote = (value if is_count(value) else 0 for value in given.values())
    whole = {"prompt_tokens": read_, "completion_tokens": wrote, "total_tokens": read_ + wrote}
    rest = {name: value for name, value in usage.items() if name not in (*whole, *DETAILS, "cost", ODD)}
    details = {name: only_counts(usage[name]) for name in DETAILS if isinstance(usage.get(name), dict)}
    if cached := details.get(DETAILS[0], {}).get("cached_tokens"):
        details[DETAILS[0]]["cached_tokens"] = min(cached, read_)
    cost = usage.get("cost")
    priced = {"cost": cost} if isinstance(cost, int | float) and 0 <= cost < math.inf else {}
    return rest | details | priced | whole | ({ODD: ", ".join(odd)} if odd else {})


def only_counts(values: dict) -> dict:
    """The counts among these values."""
    return {name: value for name, value in values.items() if is_count(value)}


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS


def bounded(calls: Any) -> list[dict]:
    """The calls of one message in OpenAI's form, each with an id of its own.

    Arguments that are too long or too deep become a note of what was not read. Of more than `MOST_CALLS`
    calls those that count are kept, and one that says how many more there were."""
    calls = calls if isinstance(calls, list) else []
    if len(calls) <= MOST_CALLS:
        kept = [one_call(call) for call in calls]
    else:
        kept = [one_call(call) for call in calls[: MAX_CALLS_PER_STEP + 1]]
        kept[-1]["function"]["arguments"] = json.dumps({NOT_READ: f"{len(calls) - MAX_CALLS_PER_STEP} calls"})
    seen: set[str] = set()
    for call in kept:
        call["id"] = unused(call["id"], seen)
    return kept


def one_call(call: Any) -> dict:
    call = call if isinstance(call, dict) else {}
    kind = "custom" if isinstance(call.get("custom"), dict) else "function"
    function = call.get(kind)
    function = function if isinstance(function, dict) else {}
    name, given = function.get("name"), function.get("input" if kind == "custom" else "arguments")
    function = {**function, "name": str(name or "")[:MAX_NAME] or "?", "arguments": short(given)}
    return {**call, "id": call.get("id"), "type": "function", "function": function}


def short(given: Any) -> str:
    """Arguments as text, or a note of what they were where they are too long or too deep to be read. A model
    that writes such a note itself gets it back with a blank, by which it is none."""
    text = given if isinstance(given, str) else "" if given is None else to_json(given).decode()
    text = text if not_read(text) is None else f" {text}"
    if len(text) > MAX_ARGUMENTS:
        return json.dumps({NOT_READ: f"{len(text):,} characters"})
    brackets = text.count("[") + text.count("{")
    return text if brackets <= MAX_BRACKETS else json.dumps({NOT_READ: f"{brackets:,} nested brackets"})


def not_read(arguments: str) -> str | None:
    """What arguments stand for that were not read, or None."""
    if not arguments.startswith(f'{{"{NOT_READ}": '):
        return None
    try:
        value = json.loads(arguments).get(NOT_READ)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def calls_left_out(arguments: str) -> int:
    """How many more calls a call stands for, besides itself."""
    match = re.fullmatch(r"(\d{1,9}) calls", not_read(arguments) or "")
    return int(match[1]) - 1 if match else 0


def unused(name: Any, seen: set[str]) -> str:
    """The id itself where it is text that `seen` lacks, else a new one; `seen` gets it.

    New ones have nine letters and digits: the templates of Mistral's models take no others.
    """
    found, number = name[:MAX_ID] if isinstance(name, str) else "", len(seen)
    while not found or found in seen:
        number += 1
        found = f"call{number:05}"
    seen.add(found)
    return found
