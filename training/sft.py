"""Supervised fine-tuning: the expert's answers, one window an example.

loss = mean over the choices in the answers of -log p(choice), verbs with a larger weight
the rate rises over the first examples, then falls to a tenth along a cosine"""

import math
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from training.batches import LENGTH, answer_logits, batches, packed, weighted_loss
from training.models import Loaded
from training.optimiser import MasterAdamW
from training.run import EVERY, Plan, Run

_WARM = 0.04
_LEAST = 0.1


def rate_share(done: float) -> float:
    """The share of the full rate after `done` (0 to 1) of the run."""
    if done < _WARM:
        return (done + 0.002) / (_WARM + 0.002)
    along = (done - _WARM) / (1 - _WARM)
    return _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


def train(
    loaded: Loaded,
    rows: Sequence[dict],
    plan: Plan,
    folder: Path,
    tell: Callable[[str], None],
    length: int = LENGTH,
) -> None:
    """Trains until `plan.examples` are seen; goes on from the folder's checkpoint."""
    optimiser = MasterAdamW(loaded.network.parameters(), plan.rate)
    run = Run(loaded, optimiser, plan, folder, tell)
    loaded.network.train()
    running = None
    stream = batches(loaded.tokenizer, rows, plan.batch, plan.seed, length)
    for trees in islice(stream, run.now.steps, None):
        if run.done:
            break
        batch = packed(trees, loaded.tokenizer.pad_token_id, length)
        logits, chosen = answer_logits(loaded, batch)
        loss = weighted_loss(loaded.tokenizer, logits, chosen, batch["token"])
        loss.backward()
        norm = optimiser.step(rate_share(run.now.seen / plan.examples))
        value = float(loss.detach())
        running = value if running is None else 0.95 * running + 0.05 * value
        told = {
            "loss": round(value, 4),
            "tokens": batch["ids"].numel(),
            "right": round(float((logits.argmax(-1) == chosen).float().mean()), 4),
            "norm": round(norm, 3),
        }
        run.step(sum(len(tree.branches) for tree in trees), told)
        if run.now.steps % 10 == 0:
            run.say(f"loss {running:.3f}")
        run.keep(EVERY)
    run.keep()
