"""Training deciders in the compiled simulator: a search asks, scenarios answer.

    for each generation:
        candidates = search.ask()
        search.tell(each candidate's mean normalised score on some of the scenarios that are learned from)
        now and then: score the search's mean on every part of the school, and keep the best

Which scenarios a generation plays is drawn anew: on the same few hundred a search learns them by heart.

What has been played is kept in a journal. A training that goes on asks the same search the same
questions, reads the answers that it has, and ends with the same weights."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.score import normalized_score
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, Scenario
from kv_cache_rl.sim.eviction.state import State

SELECT_SHARE = 4
"""Of the scenarios of each tier, the last in so many are not learned from, and help to choose."""

Play = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Plays weights to an episode's end: ``(scn, live, weights) -> return``; `live` is advanced in place."""


class Search(Protocol):
    """An evolutionary search. Its candidates depend on nothing but what it was told before."""

    def ask(self) -> np.ndarray:
        """The weights to try, float64 ``[P, D]``."""

    def tell(self, scores: np.ndarray) -> None:
        """How good those were, float64 ``[P]``; more is better."""

    def mean(self) -> np.ndarray:
        """Where the search is now, float64 ``[D]``."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """Scenarios that are played over and over."""

    scenarios: tuple[Scenario, ...]
    states: tuple[State, ...]

    def some(self, per_tier: int, seed: Sequence[int]) -> "Lessons":
        """So many of each tier, drawn; all of a tier that has no more."""
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for tier in DIFFICULTIES:
            of_tier = [k for k, made in enumerate(self.scenarios) if made.difficulty == tier]
            if len(of_tier) > per_tier:
                of_tier = sorted(rng.choice(of_tier, per_tier, replace=False).tolist())
            chosen += of_tier
        return Lessons(tuple(self.scenarios[k] for k in chosen), tuple(self.states[k] for k in chosen))

    def scores(self, play: Play, weights: np.ndarray) -> list[float]:
        """The normalised score of weights on each scenario."""
        return [
            normalized_score(play(state.scn, state.live.copy(), weights), made.floor, made.best)
            for made, state in zip(self.scenarios, self.states, strict=True)
        ]

    def by_tier(self, play: Play, weights: np.ndarray) -> dict[str, float]:
        """The mean normalised score on each tier that there is."""
        scores = self.scores(play, weights)
        tiers = [made.difficulty for made in self.scenarios]
        return {
            tier: _mean([score for score, its in zip(scores, tiers, strict=True) if its == tier])
            for tier in DIFFICULTIES
            if tier in tiers
        }


def lessons(scenarios: Sequence[Scenario]) -> Lessons:
    """Scenarios, ready to be played."""
    return Lessons(tuple(scenarios), tuple(new_state(made) for made in scenarios))


def parted(scenarios: Sequence[Scenario]) -> tuple[list[Scenario], list[Scenario]]:
    """The scenarios that are learned from, and the last quarter of each tier, which only helps to choose."""
    learn, select = [], []
    for tier in DIFFICULTIES:
        group = [made for made in scenarios if made.difficulty == tier]
        cut = len(group) - len(group) // SELECT_SHARE
        learn += group[:cut]
        select += group[cut:]
    return learn, select


@dataclass(frozen=True, slots=True)
class School:
    """What a training plays on. What is held out only measures."""

    learn: Lessons
    select: Lessons
    """Not learned from; they help to choose the generation that is kept."""
    held_out: Lessons | None = None

    @property
    def share(self) -> float:
        """What the scenarios that are not learned from count in that choice: as much as all others, each."""
        few, many = len(self.select.scenarios), len(self.learn.scenarios)
        return few / (few + many)


def school(scenarios: Sequence[Scenario], held_out: Sequence[Scenario] = ()) -> School:
    """A school of a set of scenarios, and of others that only measure.

    Of fewer than `SELECT_SHARE` scenarios a tier none is left to choose, and those that are learned from do.
    """
    learn, select = parted(scenarios)
    return School(lessons(learn), lessons(select or learn), lessons(held_out) if held_out else None)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a decider is trained; the committed weights say the same of themselves."""

    generations: int
    population: int = 24
    seed: int = 0
    sigma: float = 0.3
    """First step size, in logarithms of constants and usual weights."""
    lessons: int = 150
    """Scenarios of each tier that a generation plays, at most."""
    look_every: int = 5
    """Generations between looks at how the search stands."""


def train(
    search: Search,
    play: Play,
    school: School,
    plan: Plan,
    journal: Journal | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[np.ndarray, list[dict]]:
    """The weights that `kept` chooses, and the curve.

    Args:
        journal: keeps what was played, and says what has been; None: nothing is kept.
        tell: called with (generations played, generations in all).

    Returns:
        weights, float64 ``[D]``; a point for each look: ``generation``, and ``learn``, ``select`` and
        ``held_out``, the mean scores by tier of the search's mean.
    """
    rows = {} if journal is None else journal.rows
    weights: dict[int, np.ndarray] = {}
    curve: list[dict] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for g in range(plan.generations + 1):
            if g % plan.look_every == 0 or g == plan.generations:
                point = rows.get(f"look {g}") or _looked_at(search.mean(), play, school, g, pool)
                _keep(journal, f"look {g}", point)
                curve.append(point)
                weights[g] = search.mean()
            tell(g, plan.generations)
            if g == plan.generations:
                break
            candidates = search.ask()
            row = rows.get(f"generation {g}") or _tried(candidates, play, school, plan, g, pool)
            _keep(journal, f"generation {g}", row)
            search.tell(np.array(row["scores"]))
    return weights[kept(curve, school.share)["generation"]], curve


def kept(curve: Sequence[dict], share: float) -> dict:
    """The point of a curve that did best on all scenarios of the school but the held-out ones; of equal
    ones the first.

    Those that are not learned from count for their `share`. Alone they are too few to choose: a mean of
    150 scores is uncertain by 0.04.
    """

    def score(point: dict) -> float:
        learn, select = (_mean(list(point[part].values())) for part in ("learn", "select"))
        return round((1 - share) * learn + share * select, 9)

    return max(curve, key=score)


def _tried(candidates: np.ndarray, play: Play, school: School, plan: Plan, generation: int, pool) -> dict:
    lessons = school.learn.some(plan.lessons, (plan.seed, generation))
    return {"scores": list(pool.map(lambda one: _mean(lessons.scores(play, one)), candidates))}


def _looked_at(weights: np.ndarray, play: Play, school: School, generation: int, pool) -> dict:
    parts = {"learn": school.learn, "select": school.select, "held_out": school.held_out}
    jobs = {name: pool.submit(part.by_tier, play, weights) for name, part in parts.items() if part}
    return {"generation": generation, **{name: job.result() for name, job in jobs.items()}}


def _mean(values: Sequence[float]) -> float:
    """The mean, rounded so that it is the same whatever the order of the sum."""
    return round(float(np.mean(values)), 9) if len(values) else 0.0


def _keep(journal: Journal | None, key: str, row: dict) -> None:
    if journal is not None:
        journal.add(key, row)
