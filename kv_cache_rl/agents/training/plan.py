"""How a network is trained: its rounds, its seeds, its rates. Needs no library, unlike the training."""

from dataclasses import dataclass, field, replace

from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import Scenario, task

SERVERS = {"easy": 4, "medium": 12, "hard": 16}
"""Task -> servers that play it."""
DEMONSTRATOR = {"target": 0.06, "base": 0.075, "per_rho": 0.12, "collect": 0.985, "shed": 0.14}
"""Parameters of `stability` that show how to serve: it sheds earlier and keeps more room than by default.

Source: a search (cma, 30 generations of 12) by the mean score on 16 training seeds of medium and hard, drawn
anew for each generation.
"""
IMITATION_RATE = 1e-3
"""The first round's learning rate; falls evenly to a tenth in the last that imitates."""


@dataclass(frozen=True, slots=True)
class NetworkTraining:
    """How a network is made; committed weights say the same of themselves."""

    agent: str
    rounds: int
    """In all. Each begins with new servers, so that a training goes on from any of them."""
    imitated: int
    """The first so many only imitate the demonstrator."""
    decisions: int
    """Of all servers together, in each round."""
    learning_rate: float
    """Of the rounds that learn by reward; falls evenly to a tenth."""
    gamma: float
    """Discount of a decision."""
    settings: dict[str, float]
    """Those of the algorithm, by the names of Stable-Baselines3 and of `masked_ppo` or `deep_q`."""
    tasks: dict[str, int]
    """Task -> its servers."""
    waiting: float = 0.003
    """What a request that waits costs in a nominal tick, beside the reward: what a wait takes from the score,
    in units of what a served token gives to it. The reward has no such term, and prefers agents that let
    requests wait.
    """
    scale: float = 0.1
    """Factor on rewards."""
    demonstrator: dict[str, float] = field(default_factory=lambda: dict(DEMONSTRATOR))
    """Parameters of `stability` that differ from its own."""
    seed: int = 0
    select: int = 32
    """Selection seeds for each of the tasks."""


USUAL = {
    "neural": NetworkTraining(
        "neural",
        rounds=8,
        imitated=5,
        decisions=256_000,
        learning_rate=1e-4,
        gamma=0.998,
        settings={
            "n_steps": 10,
            "batch_size": 256,
            "train_freq": 8,
            "gradient_steps": 8,
            "learning_starts": 20_000,
            "target_every": 400,
            "epsilon": 0.01,
            "margin": 0.3,
            "demonstrated": 2.0,
        },
        tasks=SERVERS,
    ),
    "ppo": NetworkTraining(
        "ppo",
        rounds=12,
        imitated=8,
        decisions=384_000,
        learning_rate=1e-4,
        gamma=0.999,
        settings={
            "n_steps": 1_500,
            "batch_size": 8_000,
            "n_epochs": 3,
            "gae_lambda": 0.98,
            "clip_range": 0.1,
            "ent_coef": 0.0,
            "target_kl": 0.01,
            "value_rate": 1e-3,
            "soften": 1.5,
        },
        tasks=SERVERS,
    ),
}
"""Agent -> how the shipped one was trained."""


def planned(
    agent: str,
    seed: int = 0,
    tasks: tuple[str, ...] = (),
    rounds: int | None = None,
    learning_rate: float | None = None,
) -> NetworkTraining:
    """The usual training, but for what is given."""
    usual = USUAL[agent]
    return replace(
        usual,
        seed=seed,
        tasks={name: usual.tasks[name] for name in tasks or usual.tasks},
        rounds=rounds or usual.rounds,
        learning_rate=learning_rate or usual.learning_rate,
    )


def scenarios_of(plan: NetworkTraining) -> list[Scenario]:
    """What each server plays."""
    return [task(name) for name, count in plan.tasks.items() for _ in range(count)]


def first_seed(plan: NetworkTraining, k: int) -> int:
    """The seed of the first server in round `k`; the next servers have the next ones.

    Another round or training seed begins elsewhere in the split, which goes round at its end.
    """
    servers, split = sum(plan.tasks.values()), SEEDS["train"]
    return split[(plan.seed * plan.rounds + k) * servers % (len(split) - servers)]


def seeds_of(plan: NetworkTraining) -> dict[str, list[int]]:
    """First and last of the seeds that a training begins servers with, and of those it is chosen by.

    A server whose episode ends goes on with seeds of 63 bits that its first one draws.
    """
    begun = [first_seed(plan, k) for k in range(plan.rounds)]
    last = max(begun) + sum(plan.tasks.values()) - 1
    return {
        "train": [min(begun), last],
        "select": [SEEDS["select"][0], SEEDS["select"][plan.select - 1]],
    }


def fallen(rate: float, k: int, count: int) -> float:
    """`rate` at the first of `count` rounds, a tenth of it at the last."""
    return rate * (1.0 - 0.9 * k / max(count - 1, 1))


def imitation_rate(plan: NetworkTraining, k: int) -> float:
    """The learning rate of round `k`, which imitates."""
    return fallen(IMITATION_RATE, k, plan.imitated)


def rate_of(plan: NetworkTraining, k: int) -> float:
    """The learning rate of round `k`, which learns by reward."""
    return fallen(plan.learning_rate, k - plan.imitated, plan.rounds - plan.imitated)
