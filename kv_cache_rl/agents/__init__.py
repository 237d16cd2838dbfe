"""Decision makers for the serving world, behind one interface: ``act(observation, mask) -> int`` and
``reset(seed)``.

Adding one is a factory and a line in `AGENTS`. Those in compiled form (all so far) also say which function
and memory the compiled loop (`search.serving.rollout.play`) takes. The oracle needs copies of the server:
`search.serving.oracle`."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from kv_cache_rl.agents.compiled import CompiledAgent, heuristic, qlearning
from kv_cache_rl.sim.serving.spec import ServingError

__all__ = ["AGENTS", "CANARIES", "Agent", "CompiledAgent", "agent"]


class Agent(Protocol):
    """Whoever is in charge of a server."""

    name: str

    def reset(self, seed: int = 0) -> None:
        """Begins an episode; whatever the agent draws comes from this seed (`sim.serving.seeds.agent_seed` of
        the episode's).
        """

    def act(self, observation: np.ndarray, mask: np.ndarray) -> int:
        """The action 0 to 17 for a view (20 numbers, or the rich 24) and int8 or bool ``[18]`` of actions
        that have a target.
        """


AGENTS: dict[str, Callable[[], Agent]] = {
    "random": partial(heuristic, "random"),
    "fifo": partial(heuristic, "fifo"),
    "lru": partial(heuristic, "lru"),
    "size_weighted": partial(heuristic, "size_weighted"),
    "stability": partial(heuristic, "stability"),
    "watermark_80": partial(heuristic, "watermark_80"),
    "watermark_90": partial(heuristic, "watermark_90"),
    "watermark_95": partial(heuristic, "watermark_95"),
    "qlearning": qlearning,
    "do_nothing": partial(heuristic, "do_nothing"),
    "admit_once": partial(heuristic, "admit_once"),
    "reject_all": partial(heuristic, "reject_all"),
    "shed_power_users": partial(heuristic, "shed_power_users"),
    "preempt_cycling": partial(heuristic, "preempt_cycling"),
    "early_crash": partial(heuristic, "early_crash"),
}
CANARIES = (
    "random",
    "do_nothing",
    "admit_once",
    "reject_all",
    "shed_power_users",
    "preempt_cycling",
    "early_crash",
)
"""Agents that a sound score places below `lru` on every task."""


def agent(name: str) -> Agent:
    """An agent by name, before its first decision.

    Raises:
        ServingError: there is none of this name.
    """
    if name not in AGENTS:
        raise ServingError(f"unknown agent {name!r}; use one of {', '.join(AGENTS)}")
    return AGENTS[name]()
