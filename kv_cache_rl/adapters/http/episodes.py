"""An eviction episode as a page draws it: what lies in memory before each window, what was called and what
happened, and what it comes to.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from kv_cache_rl.adapters.dialogue import arguments_of, tool_call
from kv_cache_rl.adapters.http.errors import Problem, no_such
from kv_cache_rl.reports.eviction.page import figures, references_for
from kv_cache_rl.sim.eviction import (
    DECIDERS,
    ORACLE,
    SYSTEM_PROMPTS,
    ActionLog,
    Call,
    Episode,
    Scenario,
    replay,
    tool_messages,
)
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Phase, Place, Role, Slot, Static
from kv_cache_rl.sim.eviction.log import log_fault
from kv_cache_rl.sim.eviction.observe import BITS
from kv_cache_rl.sim.eviction.scenarios import committed
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, PLACES

Calls = Sequence[Call]


def scenario_named(name: str) -> Scenario:
    """The committed scenario of that id. Raises Problem (404) where there is none."""
    by_id = committed(name)
    if by_id is None or name not in by_id:
        if by_id:
            raise no_such("scenario", name, by_id, "scenario")
        what = f"there is no scenario {name[:60]!r}"
        raise Problem(404, f"{what}; GET /api/eviction/scenarios lists the ids", "scenario")
    return by_id[name]


def facts(scenario: Scenario) -> dict[str, Any]:
    """What may be told of a scenario before it is played."""
    return {
        "id": scenario.id,
        "difficulty": scenario.difficulty,
        "split": scenario.split,
        "source": scenario.source,
        "model": scenario.model,
        "hardware": scenario.hardware,
        "windows": scenario.steps,
        "window_s": scenario.step_ms / 1e3,
        "gpu_pages": scenario.gpu_pages,
        "budget_pages": scenario.budget_pages,
        "cpu_pages": scenario.cpu_pages,
        "sessions": len(scenario.sessions),
        "floor": scenario.floor,
        "floor_by": scenario.floor_by,
        "best": scenario.best,
    }


def memory_map(episode: Episode) -> dict[str, Any]:
    """Everything that lies in memory or waits now, as columns; names as the episode's view shows them."""
    c = episode.state.columns
    dyn, static, sessions = c.dyn, c.static, int(c.constants.sessions)
    shown = [
        k
        for k, name in enumerate(episode.shown)
        if name and (dyn[Slot.PLACE, k] != Place.NOWHERE or dyn[Slot.PHASE, k] != Phase.IDLE)
    ]
    prefixes = [one.prefix_id for one in episode.scenario.prefixes]
    roles = [role.name.lower() for role in Role]
    entries: dict[str, list] = {
        "id": [episode.shown[k] for k in shown],
        "role": [roles[static[Static.ROLE, k]] for k in shown],
        "type": [BLOCK_TYPES[dyn[Slot.KIND, k]] for k in shown],
        "phase": [Phase(int(dyn[Slot.PHASE, k])).name.lower() for k in shown],
        "place": [PLACES[dyn[Slot.PLACE, k]] for k in shown],
        "bits": [BITS[dyn[Slot.LEVEL, k]] for k in shown],
        "tokens": dyn[Slot.TOKENS, shown].tolist(),
        "pages": (dyn[Slot.PAGES, shown] / 2.0 ** dyn[Slot.LEVEL, shown]).tolist(),
        "turn": [int(dyn[Slot.TURN, k]) if k < sessions else 0 for k in shown],
        "prefix": [prefixes[p] if (p := static[Static.PREFIX, k]) >= 0 else None for k in shown],
    }
    held = c.prefixes["refs"] > 0
    (gpu, gpu_used), (cpu, cpu_used) = (c.ledger / UNITS_PER_PAGE).tolist()
    return {
        "entries": entries,
        "prefixes": {
            "id": prefixes,
            "pages": np.where(held, c.prefixes["pages"], 0).tolist(),
            "sharers": c.prefixes["refs"].tolist(),
        },
        "memory": {
            "gpu_pages": gpu,
            "gpu_used": gpu_used,
            "budget_pages": float(episode.scenario.budget_pages),
            "cpu_pages": cpu,
            "cpu_used": cpu_used,
        },
    }


def report_of(episode: Episode) -> dict[str, Any]:
    """Rewards, metrics and a diagnosis so far."""
    found = episode.report()
    return {
        "rewards": found.rewards,
        "total": found.total,
        "normalized": found.normalized,
        "metrics": found.metrics,
        "diagnosis": found.notes,
    }


def told(
    scenario: Scenario, answer: Callable[[Episode], Calls], view: str = "full", with_dialogue: bool = True
) -> dict[str, Any]:
    """An episode played from its beginning to its end, with everything that a page shows of it.

    Args:
        answer: the calls for the window at hand.
    """
    episode = Episode(scenario, view)
    windows, dialogue = [], Dialogue(episode)
    while not episode.done:
        before = memory_map(episode)
        calls = list(answer(episode))
        dialogue.answered(episode, calls)
        texts = episode.step(calls)
        dialogue.told(episode, texts)
        total = episode.report().total
        windows.append({"window": episode.t, **before, "record": episode.timeline[-1], "total": total})
    return {
        "scenario": facts(scenario),
        "windows": windows,
        "end": memory_map(episode),
        "report": report_of(episode),
        "log": episode.log,
        "dialogue": dialogue.messages if with_dialogue else None,
    }


def figures_of(scenario: Scenario, log: ActionLog) -> dict[str, str]:
    """What the report of a run draws of an episode: title -> SVG."""
    return figures(replay(scenario, log), references_for(scenario))


class Dialogue:
    """The messages that a chat model with these calls would have read and written."""

    def __init__(self, episode: Episode) -> None:
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "window": 0, "content": SYSTEM_PROMPTS[episode.view]},
            {"role": "user", "window": 1, "content": episode.prompt()},
        ]

    def answered(self, episode: Episode, calls: Calls) -> None:
        shown = [episode.named(call, shown=True) for call in calls]
        asked = [
            tool_call(f"call_{episode.t}_{k}", call.verb, arguments_of(call)) for k, call in enumerate(shown)
        ]
        message = {"role": "assistant", "window": episode.t + 1, "content": "", "tool_calls": asked}
        self.messages.append(message)

    def told(self, episode: Episode, texts: list[str]) -> None:
        prompt = None if episode.done else episode.prompt()
        for text in tool_messages(texts, prompt):
            self.messages.append({"role": "tool", "window": episode.t, "content": text})


def by_policy(name: str, scenario: Scenario) -> Callable[[Episode], Calls]:
    """The answers of a decider, or of the best known log. Raises Problem (404) for an unknown one."""
    if name == ORACLE:
        return by_log(scenario.best_log, scenario)
    if name not in DECIDERS:
        raise no_such("policy", name, (*DECIDERS, ORACLE), "policy")
    decide = DECIDERS[name]()
    return lambda episode: list(decide(episode.observation()))


def by_log(log: Any, scenario: Scenario) -> Callable[[Episode], Calls]:
    """The answers that an action log holds; where it ends early the rest is `keep`.

    Raises:
        Problem: it is no action log, or longer than the episode.
    """
    if fault := log_fault(log):
        raise Problem(422, f"log: {fault}; give one window after the other, each a list of calls", "log")
    if len(log) > scenario.steps:
        range = f"at most {scenario.steps} windows"
        raise Problem(422, f"the log has {len(log)} windows; give {range}", "log", range)

    def answer(episode: Episode) -> Calls:
        return [Call.from_log(call) for call in log[episode.t]] if episode.t < len(log) else [Call("keep")]

    return answer


def advice(episode: Episode, policy: str) -> dict[str, Any]:
    """What a decider would do now; of the oracle the window of the best known log, and whether the episode
    has followed that so far.
    """
    if episode.done:
        raise Problem(409, "the episode is over; reset the session, or open another", "id")
    if policy == ORACLE:
        log = episode.scenario.best_log
        here = [list(map(list, window)) for window in log[: episode.t]] == episode.log
        found = [episode.named(Call.from_log(call), shown=True) for call in log[episode.t]]
        return {"policy": policy, "calls": written(found), "followed": here}
    calls = by_policy(policy, episode.scenario)(episode)
    return {"policy": policy, "calls": written(calls), "followed": True}


def written(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """Calls as a client sends them."""
    return [
        {"name": call.verb, "arguments": {"seq_id": call.seq_id} if call.seq_id else {}}
        for call in calls
        if not call.error
    ]
