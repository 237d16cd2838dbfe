"""Rollouts of the serving world: compiled under a heuristic, or decision by decision under any decider."""

from collections.abc import Callable, Iterator

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import checked
from kv_cache_rl.sim.serving.columns import columns_of
from kv_cache_rl.sim.serving.dynamics import act, new_state, step
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import look, new_view, write_view
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import Scenario
from kv_cache_rl.sim.serving.state import State

FOREVER = 1 << 62

Decide = Callable[[np.ndarray, np.ndarray], int]
"""(view float32 ``[24]``, mask int8 ``[18]``) -> one of the 18 actions."""


@uncounted(nogil=True)
def play(fixed, live, which, memory, seen, mask, until):
    """Lets function `which` decide until the clock reads `until` (µs) or the episode ends.

    Gives the reward, and how many decisions.
    """
    c = columns_of(fixed, live)
    write_view(c, seen, mask)
    reward, decisions = 0.0, 0
    while c.book.alive and c.book.clock_us < until:
        reward += step(c, seen, mask, choose(which, seen, mask, memory))
        decisions += 1
    return reward, decisions


def steps(state: State, decide: Decide) -> Iterator[tuple[int, float]]:
    """Plays `state` on to its end, in place: each action and its reward, as soon as it has been taken.

    Raises:
        ServingError: what was decided is none of the 18 actions.
    """
    seen, mask = new_view()
    look(*state.buffers, seen, mask)
    while not state.done:
        action = checked(decide(seen, mask))
        yield action, act(*state.buffers, seen, mask, action)


def finish(state: State, which: int, memory: np.ndarray, until: int = FOREVER) -> tuple[float, int]:
    """Plays `state` on with a function of `heuristics.FUNCTIONS`, in place, as `play`."""
    return play(*state.buffers, which, memory, *new_view(), until)


def episode(scenario: Scenario, seed: int, name: str) -> State:
    """The end of an episode under a heuristic of `heuristics.HEURISTICS`."""
    return episode_of(scenario, seed, HEURISTICS[name].which, new_memory(name, agent_seed(seed)))


def episode_of(scenario: Scenario, seed: int, which: int, memory: np.ndarray) -> State:
    """The end of an episode under a function of `heuristics.FUNCTIONS`, from a copy of `memory` on."""
    state = new_state(scenario, seed)
    finish(state, which, memory.copy())
    return state
