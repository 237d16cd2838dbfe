"""Reads a chat dialogue back into the observations it holds, and answers the last of them.

A chat request carries the whole dialogue, the server keeps no sessions. A decider is a pure
function of what it sees, so the last observation decides, and any number of episodes may run
through one server at once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import DECIDERS, Call

MARKS = ('"visible_seq_ids"', '"rows"')
"""Every observation has one of these keys, that of its view; a message without them holds none."""


class DialogueError(Refused):
    """A dialogue that cannot be answered; the text says what to send instead."""


def tool_call(call_id: str, name: str, arguments: Mapping[str, Any]) -> dict:
    """A call as an assistant message of OpenAI's form holds it; `name` is what the client calls the tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"id": call_id, "type": "function", "function": function}


def arguments_of(call: Call) -> dict[str, str]:
    """What the tool of a call is given."""
    return {"seq_id": call.seq_id} if call.seq_id else {}


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a string, a list of text parts, or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return ""


def observation_text(text: str) -> str | None:
    """The observation's JSON text at the end of a message: all of it, or from the last line with ``{``."""
    text = text.rstrip()
    if not text.endswith("}") or not any(mark in text for mark in MARKS):
        return None
    start = text.rfind("\n{") + 1
    return text[start:] if text[start] == "{" else None


def observation_texts(messages: Sequence[Any]) -> list[str]:
    """The observations of a dialogue in order, from user and tool messages.

    Raises:
        DialogueError: a message is not an object, or no message holds an observation.
    """
    texts = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise DialogueError(
                f"messages[{index}] is {type(message).__name__}; send an object with role and content"
            )
        if message.get("role") in ("user", "tool"):
            text = observation_text(message_text(message))
            if text is not None:
                texts.append(text)
    if not texts:
        raise DialogueError(
            f"none of the {len(messages)} messages holds an observation; send the environment's JSON "
            "as a user message or as the last line of a tool message"
        )
    return texts


def read_observation(text: str) -> dict:
    """The observation as a dict. Raises DialogueError where the text is not a JSON object."""
    try:
        observation = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DialogueError(
            f"an observation is not valid JSON ({error}); send it exactly as the environment gave it"
        ) from None
    if not isinstance(observation, dict):
        raise DialogueError("an observation is not a JSON object; send it exactly as the environment gave it")
    return observation


def answer(name: str, texts: Sequence[str]) -> tuple[str, tuple[Call, ...]]:
    """A key of the dialogue, and the calls with which decider `name` answers its last observation.

    Raises:
        DialogueError: the observation lacks what the decider reads.
    """
    key = hashlib.blake2b(
        "\0".join((name, *texts)).encode(errors="surrogatepass"), digest_size=16
    ).hexdigest()
    observation = read_observation(texts[-1])
    pages = observation.get("pages")
    if isinstance(pages, dict) and pages.get("budget") == 0:
        raise DialogueError("an observation has a budget of 0 pages; send it as the environment gave it")
    try:
        return key, tuple(DECIDERS[name]()(observation))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DialogueError(
            f"{name} cannot read an observation ({type(error).__name__}: {error}); "
            "send it complete, exactly as the environment gave it"
        ) from error
