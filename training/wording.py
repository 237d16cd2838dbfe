"""What the model reads and writes: a chat template for observations, and one line for all calls of a window.

     a half84 a half80 b keep c swap77 d keep

Every row on the GPU gets its verdict in turn: its letter, and `keep` or a verb with the fill that is left
then (memory used and needed, % of the budget). So each verdict stands behind the letter of the row that it is
about. Of what lies on the CPU only what is dropped is named. `Line` knows which words may follow, so that a
decoder can be held to them; `words` writes a line, and `read` is the parser of tool calls for this format."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.adapters.dialogue import observation_text, read_observation
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import Call
from kv_cache_rl.sim.eviction.actions import LOWEST
from kv_cache_rl.sim.eviction.brief import ON_CPU, SHOWN
from kv_cache_rl.sim.eviction.observe import BITS
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

TEMPLATE = Path(__file__).with_name("template.jinja").read_text()
LETTERS = "abcdefghijklmnopqrstuvwxyz"[:SHOWN]
WORDS = {"evict": "drop", "compress": "half", "swap_to_cpu": "swap"}
"""By tool, one token each in SmolLM2's vocabulary."""
_TOOLS = {word: tool for tool, word in WORDS.items()}
KEEP = "keep"
_PIECE = re.compile(rf" ([{LETTERS}]) (?:{KEEP}|({'|'.join(_TOOLS)})(\d{{1,4}}))")
_LINE = re.compile(rf"(?:{_PIECE.pattern})*")
END = ""
"""The word that ends a line."""
_NUMBERS = re.compile(r" ([mb])(\d+)")
_ORDER = tuple(WORDS)
"""In which tools are called: what is dropped makes room for what is swapped."""


class WordingError(Refused):
    """A tokenizer or a message that this format cannot be used with; says what to do instead."""


def observed(messages: Sequence[dict]) -> dict | None:
    """The observation that the last message ends with, None where it has none."""
    text = observation_text(str(messages[-1].get("content") or "")) if messages else None
    found = None if text is None else read_observation(text)
    return found if found is not None and "cpu_free" in found else None


@dataclass(slots=True)
class _Row:
    memory: float
    """In thousandths of the budget."""
    halvings: int
    """How often it can still be compressed."""
    on_gpu: bool

    @classmethod
    def of(cls, text: str) -> "_Row":
        numbers = {name: int(value) for name, value in _NUMBERS.findall(text)}
        level = BITS.index(numbers.get("b", BITS[0]))
        return cls(numbers.get("m", 0), LOWEST - level, f" {ON_CPU}" not in text)


class Line:
    """A line in the making, and which words may follow: none that the environment would refuse, as far as the
    observation tells. Where one word alone may follow, it says nothing about who writes.
    """

    words: tuple[str, ...]
    """What may follow; nothing once `END` is written. Of letters, the last goes on to the next row."""
    again: tuple[str, ...] = ()
    """What else may become of the row that was just compressed."""

    def __init__(self, observation: dict) -> None:
        self._rows = [_Row.of(text) for text in observation["rows"]]
        self._fill: float = observation["used"] + observation["need"]
        self._cpu, self._link = observation["cpu_free"], observation["link"]
        self._calls, self._row = 0, -1
        self.words = self._letters()

    def write(self, word: str) -> None:
        """Goes on with one of `words`."""
        bare = word.strip()
        if word == END:
            self.words = ()
        elif bare in LETTERS:
            row = LETTERS.index(bare)
            self.words = self.again if row == self._row else self._verbs(row)
            self._row = row
        elif bare in _TOOLS:
            self._call(_TOOLS[bare])
            self.words = (str(max(round(self._fill / 10), 0)),)
        else:  # `keep`, or a count
            self.again = self.again if bare != KEEP else ()
            self.words = self._letters()

    def _call(self, tool: str) -> None:
        row = self._rows[self._row]
        self._calls += 1
        if tool == "compress":
            row.halvings -= 1
            row.memory /= 2
        elif tool == "swap_to_cpu":
            self._cpu -= row.memory
            self._link -= row.memory
        self._fill -= row.memory if row.on_gpu else 0
        free = self._verbs(self._row) if tool == "compress" else ()
        self.again = tuple(verb for verb in free if _TOOLS.get(verb.strip()) in ("compress", "swap_to_cpu"))

    def _verbs(self, k: int) -> tuple[str, ...]:
        row = self._rows[k]
        if not row.on_gpu:
            return (f" {WORDS['evict']}",)
        if self._calls == MAX_CALLS_PER_STEP:
            return (f" {KEEP}",)
        swaps = row.memory <= self._cpu and self._link > 0
        fits = {"evict": True, "compress": row.halvings > 0, "swap_to_cpu": swaps}
        return (f" {KEEP}", *(f" {WORDS[tool]}" for tool in WORDS if fits[tool]))

    def _letters(self) -> tuple[str, ...]:
        """The row's own again where it may get another verdict; what lies on the CPU; the next on the GPU."""
        found = [self._row] if self.again else []
        for k in range(self._row + 1, len(self._rows)):
            if self._rows[k].on_gpu:
                return tuple(f" {LETTERS[row]}" for row in (*found, k))
            if self._calls < MAX_CALLS_PER_STEP:
                found.append(k)
        return (*(f" {LETTERS[row]}" for row in found), END)


def words(calls: Sequence[Call], observation: dict) -> list[str]:
    """The calls of a window as the model writes them, the last word being `END`, without those that would be
    refused.

    Raises:
        WordingError: a call is about no row that is shown.
    """
    ids = [text.split(" ", 1)[0] for text in observation["rows"]]
    left: dict[str, list[str]] = {f" {letter}": [] for letter in LETTERS}
    for call in calls:
        if call.verb not in WORDS:
            continue
        if call.seq_id not in ids:
            raise WordingError(f"{call.verb} {call.seq_id}: no row of the observation; decide from its rows")
        left[f" {LETTERS[ids.index(call.seq_id)]}"].append(f" {WORDS[call.verb]}")
    made: list[str] = []
    now, row = Line(observation), ""
    while now.words:
        word = now.words[-1]
        if now.words[0] in left:
            for one in now.words[:-1]:
                left[one] = [verb for verb in left[one] if one != row or verb in now.again]
                if left[one]:
                    word = one
                    break
            row = word
        elif len(now.words) > 1 or word in left[row]:
            word = next((verb for verb in left[row] if verb in now.words), now.words[0])
            left[row] = left[row][left[row].index(word) + 1 :] if word in left[row] else []
        made.append(word)
        now.write(word)
    return made


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
