"""A training in its folder: what was asked, how far it is, and how it goes on where it was interrupted.

The folder holds `run.json` (what was asked), `log.jsonl` (a line per step), `checkpoint.pt` (weights and the
optimiser's state) and `adapter/`."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json, write_json
from training.models import Loaded, save
from training.optimiser import MasterAdamW

EVERY = 60.0
"""Seconds between checkpoints, which is what an interruption costs at most."""


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

    @property
    def unit(self) -> str:
        """What is counted."""
        return "examples" if self.kind == "sft" else "episodes"


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    seen: int = 0
    """Examples, or episodes."""
    steps: int = 0
    seconds: float = 0.0


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


class Run:
    """A run that begins, or goes on from its checkpoint."""

    def __init__(
        self, loaded: Loaded, optimiser: MasterAdamW, plan: Plan, folder: Path, tell: Callable[[str], None]
    ) -> None:
        begin(folder, plan)
        self._loaded, self._optimiser, self._folder = loaded, optimiser, folder
        self._plan, self._tell = plan, tell
        self.now = self._resumed()
        self._began = self._kept = time.monotonic()
        self._seen_before, self._seconds_before = self.now.seen, self.now.seconds

    @property
    def done(self) -> bool:
        return self.now.seen >= self._plan.examples

    def _resumed(self) -> Progress:
        """Restores the checkpoint, where there is one, and drops what the log says of later steps."""
        checkpoint, log = self._folder / "checkpoint.pt", self._folder / "log.jsonl"
        if not checkpoint.exists():
            log.unlink(missing_ok=True)
            return Progress()
        stored = torch.load(checkpoint, weights_only=True)
        self._optimiser.restore(stored["optimiser"])
        now = Progress(**stored["progress"])
        lines = log.read_text().splitlines()[: now.steps]
        log.write_text("".join(line + "\n" for line in lines))
        self._tell(f"goes on after {now.seen}")
        return now

    def step(self, count: int, told: dict) -> None:
        """Counts a step with so many examples or episodes, and logs what is told of it."""
        now = self.now
        now.seen, now.steps = now.seen + count, now.steps + 1
        now.seconds = self._seconds_before + time.monotonic() - self._began
        entry = {"step": now.steps, self._plan.unit: now.seen, **told, "seconds": round(now.seconds, 1)}
        with (self._folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def say(self, what: str) -> None:
        """Tells how far it is, and how long it will take."""
        now, asked, unit = self.now, self._plan.examples, self._plan.unit
        pace = (now.seconds - self._seconds_before) / max(now.seen - self._seen_before, 1)
        self._tell(f"{now.seen}/{asked} {unit}, {what}, {pace * (asked - now.seen) / 60:.0f} min left")

    def keep(self, every: float = 0.0) -> None:
        """Writes checkpoint and adapter, whole or not at all, unless that was done `every` seconds ago."""
        if time.monotonic() - self._kept < every:
            return
        torch.save(
            {"optimiser": self._optimiser.state(), "progress": asdict(self.now)},
            self._folder / "checkpoint.part",
        )
        (self._folder / "checkpoint.part").replace(self._folder / "checkpoint.pt")
        save(self._loaded, self._folder / "adapter")
        self._kept = time.monotonic()
