"""Decision makers for the serving world, behind one interface: ``act(observation, mask) -> int`` and
``reset(seed)``.

Every heuristic (`sim.serving.heuristics.HEURISTICS`) is an agent. Adding another is a factory and a line in
`AGENTS`; one from outside the package is named `module:factory` or `file.py:factory`, or by its file of
weights (`outside`). Those in compiled form (all in `AGENTS` so far) also say which function and memory the
compiled loop (`search.serving.rollout.play`) takes. The oracle needs copies of the server:
`search.serving.oracle`.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from kv_cache_rl.agents import outside
from kv_cache_rl.agents.compiled import CompiledAgent, heuristic, network, qlearning
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.sim.serving.heuristics import HEURISTICS
from kv_cache_rl.sim.serving.spec import ServingError

__all__ = ["AGENTS", "CANARIES", "Agent", "CompiledAgent", "agent"]


class Agent(Protocol):
    """What is in charge of a server.

    One that reads files names them in an attribute `weights` (a path or a list of paths), so that its results
    are told apart from those it had with other files.
    """

    name: str

    def reset(self, seed: int = 0) -> None:
        """Begins an episode; all that the agent draws comes from this seed (`sim.serving.seeds.agent_seed` of
        the episode's).
        """

    def act(self, observation: np.ndarray, mask: np.ndarray) -> int:
        """The action 0 to 17 for a view (20 numbers, or the rich 24) and int8 or bool ``[18]`` of actions
        that have a target.
        """


AGENTS: dict[str, Callable[[], Agent]] = {
    **{name: partial(heuristic, name) for name in HEURISTICS},
    "qlearning": qlearning,
    "neural": partial(network, "neural"),
    "ppo": partial(network, "ppo"),
}
CANARIES = tuple(name for name, one in HEURISTICS.items() if one.canary)
"""Agents that a sound score places below `lru` on every task."""


def factory_of(name: str) -> Callable[[], Agent]:
    """What makes the agents of a name of `AGENTS`, or of `module:factory`.

    Raises:
        ServingError: there is none of this name, or it makes no agent.
    """
    if name in AGENTS:
        return AGENTS[name]
    if outside.is_outside(name):
        return outside.factory_of(name)
    raise ServingError(f"{unknown('agent', name, AGENTS)}, or module:factory")


def agent(name: str) -> Agent:
    """An agent by name, before its first decision.

    Raises:
        ServingError: there is none of this name, or its factory makes no agent.
    """
    return factory_of(name)()
