"""Where the scenarios of episodes come from: a committed set, a file, or the generator.

The seed of an episode chooses its scenario, and nothing else does: of a set with 200 scenarios, seed 7 plays
number 7, and so does seed 207. A generated scenario is drawn with the seed itself."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from kv_cache_rl.sim.eviction.decisions import DecisionError
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.scenarios import load_file, set_path
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, SPLITS, Scenario, ScenarioError, one_of
from kv_cache_rl.sim.eviction.state import State

COMMITTED, GENERATED = "committed", "generated"
Start = tuple[Scenario, State]
"""A scenario and its first moment; the state is shared, so copy what is played."""


class Source(Protocol):
    """Scenarios of one difficulty, by the seed of an episode and by id."""

    @property
    def example(self) -> str:
        """A scenario that `reset` takes, as Python writes it."""
        ...

    def draw(self, seed: int) -> Start: ...

    def find(self, scenario_id: str) -> Start: ...


class Listed:
    """Scenarios of a set or a file, each made a state once. Copies of an environment share it."""

    def __init__(self, scenarios: Sequence[Scenario], where: str) -> None:
        self.scenarios, self.where = tuple(scenarios), where
        self._places = {scenario.id: k for k, scenario in enumerate(self.scenarios)}
        self._starts: dict[int, State] = {}

    @property
    def example(self) -> str:
        return repr(self.scenarios[0].id)

    def draw(self, seed: int) -> Start:
        return self._start(seed % len(self.scenarios))

    def find(self, scenario_id: str) -> Start:
        """The scenario with this id.

        Raises:
            ScenarioError: there is none.
        """
        if scenario_id not in self._places:
            one_of(f"scenario of {self.where}", scenario_id, tuple(self._places))
        return self._start(self._places[scenario_id])

    def __deepcopy__(self, memo: dict) -> "Listed":
        return self

    def _start(self, place: int) -> Start:
        if place not in self._starts:
            self._starts[place] = new_state(self.scenarios[place])
        return self.scenarios[place], self._starts[place]


class Committed(Listed):
    """A committed set; what is pickled is its name."""

    def __init__(self, difficulty: str, split: str) -> None:
        super().__init__(load_file(set_path(split, difficulty)), f"the {split} set, {difficulty}")
        self._name = difficulty, split

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return committed, self._name


class Generated:
    """Unselected scenarios of the generator, without floor and best return: a fresh one for every seed."""

    def __init__(self, difficulty: str, split: str) -> None:
        self.difficulty, self.split = difficulty, split

    @property
    def example(self) -> str:
        return "load_scenarios()[0]"

    def draw(self, seed: int) -> Start:
        scenario = generate(self.difficulty, seed, self.split)
        # With its seed in the id, as the committed ones have the same names otherwise.
        name = scenario.id.replace(f"-{self.split}-", f"-{self.split}{seed}-", 1)
        return replace(scenario, id=name), new_state(scenario)

    def find(self, scenario_id: str) -> Start:
        """Raises ScenarioError: a generated scenario has no place in a list."""
        raise ScenarioError(
            f"scenario is {scenario_id!r}, but source={GENERATED!r} draws scenarios by seed; reset with "
            f"seed=..., or make the environment with source={COMMITTED!r} or a file"
        )


def source_of(difficulty: Any, split: Any, source: Any) -> Source:
    """What the arguments of an environment name.

    Args:
        source: ``"committed"``, ``"generated"``, or the path of a file of scenarios.

    Raises:
        ScenarioError: an unknown difficulty or split, or a file that cannot be used.
        DecisionError: `source` is none of these.
    """
    one_of("difficulty", difficulty, DIFFICULTIES)
    one_of("split", split, SPLITS)
    if not isinstance(source, str | os.PathLike) or not str(source):
        choices = f"{COMMITTED!r}, {GENERATED!r}, or the path of a file of scenarios"
        raise DecisionError(f"source is {source!r}; use {choices}")
    if source == GENERATED:
        return Generated(difficulty, split)
    if source == COMMITTED:
        return committed(difficulty, split)
    if not Path(source).suffix and not Path(source).exists():
        raise DecisionError(
            f"source is {str(source)!r}, and there is no such file; use {COMMITTED!r}, {GENERATED!r}, or a "
            "file that `kv-cache-rl scenarios generate` made"
        )
    return _of_file(Path(source), difficulty)


@cache
def committed(difficulty: str, split: str) -> Committed:
    """A committed set, read once."""
    return Committed(difficulty, split)


def _of_file(path: Path, difficulty: str) -> Listed:
    scenarios = load_file(path)
    fitting = [scenario for scenario in scenarios if scenario.difficulty == difficulty]
    if not fitting:
        there = scenarios[0].difficulty
        raise ScenarioError(
            f"{path}: holds {len(scenarios)} scenarios, none of them {difficulty}; "
            f"make KVEviction-{there}-v0, or give a file with {difficulty} ones"
        )
    return Listed(fitting, str(path))
