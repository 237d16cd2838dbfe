"""Tabular Q-learning on the features of `sim.serving.tabular`: training; the table it made is in `weights`.

After each episode, from its last decision to its first:

    G <- r + F + gamma^(ticks passed) * ((1 - lambda) * max over d of Q(s', d) + lambda * G);   Q(s, d) += alpha * (G - Q(s, d))
    F = gamma^(ticks passed) * phi(s') - phi(s),   phi = -`queued` * requests that wait

The features hide much, so one-step backups would lose what a decision brings hundreds of ticks later (a cache
that was swapped and is found again): lambda near 1 carries it back. One table serves all tasks: training
takes them by turns, every other round with a small CPU. Discounting goes by ticks, so that several decisions
in one tick cost no patience.

Source: Watkins, Dayan, "Q-learning", 1992; Peng, Williams, "Incremental multi-step Q-learning", 1996
(lambda); Ng, Harada, Russell, "Policy invariance under reward transformations", 1999 (phi); Sutton, Precup,
Singh, 1999 (discounting by duration)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.search.serving.rollout import episode
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.canaries import MEMORY, SEED, draw
from kv_cache_rl.sim.serving.dynamics import act
from kv_cache_rl.sim.serving.face import FREE_QUEUE, VIP_QUEUE
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.serving.state import ALIVE, TICK, new_state
from kv_cache_rl.sim.serving.tabular import N_DEEDS, STATES, action_of, best, situation

EPSILON, GAMMA, TRACE, FLOOR, POWER, SCALE, QUEUED = range(7)
"""Of the rates: chance of any deed · discount of a tick · lambda · least step size · power of the visits that
it falls with · factor on rewards · what a waiting request takes from the potential."""


@uncounted(nogil=True)
def experience(
    traffic, settings, book, rows, running, flow, table, rates, memory, seen, mask, steps, rewards
):
    """Plays one episode epsilon-greedily, and writes down what happened; how many decisions, and the return.

    `steps` int64 ``[most, 4]``: situation, deed, ticks passed, best deed after it; `rewards` float64
    ``[most]``. Stops where they are full."""
    look(traffic, settings, book, rows, running, flow, seen, mask)
    row, total, k = situation(seen, mask), 0.0, 0
    while book[ALIVE, 0] and k < len(steps):
        deed = best(seen, mask, table, row * N_DEEDS)
        if draw(memory) < rates[EPSILON]:
            deed = any_deed(seen, mask, memory)
        before = book[TICK, 0]
        held = potential(seen, rates)
        rewards[k] = act(
            traffic, settings, book, rows, running, flow, seen, mask, action_of(deed, seen, mask)
        )
        total += rewards[k]
        rewards[k] += (rates[GAMMA] if book[TICK, 0] > before else 1.0) * potential(seen, rates) - held
        steps[k, 0], steps[k, 1], steps[k, 2] = row, deed, book[TICK, 0] - before
        # What can be done next is part of what happened.
        steps[k, 3] = best(seen, mask, table, situation(seen, mask) * N_DEEDS)
        row = situation(seen, mask)
        k += 1
    return k, total


@uncounted
def potential(seen, rates):
    """What a view is taken to be worth before anything is learned: the fewer wait, the better."""
    return -rates[QUEUED] * (100.0 * seen[FREE_QUEUE] + 50.0 * seen[VIP_QUEUE])


@uncounted(nogil=True)
def improve(table, visits, rates, steps, rewards, count):
    """Moves the table towards the lambda-returns of an episode, last decision first."""
    after = 0.0
    for k in range(count - 1, -1, -1):
        target = rewards[k] * rates[SCALE]
        if k + 1 < count:
            patience = rates[GAMMA] if steps[k, 2] > 0 else 1.0
            ahead = table[steps[k + 1, 0] * N_DEEDS + steps[k, 3]]
            target += patience * ((1.0 - rates[TRACE]) * ahead + rates[TRACE] * after)
        entry = steps[k, 0] * N_DEEDS + steps[k, 1]
        visits[entry] += 1.0
        table[entry] += max(rates[FLOOR], visits[entry] ** -rates[POWER]) * (target - table[entry])
        after = target


@uncounted
def any_deed(seen, mask, memory):
    """A deed that can be done, each as likely."""
    count = 0
    for deed in range(N_DEEDS):
        count += 1 if action_of(deed, seen, mask) >= 0 else 0
    left = int(draw(memory) * count)
    for deed in range(N_DEEDS):
        if action_of(deed, seen, mask) >= 0:
            if left == 0:
                return deed
            left -= 1
    return 1


MOST_DECISIONS = 200_000
"""Of an episode, that are learned from."""


@dataclass(frozen=True, slots=True)
class Training:
    """How a table is made; the shipped one says the same of itself."""

    tasks: tuple[str, ...] = ("medium", "hard", "easy")
    episodes: int = 160
    """In all; the tasks take turns, each episode has a training seed of its own."""
    small_cpu: int = 8_000
    """CPU blocks of every other round of tasks, so that a full CPU is met while there is still something to
    learn from it.
    """
    seed: int = 0
    gamma: float = 0.998
    epsilon: float = 0.1
    """Chance of any deed at the beginning; falls evenly to a twentieth."""
    floor: float = 0.001
    power: float = 0.8
    trace: float = 0.9
    """lambda: how much of a return is what came, rather than what the table expected."""
    scale: float = 1.0
    queued: float = 0.5
    """Potential-based shaping, which changes no optimal policy: what each waiting request takes from the
    potential.
    """
    look_every: int = 16
    """Episodes between looks at the selection seeds. Looked at is the mean of the tables since the last look,
    steadier than the latest; the one that did best is kept."""
    select: int = 8
    """Selection seeds for each of the tasks."""


def training_seed(plan: Training, k: int) -> int:
    """The seed of episode `k`: another training seed begins another stretch of the split, which goes round at
    its end.
    """
    return SEEDS["train"][(plan.seed * plan.episodes + k) % len(SEEDS["train"])]


def seeds_of(plan: Training) -> dict[str, list[int]]:
    """First and last of the seeds that a training learns from, in its order, and of those it is chosen by."""
    # More episodes than there are seeds: it goes round, and has had them all.
    last = min(plan.episodes, len(SEEDS["train"])) - 1
    return {
        "train": [training_seed(plan, 0), training_seed(plan, last)],
        "select": [SEEDS["select"][0], SEEDS["select"][plan.select - 1]],
    }


def train(
    plan: Training = Training(), tell: Callable[[dict], None] = lambda point: None
) -> tuple[np.ndarray, list[dict]]:
    """The table that did best on the selection seeds, and the training curve.

    Args:
        tell: called with each point of the curve: episode, mean return since the last, mean selection score
            by task.
    """
    table, visits = np.zeros(STATES * N_DEEDS), np.zeros(STATES * N_DEEDS)
    memory, seen, mask = np.zeros(MEMORY), np.zeros(len(RICH), np.float32), np.zeros(len(ACTIONS), np.int8)
    memory[SEED] = plan.seed
    steps, rewards = np.zeros((MOST_DECISIONS, 4), np.int64), np.zeros(MOST_DECISIONS)
    scenarios = [
        task(name, **changes) for changes in ({}, {"cpu_blocks": plan.small_cpu}) for name in plan.tasks
    ]
    curve, returns, mean, kept, kept_score = [], [], np.zeros_like(table), table.copy(), -1.0
    for k in range(plan.episodes):
        epsilon = plan.epsilon * (1 - 0.95 * k / max(plan.episodes - 1, 1))
        rates = np.array([epsilon, plan.gamma, plan.trace, plan.floor, plan.power, plan.scale, plan.queued])
        state = new_state(scenarios[k % len(scenarios)], training_seed(plan, k))
        count, total = experience(*state.columns, table, rates, memory, seen, mask, steps, rewards)
        improve(table, visits, rates, steps, rewards, count)
        returns.append(total)
        mean += table
        if (k + 1) % plan.look_every == 0 or k + 1 == plan.episodes:
            mean /= len(returns)
            scores = {
                name: float(np.mean(scores_of(mean, name, SEEDS["select"][: plan.select])))
                for name in plan.tasks
            }
            point = {
                "episode": k + 1,
                "epsilon": round(epsilon, 5),
                "return": float(np.mean(returns)),
                "select": scores,
            }
            curve.append(point)
            tell(point)
            if np.mean(list(scores.values())) > kept_score:
                kept, kept_score = mean.copy(), float(np.mean(list(scores.values())))
            returns.clear()
            mean[:] = 0.0
    return kept, curve


def scores_of(table: np.ndarray, name: str, seeds: Sequence[int]) -> list[float]:
    """Scores of a table on a task's seeds."""
    return [report(episode(task(name), seed, "tabular", table)).score for seed in seeds]
