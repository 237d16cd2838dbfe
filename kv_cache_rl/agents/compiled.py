"""Agents whose decisions are compiled: the heuristics, the table, and the networks."""

from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from kv_cache_rl.agents.networks import SUFFIX, WeightsError, read_network, remedy, shipped, shipped_memory
from kv_cache_rl.core.errors import raised
from kv_cache_rl.files import regular
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, NEURAL, TABULAR, choose, new_memory
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH
from kv_cache_rl.sim.serving.spec import ServingError
from kv_cache_rl.sim.serving.tabular import N_CHOICES, STATES

TABLE, TABLES = "qlearning", ".npz"
"""The agent that plays a table, and how files of tables end."""
WEIGHTS = (SUFFIX, TABLES)
"""How the files end that `serving train` writes."""


@dataclass(slots=True)
class CompiledAgent:
    """An agent that plays compiled code; `search.serving.rollout.play` takes its `which` and `memory`."""

    name: str
    which: int
    start: np.ndarray
    """Memory before the first decision, float64."""
    rich: bool = False
    """Whether it needs all 24 numbers."""
    memory: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.memory = self.start.copy()

    def reset(self, seed: int = 0) -> None:
        """Forgets everything; random draws come from this seed."""
        # By its code too: a file of weights may be called as a heuristic is.
        one = HEURISTICS.get(self.name)
        own = one is not None and one.which == self.which
        self.memory = new_memory(self.name, seed) if own else self.start.copy()

    def act(self, observation: np.ndarray, mask: np.ndarray) -> int:
        """The action for a view of 20 or 24 numbers and a mask ``[18]``.

        Raises:
            ServingError: the view has another length, or the agent needs the rich one.
        """
        shown = len(observation)
        if shown not in (len(OBSERVATION), len(RICH)) or (self.rich and shown < len(RICH)):
            needed = len(RICH) if self.rich else f"{len(OBSERVATION)} or {len(RICH)}"
            raise ServingError(
                f"{self.name} needs an observation of {needed} numbers, got {shown}; "
                "make the environment with observation='rich'"
            )
        view = np.zeros(len(RICH), np.float32)
        view[:shown] = observation
        return choose(self.which, view, np.ascontiguousarray(mask, np.int8), self.memory)


def heuristic(name: str) -> CompiledAgent:
    """A heuristic by its name in `sim.serving.heuristics.HEURISTICS`."""
    one = HEURISTICS[name]
    return CompiledAgent(name, one.which, new_memory(name), one.rich)


def qlearning() -> CompiledAgent:
    """The table that `kv-cache-rl serving train --policy qlearning` made."""
    return CompiledAgent("qlearning", TABULAR, shipped_table())


def network(name: str) -> CompiledAgent:
    """The network that `kv-cache-rl serving train --agent neural` or `ppo` made and that ships.

    Raises:
        WeightsError: the file cannot be used.
    """
    return CompiledAgent(name, NEURAL, shipped_memory(name), rich=True)


def trained(path: str | Path) -> CompiledAgent:
    """The network or the table in a file that `serving train` wrote.

    Raises:
        WeightsError: the file cannot be used.
    """
    path = Path(path)
    if path.suffix == TABLES:
        return CompiledAgent(path.stem, TABULAR, read_table(path))
    return CompiledAgent(path.stem, NEURAL, read_network(path, path.stem)[0], rich=True)


def shipped_table() -> np.ndarray:
    """The committed table, float64 ``[STATES * N_CHOICES]``."""
    return read_table(shipped(TABLE, TABLES))


def read_table(path: Path) -> np.ndarray:
    """The table in a file, float64 ``[STATES * N_CHOICES]``.

    Raises:
        WeightsError: there is no such file, it is damaged, or holds what is no table of this release.
    """
    try:
        with regular(path).open("rb") as file, np.load(file) as stored:
            table = stored["table"].reshape(-1)
    except OSError as wrong:
        raise WeightsError(f"{path}: {wrong.strerror or wrong}; {remedy(TABLE)}") from None
    except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as wrong:
        raise WeightsError(f"{path}: holds no table ({raised(wrong)}); {remedy(TABLE)}") from None
    if table.dtype.kind != "f" or len(table) != STATES * N_CHOICES or not np.isfinite(table).all():
        held = f"{len(table):,} entries of type {table.dtype}"
        raise WeightsError(
            f"{path}: holds {held}, and must have {STATES * N_CHOICES:,} finite floats; {remedy(TABLE)}"
        )
    return table.astype(np.float64)
