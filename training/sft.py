"""Supervised fine-tuning: the expert's answers, one window an example.

    loss = mean over the tokens of the answers of -log p(token)
    the rate rises over the first examples, then falls to a tenth along a cosine

A run folder holds `run.json` (what was asked), `log.jsonl` (a line per step), `checkpoint.pt` (weights and
the optimiser's state) and `adapter/`. The same command goes on where a run was interrupted."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json, write_json
from training.batches import Tokens, answer_logits, batches
from training.models import Loaded, save
from training.optimiser import MasterAdamW

EVERY = 180.0
"""Seconds between checkpoints."""
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
    loaded: Loaded, examples: Sequence[Tokens], plan: Plan, folder: Path, tell: Callable[[str], None]
) -> None:
    """Trains until `plan.examples` are seen; goes on from the folder's checkpoint."""
    begin(folder, plan)
    optimiser = MasterAdamW(loaded.network.parameters(), plan.rate)
    checkpoint = folder / "checkpoint.pt"
    seen = steps = 0
    seconds = 0.0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        optimiser.restore(stored["optimiser"])
        seen, steps, seconds = stored["seen"], stored["steps"], stored["seconds"]
        tell(f"goes on after {seen} examples")
    loaded.network.train()
    began = kept = time.monotonic()
    before, first = seconds, seen
    running = None
    with (folder / "log.jsonl").open("a") as log:
        for ids, wanted, count in _from(
            batches(examples, plan.batch, loaded.tokenizer.pad_token_id, plan.seed), steps
        ):
            if seen >= plan.examples:
                break
            logits, answers = answer_logits(loaded, ids, wanted)
            loss = torch.nn.functional.cross_entropy(logits, answers)
            loss.backward()
            norm = optimiser.step(rate_share(seen / plan.examples))
            seen, steps = seen + count, steps + 1
            value = float(loss.detach())
            running = value if running is None else 0.95 * running + 0.05 * value
            seconds = before + time.monotonic() - began
            entry = {
                "step": steps, "examples": seen, "loss": round(value, 4), "tokens": ids.numel(),
                "right": round(float((logits.argmax(-1) == answers).float().mean()), 4),
                "norm": round(norm, 3), "seconds": round(seconds, 1),
            }  # fmt: skip
            log.write(json.dumps(entry) + "\n")
            log.flush()
            if steps % 10 == 0:
                left = (plan.examples - seen) * (seconds - before) / max(seen - first, 1)
                tell(f"{seen}/{plan.examples} examples, loss {running:.3f}, {left / 60:.0f} min left")
            if time.monotonic() - kept > EVERY:
                keep(loaded, optimiser, folder, seen, steps, seconds)
                kept = time.monotonic()
    keep(loaded, optimiser, folder, seen, steps, seconds)


def _from(stream, skipped: int):
    """The stream without what a run saw before it was interrupted."""
    for k, item in enumerate(stream):
        if k >= skipped:
            yield item


def keep(loaded: Loaded, optimiser: MasterAdamW, folder: Path, seen: int, steps: int, seconds: float) -> None:
    """Writes the checkpoint, whole or not at all, and the adapter."""
    state = {"optimiser": optimiser.state(), "seen": seen, "steps": steps, "seconds": seconds}
    torch.save(state, folder / "checkpoint.part")
    (folder / "checkpoint.part").replace(folder / "checkpoint.pt")
    save(loaded, folder / "adapter")
