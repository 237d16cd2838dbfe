"""Supervised fine-tuning: the expert's answers, one window an example.

    loss = mean over the choices in the answers of -log p(choice), verbs with a larger weight
    the rate rises over the first examples, then falls to a tenth along a cosine

A run folder holds `run.json` (what was asked), `log.jsonl` (a line per step), `checkpoint.pt` (weights and
the optimiser's state) and `adapter/`. The same command goes on where a run was interrupted."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json, write_json
from training.batches import LENGTH, answer_logits, batches, packed, weighted_loss
from training.models import Loaded, save
from training.optimiser import MasterAdamW

EVERY = 60.0
"""Seconds between checkpoints, which is what an interruption costs at most."""
_WARM = 0.04
_LEAST = 0.1


class RunError(Refused):
    """A run folder that this command cannot go on with; says what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked to do."""

    model: str
    kind: str
    data: list[str]
    examples: int
    batch: int
    rate: float
    seed: int
    environment_version: int | str = ENVIRONMENT_VERSION


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    seen: int = 0
    """Examples, or episodes."""
    steps: int = 0
    seconds: float = 0.0


def rate_share(done: float) -> float:
    """The share of the full rate after `done` (0 to 1) of the run."""
    if done < _WARM:
        return (done + 0.002) / (_WARM + 0.002)
    along = (done - _WARM) / (1 - _WARM)
    return _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * min(along, 1.0)))


def begin(folder: Path, plan: Plan) -> None:
    """Makes the folder, or checks that it is a run of this plan. More or fewer examples may be asked for.

    Raises:
        RunError: it is another run, or one of another environment version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.json"
    if file.exists():
        stored = read_json(file)
        if stored.get("environment_version") != plan.environment_version:
            raise RunError(
                f"{folder} is a run of environment version {stored.get('environment_version')}, this is "
                f"{plan.environment_version}; give --out another folder"
            )
        differing = [k for k, v in asdict(plan).items() if stored.get(k) != v and k != "examples"]
        if differing:
            name = differing[0]
            raise RunError(
                f"{folder} is another run: its {name} is {stored.get(name)!r}, asked for is "
                f"{asdict(plan)[name]!r}; give --out another folder, or the same options"
            )
    write_json(file, asdict(plan))


def train(
    loaded: Loaded,
    rows: Sequence[dict],
    plan: Plan,
    folder: Path,
    tell: Callable[[str], None],
    length: int = LENGTH,
) -> None:
    """Trains until `plan.examples` are seen; goes on from the folder's checkpoint."""
    begin(folder, plan)
    optimiser = MasterAdamW(loaded.network.parameters(), plan.rate)
    now = resumed(folder, optimiser, tell)
    loaded.network.train()
    began = kept = time.monotonic()
    before, first, running = now.seconds, now.seen, None
    stream = batches(loaded.tokenizer, rows, plan.batch, plan.seed, length)
    with (folder / "log.jsonl").open("a") as log:
        for trees in islice(stream, now.steps, None):
            if now.seen >= plan.examples:
                break
            batch = packed(trees, loaded.tokenizer.pad_token_id, length)
            logits, chosen = answer_logits(loaded, batch)
            loss = weighted_loss(loaded.tokenizer, logits, chosen, batch["token"])
            loss.backward()
            norm = optimiser.step(rate_share(now.seen / plan.examples))
            now.seen, now.steps = now.seen + sum(len(tree.branches) for tree in trees), now.steps + 1
            now.seconds = before + time.monotonic() - began
            value = float(loss.detach())
            running = value if running is None else 0.95 * running + 0.05 * value
            entry = {
                "step": now.steps, "examples": now.seen, "loss": round(value, 4),
                "tokens": batch["ids"].numel(),
                "right": round(float((logits.argmax(-1) == chosen).float().mean()), 4),
                "norm": round(norm, 3), "seconds": round(now.seconds, 1),
            }  # fmt: skip
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if now.steps % 10 == 0:
                left = (now.seconds - before) / max(now.seen - first, 1) * (plan.examples - now.seen) / 60
                tell(f"{now.seen}/{plan.examples} examples, loss {running:.3f}, {left:.0f} min left")
            if time.monotonic() - kept > EVERY:
                keep(loaded, optimiser, folder, now)
                kept = time.monotonic()
    keep(loaded, optimiser, folder, now)


def resumed(folder: Path, optimiser: MasterAdamW, tell: Callable[[str], None]) -> Progress:
    """Restores the checkpoint of a run, where it has one, and drops what the log says of later steps."""
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    if not checkpoint.exists():
        log.unlink(missing_ok=True)
        return Progress()
    stored = torch.load(checkpoint, weights_only=True)
    optimiser.restore(stored["optimiser"])
    now = Progress(**stored["progress"])
    lines = log.read_text().splitlines()[: now.steps]
    log.write_text("".join(line + "\n" for line in lines))
    tell(f"goes on after {now.seen}")
    return now


def keep(loaded: Loaded, optimiser: MasterAdamW, folder: Path, now: Progress) -> None:
    """Writes the checkpoint, whole or not at all, and the adapter."""
    torch.save({"optimiser": optimiser.state(), "progress": asdict(now)}, folder / "checkpoint.part")
    (folder / "checkpoint.part").replace(folder / "checkpoint.pt")
    save(loaded, folder / "adapter")
