"""The values of a scheduler: requests, what it decides, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from kv_cache_rl.paged.ending import Ending
from kv_cache_rl.paged.residency import Page
from kv_cache_rl.paged.sequences import Sequence


@dataclass(slots=True, eq=False)
class Request:
    """A prompt, and its state in the scheduler."""

    number: int
    prompt: list[int]
    most: int
    """Tokens to generate at most."""
    ending: Ending
    generator: torch.Generator | None
    temperature: float
    sequence: Sequence
    pages: list[Page] = field(default_factory=list)
    computed: int = 0
    """Tokens with their K/V in its pages, while it does not run."""
    preemptions: int = 0
    finished: bool = False

    @property
    def output(self) -> list[int]:
        """Tokens generated so far."""
        return self.sequence.tokens[len(self.prompt) :]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the scheduler did with a request."""

    step: int
    kind: str
    """"admitted", "preempted", "resumed", "finished" or "cancelled"."""
    request: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a scheduler has done so far."""

    steps: int
    finished: int
    decoded: int
    """Tokens generated, each counted once; a prompt's tokens do not count."""
    prefilled: int
    """Prompt tokens computed for the first time."""
    reused: int
    """Prompt tokens found in pages that other requests had computed."""
    recomputed: int
    """Tokens computed again because their pages were dropped."""
    preemptions: int
    swapped_in: int
    """Pages."""
    swapped_out: int
    evictions: int
    drops: int
    seconds: float
    """Wall time inside `step`."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second."""
        return self.decoded / self.seconds if self.seconds else 0.0
