"""What shows a network how to serve: the queueing controller, which decides by the view and the mask alone.

Whatever state the network reaches, the demonstrator says what it would do there.

Source: Ross, Gordon, Bagnell, "A reduction of imitation learning and structured prediction to no-regret
online learning", AISTATS 2011 (DAgger)."""

from collections.abc import Mapping

import numpy as np

from kv_cache_rl.agents.training.servers import CAN
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, memory_of
from kv_cache_rl.sim.serving.observe import new_view

CONTROLLER = HEURISTICS["stability"]
assert not CONTROLLER.remembers, "features would not say what it does"


def memory_like(parameters: Mapping[str, float]) -> np.ndarray:
    """The controller's memory with these parameters, by name; the others are its own."""
    own = dict(zip(CONTROLLER.names, CONTROLLER.parameters, strict=True))
    return memory_of(tuple((own | dict(parameters)).values()))


@uncounted(nogil=True)
def write_labels(x, first, seen, mask, which, memory, labels):
    """Writes what function `which` does at each of the features ``x [n, INPUTS]``, float32."""
    for k in range(len(x)):
        for j in range(len(seen)):
            seen[j] = x[k, j]
        for action in range(len(mask)):
            mask[action] = 1 if x[k, first + action] > 0.5 else 0
        labels[k] = choose(which, seen, mask, memory)


def demonstrated(x: np.ndarray, memory: np.ndarray) -> np.ndarray:
    """What the controller with that memory does at each of the features ``[n, INPUTS]``, int64 ``[n]``."""
    labels = np.zeros(len(x), np.int64)
    held = np.ascontiguousarray(x, np.float32)
    write_labels(held, CAN.start, *new_view(), CONTROLLER.which, memory, labels)
    return labels
