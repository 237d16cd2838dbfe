"""Episodes that are known before they are played on a server: each action, and what it has to come to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kv_cache_rl.adapters.openenv.tasks import EVICTION, SERVING, Tasks, of_serving
from kv_cache_rl.adapters.openenv.words import log_in_words
from kv_cache_rl.adapters.playing import PLANNER
from kv_cache_rl.adapters.playing import decider as agent_of
from kv_cache_rl.agents import CANARIES as SERVING_CANARIES
from kv_cache_rl.agents.chat_text import MOST_REPEAT
from kv_cache_rl.search.serving.rollout import steps
from kv_cache_rl.sim.eviction import CANARIES, ORACLE, Episode, replay
from kv_cache_rl.sim.eviction import play as played
from kv_cache_rl.sim.eviction.deciders import decider
from kv_cache_rl.sim.eviction.scenarios import committed
from kv_cache_rl.sim.serving.actions import NOTHING
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.score import report

TICKS = 150
"""Length of the serving episodes, in nominal ticks: enough to tell the canaries from the others."""
BEST_RULE = "floor"


@dataclass(frozen=True, slots=True)
class Play:
    """One episode."""

    by: str
    reset: dict[str, Any]
    actions: list[dict[str, Any]]
    total: float
    """The sum of its rewards."""
    score: float
    """What it is judged by: the normalised score, or the server's."""


def of_eviction(by: str, task: str) -> Play:
    """A decider's episode of a scenario, that of the best known log, or of the scenario's floor."""
    scenario = (committed(task) or {})[task]
    if by == ORACLE:
        log, found = scenario.best_log, replay(scenario, scenario.best_log)
    else:
        episode = played(Episode(scenario), decider(scenario.floor_by if by == BEST_RULE else by))
        log, found = episode.log, episode.report()
    actions = [{"calls": calls} for calls in log_in_words(log)]
    return Play(by, {"task": task, "view": "full"}, actions, found.normalized, found.normalized)


def of_server(by: str, task: str) -> Play:
    """An agent's episode of a serving task, that of the oracle's plan, or of `lru` as the floor."""
    scenario, seed = of_serving(SERVING.named(task), TICKS)
    state, numbers, total = new_state(scenario, seed), [], 0.0
    for action, reward in steps(state, agent_of("lru" if by == BEST_RULE else by, state)):
        numbers.append(action)
        total += reward
    return Play(by, {"task": task, "ticks": TICKS}, in_runs(numbers), total, report(state).score)


def in_runs(numbers: list[int]) -> list[dict[str, Any]]:
    """Decisions as actions; those that do nothing one after the other are one action."""
    actions: list[dict[str, Any]] = []
    for number in numbers:
        last = actions[-1] if actions else {}
        if number == NOTHING == last.get("action") and last["repeat"] < MOST_REPEAT:
            last["repeat"] += 1
        else:
            actions.append({"action": number, "repeat": 1})
    return actions


@dataclass(frozen=True, slots=True)
class World:
    """What the grader knows of one environment."""

    tasks: Tasks
    graded: tuple[str, ...]
    """Tasks that are played to their end."""
    play: Callable[[str, str], Play]
    oracle: str
    canaries: tuple[str, ...]
    reward: tuple[float, float]
    """Smallest and largest reward of a step, as the manifest declares."""
    margin: float
    """By how much the oracle's score is above the floor's at least, over all graded tasks."""
    nothing: dict[str, Any]
    """An action that changes nothing, and one that is something else."""
    something: dict[str, Any]
    broken: tuple[dict[str, Any], ...]
    """Actions that no server may take."""


WORLDS = {
    "kv_cache_eviction_openenv": World(
        EVICTION,
        ("eviction-eval-easy-0000-v2", "eviction-eval-medium-0000-v2", "eviction-eval-hard-0000-v2"),
        of_eviction,
        ORACLE,
        CANARIES,
        (-1.0, 1.05),
        1.0,
        {"calls": "keep"},
        {"calls": ["compress a", "evict b"]},
        ({}, {"calls": 3}, {"calls": [["evict", "a"]]}, {"calls": "keep", "call": "keep"}, {"calls": None}),
    ),
    "kv_cache_serving_openenv": World(
        SERVING,
        ("serving-test-easy-30000", "serving-test-medium-30000", "serving-test-hard-30000"),
        of_server,
        PLANNER,
        SERVING_CANARIES,
        (-1000.0, 1000.0),
        0.0,
        {"action": "do_nothing"},
        {"action": "do_nothing", "repeat": 7},
        (
            {},
            {"action": "evict"},
            {"action": 18},
            {"action": -1},
            {"action": 1.5},
            {"action": 0, "repeat": 101},
        ),
    ),
}
"""Name of an environment → what the grader knows of it."""


@cache
def played_here(name: str, by: str, task: str) -> Play:
    """An environment's episode of a task by a player, as this installation plays it."""
    return WORLDS[name].play(by, task)
