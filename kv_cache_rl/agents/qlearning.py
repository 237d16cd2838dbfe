"""Tabular Q-learning on the features of `sim.serving.tabular`: training; the table it made is in `weights`.

After each episode, from its last decision to its first:

    G <- r + F + gamma^(ticks passed) * ((1 - lambda) * max over d of Q(s', d) + lambda * G)
    Q(s, d) += alpha * (G - Q(s, d))
    F = gamma^(ticks passed) * phi(s') - phi(s),   phi = -`queued` * requests that wait

The features hide much, so one-step backups would lose what a decision brings hundreds of ticks later (a cache
that was swapped and is found again): lambda near 1 carries it back. One table serves all tasks: training
takes them by turns, every other round with a small CPU. Discounting goes by ticks, so that several decisions
in one tick cost no patience.

Source: Watkins, Dayan, "Q-learning", 1992; Peng, Williams, "Incremental multi-step Q-learning", 1996
(lambda); Ng, Harada, Russell, "Policy invariance under reward transformations", 1999 (phi); Sutton, Precup,
Singh, 1999 (discounting by duration)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.search.serving.rollout import episode_of
from kv_cache_rl.sim.serving.canaries import MEMORY, SEED, draw
from kv_cache_rl.sim.serving.columns import WORD, columns_of
from kv_cache_rl.sim.serving.dynamics import new_state, step
from kv_cache_rl.sim.serving.heuristics import TABULAR
from kv_cache_rl.sim.serving.observe import VIEW, new_view, write_view
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.serving.tabular import N_CHOICES, STATES, action_of, best, situation
from kv_cache_rl.sim.views import cells, record

RATES = record(
    ("epsilon", np.float64),  # chance of any choice
    ("gamma", np.float64),  # discount of a tick
    ("trace", np.float64),  # lambda
    ("floor", np.float64),  # least step size
    ("power", np.float64),  # power of the visits by which the step size falls
    ("scale", np.float64),  # factor on rewards
    ("queued", np.float64),  # what a waiting request takes from the potential
)

STEP = record(
    ("situation", WORD),
    ("choice", WORD),
    ("ticks", WORD),  # that passed with it
    ("best_next", WORD),  # the best choice after it
)


@uncounted(nogil=True)
def experience(fixed, live, table, rates, memory, seen, mask, steps, rewards):
    """Plays one episode epsilon-greedily and records it; how many decisions, and the return.

    A loop of its own beside `search.serving.rollout.play`, since a record holds the views on both sides of a
    decision. `rates` float64 ``[RATES]``, `steps` int64 ``[most, STEP]``, `rewards` float64 ``[most]``. Stops
    where they are full.
    """
    c, rate, view = columns_of(fixed, live), rates.view(RATES)[0], seen.view(VIEW)[0]
    write_view(c, seen, mask)
    row, total, k = situation(view, mask), 0.0, 0
    while c.book.alive and k < len(steps):
        choice = best(view, mask, table, row * N_CHOICES)
        if draw(memory) < rate.epsilon:
            choice = any_choice(view, mask, memory)
        before = c.book.ticks
        held = potential(view, rate)
        rewards[k] = step(c, seen, mask, action_of(choice, view, mask))
        total += rewards[k]
        rewards[k] += (rate.gamma if c.book.ticks > before else 1.0) * potential(view, rate) - held
        taken = steps[k].view(STEP)[0]
        taken.situation, taken.choice, taken.ticks = row, choice, c.book.ticks - before
        # What can be done next is part of what happened.
        row = situation(view, mask)
        taken.best_next = best(view, mask, table, row * N_CHOICES)
        k += 1
    return k, total


@uncounted
def potential(view, rate):
    """The value of a view before anything is learned: the fewer requests wait, the higher."""
    return -rate.queued * (100.0 * view.free_queue_pressure + 50.0 * view.vip_queue_pressure)


@uncounted(nogil=True)
def improve(table, visits, rates, steps, rewards, count):
    """Moves the table towards the lambda-returns of an episode, last decision first."""
    after, rate = 0.0, rates.view(RATES)[0]
    for k in range(count - 1, -1, -1):
        one = steps[k].view(STEP)[0]
        target = rewards[k] * rate.scale
        if k + 1 < count:
            patience = rate.gamma if one.ticks > 0 else 1.0
            ahead = table[steps[k + 1].view(STEP)[0].situation * N_CHOICES + one.best_next]
            target += patience * ((1.0 - rate.trace) * ahead + rate.trace * after)
        entry = one.situation * N_CHOICES + one.choice
        visits[entry] += 1.0
        table[entry] += max(rate.floor, visits[entry] ** -rate.power) * (target - table[entry])
        after = target


@uncounted
def any_choice(view, mask, memory):
    """A choice that is possible, each as likely."""
    count = 0
    for choice in range(N_CHOICES):
        count += 1 if action_of(choice, view, mask) >= 0 else 0
    left = int(draw(memory) * count)
    for choice in range(N_CHOICES):
        if action_of(choice, view, mask) >= 0:
            if left == 0:
                return choice
            left -= 1
    return 1


MOST_DECISIONS = 200_000
"""How many of an episode are learned from."""


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
    """Chance of any choice at the beginning; falls evenly to a twentieth."""
    floor: float = 0.001
    power: float = 0.8
    trace: float = 0.9
    """lambda: how much of a return is what came, rather than what the table expected."""
    scale: float = 1.0
    queued: float = 0.5
    """What each waiting request takes from the potential (shaping by it changes no optimal policy)."""
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


ARRAYS = ("table", "visits", "mean", "kept", "memory")
"""Fields of `Progress` that are arrays."""


@dataclass(slots=True)
class Progress:
    """A training between two episodes: what goes on from here ends with the same table."""

    table: np.ndarray = field(default_factory=lambda: np.zeros(STATES * N_CHOICES))
    visits: np.ndarray = field(default_factory=lambda: np.zeros(STATES * N_CHOICES))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(STATES * N_CHOICES))
    """Sum of the tables since the last look."""
    kept: np.ndarray = field(default_factory=lambda: np.zeros(STATES * N_CHOICES))
    memory: np.ndarray = field(default_factory=lambda: np.zeros(MEMORY))
    """Of the exploration's draws."""
    episode: int = 0
    """How many have been played."""
    kept_score: float = -1.0
    returns: list[float] = field(default_factory=list)
    """Of the episodes since the last look."""
    curve: list[dict] = field(default_factory=list)


def begun(plan: Training) -> Progress:
    """The training before its first episode."""
    progress = Progress()
    progress.memory[SEED] = plan.seed
    return progress


def train(
    plan: Training = Training(),
    tell: Callable[[dict], None] = lambda point: None,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
) -> tuple[np.ndarray, list[dict]]:
    """The table that did best on the selection seeds, and the training curve.

    Args:
        tell: called with each point of the curve: episode, mean return since the last, mean selection score
            by task.
        progress: where to go on, in place; None: at the beginning.
        keep: called with the progress after each episode.
    """
    p = progress or begun(plan)
    seen, mask = new_view()
    steps, rewards = np.zeros((MOST_DECISIONS, cells(STEP)), np.int64), np.zeros(MOST_DECISIONS)
    scenarios = [
        task(name, **changes) for changes in ({}, {"cpu_blocks": plan.small_cpu}) for name in plan.tasks
    ]
    for k in range(p.episode, plan.episodes):
        epsilon = plan.epsilon * (1 - 0.95 * k / max(plan.episodes - 1, 1))
        rates = np.array([epsilon, plan.gamma, plan.trace, plan.floor, plan.power, plan.scale, plan.queued])
        state = new_state(scenarios[k % len(scenarios)], training_seed(plan, k))
        count, total = experience(*state.buffers, p.table, rates, p.memory, seen, mask, steps, rewards)
        improve(p.table, p.visits, rates, steps, rewards, count)
        p.returns.append(total)
        p.mean += p.table
        p.episode = k + 1
        if p.episode % plan.look_every == 0 or p.episode == plan.episodes:
            tell(looked_at(plan, p, epsilon))
        keep(p)
    return p.kept, p.curve


def looked_at(plan: Training, p: Progress, epsilon: float) -> dict:
    """Scores the mean of the tables since the last look and keeps it if it is the best; the curve's point."""
    p.mean /= len(p.returns)
    scores = {
        name: float(np.mean(scores_of(p.mean, name, SEEDS["select"][: plan.select]))) for name in plan.tasks
    }
    point = {
        "episode": p.episode,
        "epsilon": round(epsilon, 5),
        "return": float(np.mean(p.returns)),
        "select": scores,
    }
    p.curve.append(point)
    if np.mean(list(scores.values())) > p.kept_score:
        p.kept, p.kept_score = p.mean.copy(), float(np.mean(list(scores.values())))
    p.returns.clear()
    p.mean[:] = 0.0
    return point


def scores_of(table: np.ndarray, name: str, seeds: Sequence[int]) -> list[float]:
    """Scores of a table on a task's seeds."""
    return [report(episode_of(task(name), seed, TABULAR, table)).score for seed in seeds]
