"""Imitation: the network plays whole episodes, and learns what the demonstrator would have done there."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from kv_cache_rl.agents.training.demonstrator import CONTROLLER, demonstrated, memory_like
from kv_cache_rl.agents.training.learner import Learner
from kv_cache_rl.agents.training.plan import NetworkTraining, first_seed, imitation_rate, scenarios_of
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.columns import columns_of
from kv_cache_rl.sim.serving.dynamics import new_state, step
from kv_cache_rl.sim.serving.heuristics import NEURAL, choose
from kv_cache_rl.sim.serving.network import INPUTS, memory_of_layers, write_features
from kv_cache_rl.sim.serving.observe import new_view, write_view
from kv_cache_rl.sim.serving.spec import Scenario

EPOCHS, BATCH = 4, 512
MOST = 100_000
"""Decisions of an episode that are looked at."""


@uncounted(nogil=True)
def visited(fixed, live, which, memory, seen, mask, room, x):
    """Plays an episode and writes the features of its decisions into ``x [most, INPUTS]``, float32; how many.

    `room` is float64 ``[INPUTS]``. Decisions after the most are played, and not written.
    """
    c = columns_of(fixed, live)
    write_view(c, seen, mask)
    k = 0
    while c.book.alive:
        if k < len(x):
            write_features(seen, mask, room)
            for j in range(len(room)):
                x[k, j] = room[j]
            k += 1
        step(c, seen, mask, choose(which, seen, mask, memory))
    return k


def states_of(
    scenarios: Sequence[Scenario],
    first: int,
    player: tuple[int, np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Features of states that a player reaches, float32 ``[n, INPUTS]``: some of each server's episode.

    Args:
        first: seed of the first server; the next ones follow.
        player: a function of `heuristics.choose` and its memory: `NEURAL`'s, or the demonstrator's.
        count: states of each episode, at most.
    """
    which, held = player
    x, room, found = np.zeros((MOST, INPUTS), np.float32), np.zeros(INPUTS), []
    for k, scenario in enumerate(scenarios):
        state = new_state(scenario, first + k)
        made = visited(*state.buffers, which, held.copy(), *new_view(), room, x)
        found.append(x[rng.choice(made, min(count, made), replace=False)])
    return np.concatenate(found)


def imitate(
    values: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    x: np.ndarray,
    teacher: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Moves a network, which gives values of actions, towards what the demonstrator with the memory `teacher`
    does at ``x [n, INPUTS]``; the mean loss of the last pass, and the share of states at which both did the
    same before.
    """
    states, labels = torch.from_numpy(x), torch.from_numpy(demonstrated(x, teacher))
    with torch.no_grad():
        agreed = float((values(states).argmax(1) == labels).float().mean())
    losses: list[float] = []
    for _ in range(EPOCHS):
        losses.clear()
        for some in np.array_split(rng.permutation(len(x)), max(len(x) // BATCH, 1)):
            loss = nn.functional.cross_entropy(values(states[some]), labels[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return {"loss": float(np.mean(losses)), "agreed": agreed}


def imitated(
    learner: Learner,
    values: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    plan: NetworkTraining,
    k: int,
) -> dict[str, float]:
    """Round `k` of a training, which only imitates: the demonstrator plays the first, the network others."""
    for group in optimizer.param_groups:
        group["lr"] = imitation_rate(plan, k)
    rng, teacher = np.random.default_rng((plan.seed, k)), memory_like(plan.demonstrator)
    scenarios = scenarios_of(plan)
    player = (NEURAL, memory_of_layers(learner.layers())) if k else (CONTROLLER.which, teacher)
    x = states_of(scenarios, first_seed(plan, k), player, plan.decisions // len(scenarios), rng)
    return imitate(values, optimizer, x, teacher, rng)
