"""The controller as a decision maker, against fixed thresholds, on bursty traffic: what users miss and what
is thrown away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.experiments.workers import spread
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import act
from kv_cache_rl.sim.serving.heuristics import FUNCTIONS, HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS, agent_seed
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.serving.state import (
    ALIVE,
    CLOCK,
    ENDED,
    FINISHED,
    FORCED,
    FOUND,
    HISTORY,
    NOWHERE,
    QUEUED,
    SERVICE,
    SLA_FREE,
    STATUS,
    TERMS,
    TICK,
    TOKENS,
    VIP,
    WAITED,
    WHERE,
    new_state,
)

CONTROLLER = "stability"
THRESHOLDS = ("watermark_80", "watermark_90", "watermark_95", "lru")
"""What it is compared with: fixed marks that free, admit and shed by the same rules, and `lru`, which does
none of that ahead.
"""
TASK = "hard"


@uncounted
def note_forced(rows, noted, count, preempted):
    """Adds the tokens of the noted rows that a tick took off the GPU."""
    for i in range(count):
        row = noted[i, 0]
        if rows[row, STATUS] == QUEUED and rows[row, WHERE] == NOWHERE:
            preempted[0] += noted[i, 1]


@uncounted
def play_and_count(traffic, settings, book, rows, running, flow, which, memory, seen, mask, noted, preempted):
    """Plays an episode to its end;

    `preempted` ``[1]`` gets the tokens of KV that forced preemptions threw away.
    """
    look(traffic, settings, book, rows, running, flow, seen, mask)
    while book[ALIVE, 0]:
        action = choose(which, seen, mask, memory)
        count, forced, tick = book[SERVICE, 0], book[TERMS + FORCED, 0], book[TICK, 0]
        for i in range(count):
            noted[i, 0] = running[0, i]
            noted[i, 1] = rows[running[0, i], TOKENS]
        act(traffic, settings, book, rows, running, flow, seen, mask, action)
        if book[TICK, 0] > tick and book[TERMS + FORCED, 0] > forced:
            note_forced(rows, noted, count, preempted)


@dataclass(frozen=True, slots=True)
class Episode:
    """What an agent's users missed in one episode; shares of all requests that arrived."""

    agent: str
    seed: int
    sla_misses: float
    """Completed too late, or not at all."""
    failures: float
    """Dropped, rejected or unfinished."""
    tokens_lost: int
    """KV that was computed and is lost: history not found (or not asked for, where its user was turned away),
    and that of forced preemptions."""
    forced_preemptions: int
    score: float


@dataclass(frozen=True, slots=True)
class Bout:
    """One agent on one episode."""

    agent: str
    task: str
    seed: int


def fought(bout: Bout) -> Episode:
    """The episode of a bout."""
    state = new_state(task(bout.task), bout.seed)
    which, memory = (
        np.int64(FUNCTIONS.index(HEURISTICS[bout.agent].function_name)),
        new_memory(bout.agent, agent_seed(bout.seed)),
    )
    seen, mask = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)
    noted, preempted = np.zeros((len(state.columns.rows) + 1, 2), np.int64), np.zeros(1, np.int64)
    play_and_count(*state.columns, which, memory, seen, mask, noted, preempted)
    found, (load, settings, book, rows, *_) = report(state), state.columns
    missing = int((load[:, HISTORY] - np.maximum(rows[:, FOUND], 0)).sum())
    done = (rows[:, STATUS] == FINISHED) & (rows[:, ENDED] <= book[CLOCK, 1])
    within = done & (rows[:, WAITED] <= settings[SLA_FREE + load[:, VIP]])
    return Episode(
        agent=bout.agent,
        seed=bout.seed,
        sla_misses=1 - int(within.sum()) / max(found.arrived, 1),
        failures=(found.dropped + found.rejected + found.unfinished) / max(found.arrived, 1),
        tokens_lost=missing + int(preempted[0]),
        forced_preemptions=found.forced_preemptions,
        score=found.score,
    )


def compare(
    seeds: int = 20,
    agents: Sequence[str] = (CONTROLLER, *THRESHOLDS),
    name: str = TASK,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Episode]]:
    """Episodes by agent, the same seeds for each, in their order."""
    bouts = [Bout(agent, name, k) for agent in agents for k in SEEDS["test"][seed : seed + seeds]]
    episodes: list = [None] * len(bouts)
    for done, (index, episode) in enumerate(spread(fought, bouts, workers), start=1):
        episodes[index] = episode
        progress(done, len(bouts))
    return {agent: episodes[at * seeds : (at + 1) * seeds] for at, agent in enumerate(agents)}
