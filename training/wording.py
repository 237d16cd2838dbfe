"""What the model reads and writes: a chat template for observations, and one line for all calls of a window.

     a half84 a half80 b keep c swap77 d keep

Every row on the GPU gets its verdict in turn: its letter, and `keep` or a verb with the fill that is left
then (memory used and needed, % of the budget). So each verdict stands behind the letter of the row that it is
about, and the model keeps count of how much is enough. Of what lies on the CPU only what is
dropped is named. `read` is the parser of tool calls for this format, `line` writes it."""

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
_PIECE = re.compile(rf" ([{LETTERS}]) (?:{KEEP}|({'|'.join(_TOOLS)})(\d{{1,4}}))")
_LINE = re.compile(rf"(?:{_PIECE.pattern})*")
_MEMORY = re.compile(r" m(\d+)")
_ORDER = tuple(WORDS)
"""In which tools are called: what is dropped makes room for what is swapped."""


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
    verbs: dict[str, list[str]] = {text.split(" ", 1)[0]: [] for text in observation["rows"]}
    for call in calls:
        if call.verb not in WORDS:
            continue
        if call.seq_id not in verbs:
            raise WordingError(f"{call.verb} {call.seq_id}: no row of the observation; decide from its rows")
        verbs[call.seq_id].append(call.verb)
    pieces = []
    for letter, text, made in zip(LETTERS, observation["rows"], verbs.values(), strict=False):
        memory, on_gpu = _memory(text), f" {ON_CPU}" not in text
        for verb in made:
            memory /= 2 if verb == "compress" else 1
            fill -= memory if on_gpu else 0
            pieces.append(f" {letter} {WORDS[verb]}{max(round(fill / 10), 0)}")
        if on_gpu and not made:
            pieces.append(f" {letter} {KEEP}")
    return "".join(pieces)


def _memory(row: str) -> float:
    found = _MEMORY.search(row)
    return int(found[1]) if found else 0


def read(text: str, observation: dict | None) -> list[Call] | None:
    """The calls in what the model wrote; None where it is not of this format, which leaves it a text.

    A letter without a row becomes a call that the environment refuses.
    """
    if observation is None or not _LINE.fullmatch(text):
        return None
    ids = [row.split(" ", 1)[0] for row in observation["rows"]]
    calls = []
    for letter, word, _ in _PIECE.findall(text):
        k = LETTERS.index(letter)
        if word:
            calls.append(Call(_TOOLS[word], ids[k] if k < len(ids) else f"row-{letter}"))
    return sorted(calls, key=lambda call: _ORDER.index(call.verb)) or [Call("keep")]


def check_tokenizer(tokenizer) -> None:
    """Raises WordingError where a letter of a row or a verb is more than one token: answers would be long."""
    split = [
        word
        for word in (*(f" {letter}" for letter in LETTERS), *(f" {word}" for word in (*_TOOLS, KEEP)))
        if len(tokenizer.encode(word, add_special_tokens=False)) != 1
    ]
    if split:
        raise WordingError(
            f"the tokenizer splits {', '.join(map(repr, split[:4]))} into several tokens; "
            "take a model whose tokenizer has them whole, such as SmolLM2 or Qwen2.5"
        )
