"""What the model reads and writes: a chat template for observations, and one line for all calls of a window.

    half a84 swap c80 drop b80        or        keep

Each piece is a verb, the letter of a row, and the fill (memory used and needed, % of the budget) that is left
when the call is made: so the model keeps count of how much is enough. `read` is the parser of tool calls for
this format, `line` writes it."""

import re
from collections.abc import Sequence
from pathlib import Path

from kv_cache_rl.adapters.dialogue import observation_text, read_observation
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import Call
from kv_cache_rl.sim.eviction.brief import ON_CPU, SHOWN

TEMPLATE = Path(__file__).with_name("template.jinja").read_text()
LETTERS = "abcdefghijklmnopqrstuvwxyz"[:SHOWN]
WORDS = {"evict": "drop", "compress": "half", "swap_to_cpu": "swap"}
"""By tool, one token each in SmolLM2's vocabulary."""
_TOOLS = {word: tool for tool, word in WORDS.items()}
KEEP = "keep"
_PIECE = re.compile(rf"({'|'.join(_TOOLS)}) ([{LETTERS}])(\d{{1,4}})")
_LINE = re.compile(rf"{_PIECE.pattern}(?: {_PIECE.pattern})*")
_MEMORY = re.compile(r" m(\d+)")


class WordingError(Refused):
    """A tokenizer or a message that this format cannot be used with; says what to do instead."""


def observed(messages: Sequence[dict]) -> dict | None:
    """The observation that the last message ends with, None where it has none."""
    text = observation_text(str(messages[-1].get("content") or "")) if messages else None
    found = None if text is None else read_observation(text)
    return found if found is not None and "cpu_free" in found else None


def line(calls: Sequence[Call], observation: dict) -> str:
    """The calls of a window as the model writes them.

    Raises:
        WordingError: a call is about no row that is shown.
    """
    fill = observation["used"] + observation["need"]
    rows = {text.split(" ", 1)[0]: text for text in observation["rows"]}
    letters = dict(zip(rows, LETTERS, strict=False))
    memory = {name: _memory(text) for name, text in rows.items()}
    pieces = []
    for call in calls:
        if call.verb not in WORDS:
            continue
        if call.seq_id not in rows:
            raise WordingError(f"{call.verb} {call.seq_id}: no row of the observation; decide from its rows")
        freed = memory[call.seq_id]
        if call.verb == "compress":
            freed = memory[call.seq_id] = freed / 2
        fill -= 0 if f" {ON_CPU}" in rows[call.seq_id] else freed
        pieces.append(f"{WORDS[call.verb]} {letters[call.seq_id]}{max(round(fill / 10), 0)}")
    return " ".join(pieces) or KEEP


def _memory(row: str) -> float:
    found = _MEMORY.search(row)
    return int(found[1]) if found else 0


def read(text: str, observation: dict | None) -> list[Call] | None:
    """The calls in what the model wrote; None where it is not of this format, which leaves it a text.

    A letter without a row becomes a call that the environment refuses.
    """
    text = text.strip()
    if observation is None or not (text == KEEP or _LINE.fullmatch(text)):
        return None
    ids = [row.split(" ", 1)[0] for row in observation["rows"]]
    calls = []
    for word, letter, _ in _PIECE.findall(text):
        k = LETTERS.index(letter)
        calls.append(Call(_TOOLS[word], ids[k] if k < len(ids) else f"row-{letter}"))
    return calls or [Call("keep")]


def check_tokenizer(tokenizer) -> None:
    """Raises WordingError where a letter of a row or a verb is more than one token: answers would be long."""
    split = [
        word
        for word in (*(f" {letter}" for letter in LETTERS), *(f" {word}" for word in _TOOLS))
        if len(tokenizer.encode(word, add_special_tokens=False)) != 1
    ]
    if split:
        raise WordingError(
            f"the tokenizer splits {', '.join(map(repr, split[:4]))} into several tokens; "
            "take a model whose tokenizer has them whole, such as SmolLM2 or Qwen2.5"
        )
