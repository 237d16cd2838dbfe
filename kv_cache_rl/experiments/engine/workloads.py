"""A workload made for engines: sessions that share prefixes, and whose answers come back as prompt."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

import numpy as np

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, last_of
from kv_cache_rl.sim.hierarchy.traces.writes import decoded

BLOCK_TOKENS = 32
SYSTEMS = 4
"""System prompts, one of which each session begins with."""
LONGEST = 2400
"""Tokens after which a session ends and another takes its place."""
MOST = 100_000


@dataclass(slots=True)
class _Session:
    number: int
    tokens: int
    blocks: list[int]

    def grow(self, tokens: int, fresh: Iterator[int]) -> None:
        """More text, and a number for every block that it begins."""
        self.tokens += tokens
        while len(self.blocks) * BLOCK_TOKENS < self.tokens:
            self.blocks.append(next(fresh))


def shared_prefixes(requests: int = 400, sessions: int = 12, seed: int = 0) -> Trace:
    """Turns of sessions, the recent ones more often: a system prompt, then text and answers by turns.

    Raises:
        EngineError: a number that is none, below 1 or too large.
    """
    whole_number("requests", requests, 1, MOST, EngineError)
    whole_number("sessions", sessions, 1, MOST, EngineError)
    whole_number("seed", seed, error=EngineError)
    rng, fresh, numbers = Random(seed), count(), count()
    systems = [[next(fresh) for _ in range(6 + 2 * k)] for k in range(SYSTEMS)]
    open_now = [_begun(next(numbers), systems, rng) for _ in range(sessions)]
    rows: list[tuple[int, int, int, tuple[int, ...]]] = []
    for _ in range(requests):
        at = min(int(rng.expovariate(0.3)), sessions - 1)
        session = open_now.pop(at)
        if session.tokens > LONGEST:
            session = _begun(next(numbers), systems, rng)
        session.grow(rng.randrange(20, 160), fresh)
        prompt, answer = tuple(session.blocks), rng.randrange(4, 60)
        rows.append((session.number, session.tokens, answer, prompt))
        session.grow(answer, fresh)
        open_now.insert(0, session)
    return decoded(_trace(rows, next(fresh)))


def _begun(number: int, systems: list[list[int]], rng: Random) -> _Session:
    system = rng.choice(systems)
    return _Session(number, len(system) * BLOCK_TOKENS, list(system))


def _trace(rows: list[tuple[int, int, int, tuple[int, ...]]], blocks: int) -> Trace:
    sequence = np.unique([row[0] for row in rows], return_inverse=True)[1].reshape(-1).astype(np.int64)
    path = np.array([block for row in rows for block in row[3]], np.int64)
    return Trace(
        name="shared_prefixes",
        chained=True,
        block_tokens=BLOCK_TOKENS,
        time_s=np.arange(len(rows), dtype=np.float64),
        sequence=sequence,
        first_run=np.concatenate([[0], np.cumsum([len(row[3]) for row in rows])]).astype(np.int64),
        run_start=path,
        run_length=np.ones(len(path), np.int64),
        blocks=blocks,
        page_bytes=0,
        input_tokens=np.array([row[1] for row in rows], np.int64),
        output_tokens=np.array([row[2] for row in rows], np.int64),
        ends=last_of(sequence),
    )
