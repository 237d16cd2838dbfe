"""A serving episode that is watched: its ticks as columns, and what it comes to.

A column has its name once: ``{"tick": [1, 2, …], "reward": [0.1, 0.0, …], …}``.
"""

import functools
import time
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.playing import decider, following
from kv_cache_rl.experiments.serving.log import Tick, ticks
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import REJECTED, Crash
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.observe import RICH
from kv_cache_rl.sim.serving.score import TERM_WEIGHTS, report
from kv_cache_rl.sim.serving.spec import Scenario, task
from kv_cache_rl.sim.serving.state import State

COLUMNS = {
    "tick": "iterations of the engine so far",
    "clock_s": "simulated seconds",
    "gpu_utilization": "GPU blocks in use over all, idle caches included",
    "cpu_utilization": "CPU blocks in use over all",
    "trend": "change of the GPU's utilisation over the last five ticks",
    "free_queue": "Free requests that wait",
    "vip_queue": "VIP requests that wait",
    "active": "requests in service",
    "arrived": "requests so far",
    "completed": "requests completed so far",
    "dropped": "requests so far whose queue was full",
    "rejected": "requests rejected so far",
    "preemptions": "preemptions by the engine so far",
    "tokens": "tokens served so far: computed for the first time, or found in a cache",
    "reward": "of this tick",
    "total_reward": "of all ticks so far",
    "actions": "decisions before the tick, by number; refused ones too",
}
"""Names of what a tick logs, and what they mean."""
NUMBERS = {name: number for number, name in enumerate(ACTIONS)}
OUTCOMES = {Crash.NO: "completed", Crash.NO_BLOCK: "crashed", Crash.COLLAPSE: "collapsed"}
SLICE = 64
"""Ticks between two looks at the time."""


@functools.cache
def compiled() -> None:
    """Has the code compiled: the first time on a machine takes longer than any simulation may."""
    for _ in ticks(state := new_state(task("easy", ticks=5)), decider("lru", state)):
        report(state)


class Run:
    """An agent in charge of a server, played on in pieces.

    Args:
        plan: the oracle's, where the agent is the oracle.
    """

    def __init__(
        self, agent: str, scenario: Scenario, seed: int, limits: Limits, plan: tuple[str, ...] | None = None
    ) -> None:
        self.agent, self.limits, self.seconds, self.total = agent, limits, 0.0, 0.0
        compiled()
        self.state = new_state(scenario, seed)
        decide = decider(agent, self.state) if plan is None else following(plan, self.state)
        self.ticks = ticks(self.state, decide)

    @property
    def done(self) -> bool:
        return self.state.done

    def advance(self, count: int) -> dict[str, list]:
        """Plays so many ticks on; gives their columns.

        Raises:
            Problem: the simulation has run longer, or for more iterations, than this server allows.
        """
        columns: dict[str, list] = {name: [] for name in COLUMNS}
        while count > 0 and not self.done:
            started = time.monotonic()
            for tick in islice(self.ticks, min(count, SLICE)):
                self.note(columns, tick)
            self.seconds += time.monotonic() - started
            count -= SLICE
            self.check()
        return columns

    def check(self) -> None:
        """Raises Problem for a simulation that is too long for this server."""
        played = int(self.state.columns.book["ticks"])
        if self.seconds > self.limits.run_seconds:
            what = f"{self.agent} played {played:,} iterations in {self.limits.run_seconds:g} s"
            raise Problem(
                503, f"{what} and is not done; lower ticks", "ticks", retry_after_s=self.limits.run_seconds
            )
        if played > self.limits.rows:
            what = f"the engine ran {played:,} iterations, this server logs {self.limits.rows:,}"
            raise Problem(422, f"{what}; lower ticks", "ticks")

    def note(self, columns: dict[str, list], tick: Tick) -> None:
        """Adds a tick to the columns."""
        c = self.state.columns
        book, terms = c.book, c.terms
        past = book["past"]
        self.total += tick.reward
        values: tuple[Any, ...] = (
            tick.tick,
            tick.clock_s,
            tick.gpu_utilization,
            tick.cpu_utilization,
            int(past[5] - past[0]) / int(book["pools"][0, 0]),
            tick.free_queue,
            tick.vip_queue,
            tick.active,
            tick.arrived,
            tick.completed,
            int(terms["dropped"]),
            int(np.count_nonzero(c.rows["status"] == REJECTED)),
            int(terms["forced_preemption"]),
            int(terms["tokens_served"]),
            tick.reward,
            self.total,
            [NUMBERS[name] for name in tick.actions],
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)

    def result(self) -> dict[str, Any]:
        """What the episode has come to."""
        return outcome(self.agent, self.state)


def outcome(agent: str, state: State) -> dict[str, Any]:
    """The session's logs, the report of `serving simulate --json`, and what was played."""
    found = report(state)
    return {
        "agent": agent,
        "task": found.task,
        "session_logs": {
            "final_score": found.score,
            "crashed": bool(found.crashed),
            "ticks_run": found.ticks,
            "total_arrived": found.arrived,
            "total_completed": found.completed,
            "outcome": OUTCOMES[Crash(int(state.columns.book["crash"]))],
            "seed": found.seed,
        },
        "report": found.to_json(),
        "traffic": state.load.facts(),
        "scenario": asdict(state.scenario),
    }


def simulated(
    agent: str,
    scenario: Scenario,
    seed: int,
    limits: Limits,
    plan: tuple[str, ...] | None = None,
    logged: bool = True,
) -> dict[str, Any]:
    """One episode from its beginning to its end."""
    run = Run(agent, scenario, seed, limits, plan)
    columns = run.advance(limits.rows + SLICE)
    return {"status": "success", **run.result(), "tick_logs": columns if logged else None}


def view_of(seen: np.ndarray, mask: np.ndarray) -> dict[str, list]:
    """What a decider sees, as JSON-able values."""
    return {"observation": [float(value) for value in seen], "mask": [int(value) for value in mask]}


def facts() -> dict[str, Any]:
    """The names behind the numbers: actions, observation, columns, reward terms."""
    return {
        "actions": list(ACTIONS),
        "observation": list(RICH),
        "columns": COLUMNS,
        "reward_terms": TERM_WEIGHTS,
    }
