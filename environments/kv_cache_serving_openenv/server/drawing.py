"""The server as OpenEnv's web interface shows it, and what can be done."""

from typing import Any

import numpy as np

from kv_cache_rl.adapters.http.worlds import ServingWorld
from kv_cache_rl.adapters.openenv.drawing import bar, framed
from kv_cache_rl.agents import agent
from kv_cache_rl.agents.chat_text import LINES, MOST_REPEAT
from kv_cache_rl.reports.eviction.page import facts
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING
from kv_cache_rl.sim.serving.observe import RICH

AGENTS = ("lru", "stability", "ppo")
"""Whose next action is told beside it."""
LATER = (10, MOST_REPEAT)
"""Ticks that can pass at a click."""


def choices(world: ServingWorld) -> list[tuple[str, dict[str, Any]]]:
    """Label and action: every possible one, with the agents that would take it; and letting time pass."""
    wanted: dict[int, list[str]] = {}
    for name in AGENTS:
        asked = agent(name)
        asked.reset(0)
        wanted.setdefault(int(asked.act(world.seen.copy(), world.mask.copy())), []).append(name)
    possible = sorted(map(int, np.flatnonzero(world.mask)), key=lambda k: (-len(wanted.get(k, ())), k))
    told = [
        (ACTIONS[k] + (f" ({', '.join(wanted[k])})" if k in wanted else ""), {"action": ACTIONS[k]})
        for k in possible
    ]
    later = [(f"{ACTIONS[NOTHING]}, {n} ticks", {"action": ACTIONS[NOTHING], "repeat": n}) for n in LATER]
    return told + later


def page(world: ServingWorld) -> str:
    """The whole drawing."""
    state = world.state()
    tick = state["tick"]
    told = {
        "task": f"{state['task']}, {world.scenario.ticks:,} nominal ticks",
        "tick": f"{tick['tick']:,}",
        "second": f"{tick['clock_s']:.2f}",
        "waiting, Free and VIP": f"{tick['free_queue']} and {tick['vip_queue']}",
        "in service": tick["active"],
        "arrived, completed": f"{tick['arrived']}, {tick['completed']}",
        "return": f"{world.total:+.2f}",
    }
    end = ended(state["result"]["report"]) if state["done"] else ""
    shares = dict(zip(RICH, world.seen.tolist(), strict=True))
    bars = "".join(
        f'<div class="card"><h3>{line}</h3>'
        + "".join(bar(name, shares[field], f"{shares[field]:.1%}") for name, field in parts)
        + "</div>"
        for line, parts in LINES
    )
    return framed(facts(told) + end + f'<div class="grid2">{bars}</div>')


def ended(report: dict[str, Any]) -> str:
    """What an episode came to."""
    shown = {
        "score": f"{report['score']:.4f}",
        "outcome": report["crashed"] or "ended in time",
        "completed": f"{report['completed']} of {report['arrived']}",
        "dropped, rejected": f"{report['dropped']}, {report['rejected']}",
        "forced preemptions": report["forced_preemptions"],
    }
    terms = {name.replace("_", " "): f"{value:+.2f}" for name, value in report["rewards"].items()}
    return f'<div class="card"><h3>The episode is over</h3>{facts(shown)}{facts(terms)}</div>'
