"""Reads a chat dialogue back into the observations it holds, and plays a decider along them.

A chat request carries the whole dialogue, the server keeps no sessions. A decider may remember earlier observations,
so its state is a function of the dialogue: it is found again by re-playing every observation so far, or, faster, taken
from where the same dialogue stood one reply earlier. Both give the same calls, so any number of episodes may run
through one server at once.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.sim.eviction import DECIDERS, Call

Decide = Callable[[dict], Sequence[Call]]

MARK = '"visible_seq_ids"'
"""Every observation has this key; a message without it holds none."""


class DialogueError(ValueError):
    """A dialogue that cannot be answered; the text says what to send instead."""


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message whose content is a string, a list of text parts, or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def observation_text(text: str) -> str | None:
    """The observation's JSON text at the end of a message: all of it, or from the last line that opens an object."""
    text = text.rstrip()
    if not text.endswith("}") or MARK not in text:
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
            raise DialogueError(f"messages[{index}] is {type(message).__name__}; send an object with role and content")
        if message.get("role") in ("user", "tool"):
            text = observation_text(message_text(message))
            if text is not None:
                texts.append(text)
    if not texts:
        raise DialogueError(
            f"none of the {len(messages)} messages holds an observation; send the environment's JSON as a user message "
            "or as the last line of a tool message"
        )
    return texts


def read_observation(text: str) -> dict:
    """The observation as a dict. Raises DialogueError where the text is not a JSON object."""
    try:
        observation = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DialogueError(f"an observation is not valid JSON ({error}); send it exactly as the environment gave it") from None
    if not isinstance(observation, dict):
        raise DialogueError("an observation is not a JSON object; send it exactly as the environment gave it")
    return observation


def chain_keys(name: str, texts: Sequence[str]) -> list[bytes]:
    """One key per observation; key i depends on the decider and observations 0..i, so equal keys mean equal states."""
    key = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).digest()
    keys = []
    for text in texts:
        key = hashlib.blake2b(key + text.encode(errors="surrogatepass"), digest_size=16).digest()
        keys.append(key)
    return keys


@dataclass(slots=True)
class Played:
    """A dialogue up to one reply: the calls that answered it, and the decider until the dialogue moved on."""

    calls: tuple[Call, ...]
    decide: Decide | None


class Players:
    """Answers dialogues for every decider; remembers at most `capacity` replies, and re-plays what it has forgotten."""

    def __init__(self, capacity: int = 4096, deciders: Mapping[str, Callable[[], Decide]] = DECIDERS) -> None:
        self.capacity = capacity
        self.deciders = deciders
        self._played: OrderedDict[bytes, Played] = OrderedDict()

    def __len__(self) -> int:
        return len(self._played)

    def reply(self, name: str, texts: Sequence[str]) -> tuple[str, tuple[Call, ...]]:
        """A key of the dialogue and the calls with which decider `name` answers its last observation.

        Raises:
            DialogueError: an observation lacks what the decider reads.
        """
        keys = chain_keys(name, texts)
        played = self._played.get(keys[-1])
        if played is None:
            played = self._play(name, keys, texts)
            self._remember(keys[-1], played)
        return keys[-1].hex(), played.calls

    def _play(self, name: str, keys: Sequence[bytes], texts: Sequence[str]) -> Played:
        before = self._played.get(keys[-2]) if len(keys) > 1 else None
        if before is not None and before.decide is not None:
            decide, before.decide = before.decide, None
            unseen = texts[-1:]
        else:
            decide, unseen = self.deciders[name](), texts
        calls: Sequence[Call] = ()
        for text in unseen:
            observation = read_observation(text)
            try:
                calls = decide(observation)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise DialogueError(
                    f"{name} cannot read an observation ({type(error).__name__}: {error}); "
                    "send it complete, exactly as the environment gave it"
                ) from error
        return Played(tuple(calls), decide)

    def _remember(self, key: bytes, played: Played) -> None:
        self._played[key] = played
        while len(self._played) > self.capacity:
            self._played.popitem(last=False)
