"""A network's training from round to round: what is kept is what did best on the selection seeds.

for each round:
    the learner plays and learns
    its network plays the selection seeds; the best so far is kept
    a checkpoint is written: the same training goes on from here, and ends with the same weights"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kv_cache_rl.agents.checkpoint import read, write
from kv_cache_rl.agents.training.deep_q import DeepQ
from kv_cache_rl.agents.training.learner import Learner, one_thread
from kv_cache_rl.agents.training.masked_ppo import MaskedPPO
from kv_cache_rl.agents.training.plan import NetworkTraining
from kv_cache_rl.search.serving.rollout import episode_of
from kv_cache_rl.sim.serving.heuristics import NEURAL
from kv_cache_rl.sim.serving.network import LAYERS, memory_of_layers
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import task

LEARNERS: dict[str, Callable[[NetworkTraining, Path | None], Learner]] = {
    "neural": DeepQ,
    "ppo": MaskedPPO,
}


KEPT = "kept "
"""Before the names of the best layers in a checkpoint."""


@dataclass(slots=True)
class Progress:
    """A training between two rounds."""

    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """Of the learner."""
    kept: dict[str, np.ndarray] = field(default_factory=dict)
    """The best layers so far."""
    kept_score: float = -1.0
    curve: list[dict] = field(default_factory=list)


def train(
    plan: NetworkTraining,
    progress: Progress | None = None,
    keep: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    log: Path | None = None,
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """The layers that did best on the selection seeds, and the training curve.

    Args:
        progress: where to go on, in place; None: at the beginning.
        keep: called with the progress after each round.
        tell: called with (decisions made, decisions in all).
        log: folder for TensorBoard, which is written to where that is installed.

    Raises:
        TrainingError: a gradient is no number.
    """
    p = progress or Progress()
    learner = LEARNERS[plan.agent](plan, log if find_spec("tensorboard") else None)
    if p.arrays:
        learner.restore(p.arrays)
    total = plan.rounds * plan.decisions
    for k in range(len(p.curve), plan.rounds):
        with one_thread():
            said = learner.learn(k, lambda made, k=k: tell(min(k * plan.decisions + made, total), total))
        layers = learner.layers()
        scores = {name: mean_score(layers, name, SEEDS["select"][: plan.select]) for name in plan.tasks}
        kind = "imitates" if k < plan.imitated else "learns"
        p.curve.append({"round": k + 1, "kind": kind, **said, "select": scores})
        mean = float(np.mean(list(scores.values())))
        if mean > p.kept_score:
            p.kept, p.kept_score = layers, mean
        p.arrays = learner.arrays()
        keep(p)
        tell((k + 1) * plan.decisions, total)
    return p.kept, p.curve


def mean_score(layers: dict[str, np.ndarray], name: str, seeds: Sequence[int]) -> float:
    """Mean score of a network on a task's seeds; layers are rounded as a file holds them."""
    memory = memory_of_layers({one: layers[one].astype(np.float32) for one in LAYERS})
    with ThreadPoolExecutor(2) as pool:
        played = pool.map(lambda seed: report(episode_of(task(name), seed, NEURAL, memory)).score, seeds)
        return float(np.mean(list(played)))


def save(path: Path, plan: NetworkTraining, code: str, progress: Progress) -> None:
    """Writes how far a training by this plan and code is."""
    arrays = {f"{KEPT}{name}": array for name, array in progress.kept.items()} | progress.arrays
    write(path, plan, code, arrays, {"kept_score": progress.kept_score, "curve": progress.curve})


def loaded(path: Path, plan: NetworkTraining, code: str) -> Progress | None:
    """How far the training is; None where there is no checkpoint.

    Raises:
        CheckpointError: the file was changed, or belongs to other settings or to other code.
        OSError: it cannot be read.
    """
    found = read(path, plan, code)
    if found is None:
        return None
    arrays, rest = found
    kept = {name.removeprefix(KEPT): array for name, array in arrays.items() if name.startswith(KEPT)}
    return Progress({name: one for name, one in arrays.items() if not name.startswith(KEPT)}, kept, **rest)
