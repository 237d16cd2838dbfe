"""A chat model as an agent of the serving world.

    state as text --ask--> reply --read--> action, held for `repeat` ticks

Whatever goes wrong is counted, and the tick goes on without a decision: a reply without a call, one that is
not read, an action out of range or without a target, a call that was lost. After `LOST_IN_A_ROW` lost calls
the server counts as gone, and the rest of the episode is played without it: an episode ends in bounded time.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kv_cache_rl.agents.chat_text import SYSTEM_PROMPT, TOOL, Unread, read_calls, state_text
from kv_cache_rl.sim.serving.actions import NOTHING

LOST_IN_A_ROW = 3
NAME = "llm"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a chat server made of one call."""

    calls: tuple[tuple[str, str], ...]
    """Name and arguments, as JSON text, of each tool call."""
    text: str = ""
    read: int = 0
    """Tokens of the prompt."""
    cached: int = 0
    """Of them, from a cache."""
    written: int = 0


class Lost(Exception):
    """A call without a reply, given up; the text says why. The next may do better."""


Ask = Callable[[list[dict], list[dict]], Answer]
"""(messages, tools) -> the answer. Raises Lost; anything else ends the episode as failed."""


@dataclass(slots=True)
class Counts:
    """What became of a model's calls in one episode."""

    calls: int = 0
    """Replies that were asked for."""
    used: int = 0
    """Replies that held a readable action, with a target or not."""
    no_target: int = 0
    """Of them, those whose action had no target then."""
    no_call: int = 0
    unknown_tool: int = 0
    unreadable: int = 0
    unknown_action: int = 0
    repeat_out_of_range: int = 0
    lost: int = 0
    """Calls without a reply."""
    gone: bool = False
    """Whether the server was given up before the episode's end."""
    read: int = 0
    """Tokens, as the server counts them; the next two likewise."""
    cached: int = 0
    written: int = 0
    first_failure: str = ""
    first_loss: str = ""

    @property
    def failures(self) -> int:
        """Replies that could not be read as a decision."""
        return sum(getattr(self, kind) for kind in FAILURES)

    def to_json(self) -> dict[str, Any]:
        """All of it, and the sum of failures."""
        return asdict(self) | {"parse_failures": self.failures}


FAILURES = ("no_call", "unknown_tool", "unreadable", "unknown_action", "repeat_out_of_range")


@dataclass(slots=True)
class ChatAgent:
    """Plays one episode with a chat model; `counts` says how that went."""

    ask: Ask
    name: str = NAME
    counts: Counts = field(default_factory=Counts)
    _held: int = NOTHING
    _left: int = 0
    _pause: bool = False
    _lost_in_a_row: int = 0

    def reset(self, seed: int = 0) -> None:
        """Begins an episode; the model draws nothing from the seed."""
        self.counts, self._left, self._pause, self._lost_in_a_row = Counts(), 0, False, 0

    def act(self, observation: np.ndarray, mask: np.ndarray) -> int:
        """The model's action, the one that it holds, or nothing."""
        if self._pause:  # an action is held for the next tick, so that this one has to pass
            self._pause = False
            return NOTHING
        if self._left:
            self._left -= 1
        elif not self._decided(observation, mask):
            return NOTHING
        if self._held == NOTHING or not mask[self._held]:
            return NOTHING
        self._pause = self._left > 0
        return self._held

    def _decided(self, observation: np.ndarray, mask: np.ndarray) -> bool:
        """Whether the model gave an action to hold from now on."""
        counts = self.counts
        if counts.gone:
            return False
        counts.calls += 1
        try:
            answer = self.ask(messages_of(observation, mask), [TOOL])
        except Lost as error:
            counts.lost += 1
            counts.first_loss = counts.first_loss or str(error)[:300]
            self._lost_in_a_row += 1
            counts.gone = self._lost_in_a_row >= LOST_IN_A_ROW
            return False
        self._lost_in_a_row = 0
        counts.read += answer.read
        counts.cached += answer.cached
        counts.written += answer.written
        try:
            self._held, times = read_calls(answer.calls)
        except Unread as error:
            setattr(counts, error.kind, getattr(counts, error.kind) + 1)
            said = f"; it said {answer.text[:120]!r}" if error.kind == "no_call" and answer.text else ""
            counts.first_failure = counts.first_failure or f"{error}{said}"
            return False
        counts.used += 1
        counts.no_target += not mask[self._held]
        self._left = times - 1
        return True


def messages_of(observation: np.ndarray, mask: np.ndarray) -> list[dict]:
    """The prompt of one decision: no history, so that it stays as short for a whole episode."""
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": state_text(observation, mask)},
    ]
