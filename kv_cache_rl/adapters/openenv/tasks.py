"""The tasks of an OpenEnv environment: its splits, and which task a reset asks for.

A task's id says where it belongs: WORLD-SPLIT-TIER-NUMBER, such as ``eviction-eval-hard-0007-v2`` and
``serving-test-easy-30000``. The tiers take turns, so every third task of a split is a hard one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.numbers import shown, whole_number
from kv_cache_rl.sim.eviction import DIFFICULTIES, SPLITS, load_scenarios
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.spec import TASKS, Scenario

KINDS = {"train": "train", "eval": "validation", "select": "validation", "test": "test"}
"""Split → what OpenEnv calls its kind."""
LONGEST_ID = 255
"""Characters of an episode's id; OpenEnv's own limit over HTTP."""


@dataclass(frozen=True, slots=True)
class Task:
    """One task, as the task routes list it."""

    id: str
    split: str
    index: int
    """From 0 on, in its split."""
    difficulty: str


@dataclass(frozen=True, slots=True)
class Tasks:
    """The committed tasks of one world."""

    splits: tuple[str, ...]
    ids: Callable[[str], Sequence[str]]
    """Split → the ids of its tasks, in their order."""

    def listed_splits(self) -> list[dict[str, str]]:
        """Each split with its kind."""
        return [{"name": split, "type": KINDS[split]} for split in self.splits]

    def of(self, split: Any) -> Sequence[str]:
        """The ids of a split. Raises Refused where there is none of that name."""
        if not isinstance(split, str) or split not in self.splits:
            raise Refused(unknown("split", split, self.splits))
        return self.ids(split)

    def task(self, split: Any, index: Any) -> Task:
        """One task. Raises Refused for an unknown split, or an index that is out of range."""
        ids = self.of(split)
        number = whole_number(f"index of {split}", index, 0, len(ids) - 1)
        return Task(ids[number], split, number, ids[number].split("-")[2])

    def listed(self, split: Any, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """The tasks from `start` up to `stop`, as a slice of Python's takes them."""
        return [
            asdict(self.task(split, index))
            for index in range(*slice(start, stop).indices(len(self.of(split))))
        ]

    def named(self, name: Any) -> Task:
        """The task of that id. Raises Refused where there is none."""
        split = name.split("-")[1] if isinstance(name, str) and name.count("-") >= 3 else ""
        ids = self.ids(split) if split in self.splits else ()
        if name not in ids:
            first = self.ids(self.splits[0])[0]
            raise Refused(
                f"task is {shown(name)}, which no task has as its id; give one such as {first}, or an index"
            )
        return self.task(split, ids.index(name))

    def asked(self, split: Any, index: Any, seed: Any, task: Any, played: int) -> Task:
        """The task that a reset asks for: by id; by index; the one that the seed falls on; else the next.

        Args:
            split: train where it is not given.
            played: how many episodes this session has had.

        Raises:
            Refused: a value that is none, or an id beside a split or an index.
        """
        if seed is not None:
            whole_number("seed", seed, 0)
        if task is not None:
            if split is not None or index is not None:
                raise Refused(
                    f"task is {shown(task)}, and a split or an index is given too; leave one of them out"
                )
            return self.named(task)
        split = self.splits[0] if split is None else split
        if index is None:
            index = (played if seed is None else seed) % len(self.of(split))
        return self.task(split, index)


@cache
def _of_scenarios(split: str) -> tuple[str, ...]:
    return tuple(scenario.id for scenario in load_scenarios(split=split))


@cache
def _of_seeds(split: str) -> tuple[str, ...]:
    return tuple(f"serving-{split}-{tier}-{seed}" for seed in SEEDS[split] for tier in DIFFICULTIES)


EVICTION = Tasks(SPLITS, _of_scenarios)
SERVING = Tasks(tuple(SEEDS), _of_seeds)


def of_serving(task: Task, ticks: Any = None) -> tuple[Scenario, int]:
    """A task's server and the seed of its traffic. Raises Refused for a length that is none."""
    if ticks is None:
        return TASKS[task.difficulty], int(task.id.split("-")[3])
    length = whole_number("ticks", ticks, 1, TASKS[task.difficulty].ticks)
    return replace(TASKS[task.difficulty], ticks=length), int(task.id.split("-")[3])


def episode_name(given: Any, task: Task) -> str:
    """The id of an episode, that of its task where none is given. Raises Refused for one that is none."""
    if given is None:
        return task.id
    if not isinstance(given, str) or not given or len(given) > LONGEST_ID or not given.isprintable():
        raise Refused(
            f"episode_id is {shown(given)}; give a text of 1 to {LONGEST_ID} characters, or leave it out"
        )
    return given


def refuse_others(others: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises Refused where a reset is given what it does not know."""
    for name in others:
        raise Refused(unknown("argument of reset", name, known))
