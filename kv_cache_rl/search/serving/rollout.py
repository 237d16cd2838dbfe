"""Compiled rollouts of the serving world: a heuristic plays until an instant, or whole episodes."""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import act
from kv_cache_rl.sim.serving.heuristics import FUNCTIONS, HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import ALIVE, CLOCK, State, new_state

FOREVER = 1 << 62


@uncounted(nogil=True)
def play(traffic, settings, book, rows, running, flow, which, memory, observed, mask, until):
    """Lets heuristic `which` decide until the clock reads `until` (µs) or the end; the reward, and how many
    decisions.
    """
    look(traffic, settings, book, rows, running, flow, observed, mask)
    reward, decisions = 0.0, 0
    while book[ALIVE, 0] and book[CLOCK, 0] < until:
        action = choose(which, observed, mask, memory)
        reward += act(traffic, settings, book, rows, running, flow, observed, mask, action)
        decisions += 1
    return reward, decisions


def finish(state: State, function: str, memory: np.ndarray, until: int = FOREVER) -> tuple[float, int]:
    """Plays `state` on with a function of `heuristics.FUNCTIONS`, in place; the reward, and how many
    decisions.
    """
    observed, mask = np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)
    return play(*state.columns, FUNCTIONS.index(function), memory, observed, mask, until)


def episode(scenario: Scenario, seed: int, name: str, memory: np.ndarray | None = None) -> State:
    """The end of an episode under a heuristic of `heuristics.HEURISTICS`, or under a function with a memory
    of your own.
    """
    state = new_state(scenario, seed)
    if memory is None:
        finish(state, HEURISTICS[name].function_name, new_memory(name, agent_seed(seed)))
    else:
        finish(state, name, memory.copy())
    return state
