"""Courses: how each trained decider is made, and the files that hold it.

`tuned.json` holds the constants and says of itself how they were made; `tuned.training.json` beside it
holds the command and the curve. The weights depend on the scenarios, the plan and the seed, and on
nothing else."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION, __version__
from kv_cache_rl.experiments.eviction import evolving
from kv_cache_rl.experiments.eviction.evolving import Evolving, learned_in
from kv_cache_rl.experiments.eviction.sets import make_set
from kv_cache_rl.experiments.eviction.training import Plan, Play, School, kept, lessons, school
from kv_cache_rl.experiments.eviction.tuning import Tuning, player, tuned_in
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.extras import need
from kv_cache_rl.files import digest_of, write_json, write_whole
from kv_cache_rl.intervals import paired_difference
from kv_cache_rl.sim.eviction.constants import LABELS, START
from kv_cache_rl.sim.eviction.scenarios import load_scenarios
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, Scenario, dumps
from kv_cache_rl.sim.eviction.trained import LEARNED, TUNED, Trained, WeightsError, learned_bytes

CHOSEN_BY, MEASURED_ON = "train", "eval"
"""Splits that help to choose what is kept, and that a training is measured on alone."""
COMPARED = ("eval", "test")
"""Splits on which what was trained is compared with what ships."""
FRESH, FRESH_SEED, FRESH_WIDTH = 1_000, 5_000_011, 2
"""Scenarios of each tier that a training learns from, their seed, and how widely the oracle searches them."""
LESSONS = "lessons"
"""The folder of what was found of them, in that of the training."""
OBJECTIVE = "mean normalised score"
CODE = ("core", "sim/eviction", "search/eviction", "sim/compiled.py", "sim/views.py", "experiments/eviction")
"""Folders and files whose code decides how a training goes."""

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Course:
    """How a decider is trained."""

    file: str
    usual: Plan
    """How it is trained, whatever the seed."""
    run: Callable[..., tuple[np.ndarray, list[dict]]]
    """(school, plan, constants to begin with, journal, tell) -> weights and curve."""
    write: Callable[[Path, np.ndarray, dict], None]
    """(path, weights, how they were made)"""
    play: Play
    shipped: Trained
    needs: tuple[str, ...] = ()
    """Packages of an extra."""


def _write_tuned(path: Path, weights: np.ndarray, about: dict) -> None:
    write_json(path, {**about, "constants": dict(zip(LABELS, weights.tolist(), strict=True))})


def _write_learned(path: Path, weights: np.ndarray, about: dict) -> None:
    write_whole(path, learned_bytes(weights, about))


COURSES: dict[str, Course] = {
    "tuned": Course("tuned.json", Tuning(), tuned_in, _write_tuned, player(Tuning()), TUNED, ("cma",)),
    "learned": Course(
        "learned.safetensors", Evolving(), learned_in, _write_learned, evolving.play, LEARNED, ("cma",)
    ),
}
"""Decider -> its course, in the order in which one builds on the other."""


def follow(
    name: str,
    school: School,
    generations: int | None,
    seed: int,
    folder: Path,
    tell: Tell,
    constants: np.ndarray | None = None,
) -> tuple[list[Path], dict]:
    """Trains a decider, or goes on with its training, and writes its weights.

    Args:
        constants: what a network begins with; None: the committed ones of `tuned`.

    Returns:
        the files, of which the caller writes the second; ``training`` (the plan), ``scenarios``, ``kept``
        (a generation), ``curve`` and ``beside_shipped``.

    Raises:
        MissingExtra: what it is trained with is not installed.
        JournalError: the folder holds the journal of another training.
        WeightsError: the committed constants are wanted and cannot be used.
    """
    course = COURSES[name]
    need(f"training {name}", *course.needs)
    plan = replace(course.usual, generations=generations or course.usual.generations, seed=seed)
    start = _start(name, constants)
    about = _about(name, course, plan, school)
    with Journal(journal_of(folder, name)) as journal:
        begun = {"start": hashlib.sha256(start.tobytes()).hexdigest()[:16]}
        asked = {**about, **begun, "code": code_digest(), "numpy": np.__version__}
        journal.check_plan(asked, "a training")
        weights, curve = course.run(school, plan, start, journal, tell)
    best = kept(curve, school.share)
    weights_file = folder / course.file
    course.write(weights_file, weights, {**about, "scores": best})
    record = {
        "training": about["training"],
        "scenarios": about["scenarios"],
        "kept": best["generation"],
        "curve": curve,
        "beside_shipped": beside_shipped(course, weights),
    }
    return [weights_file, folder / f"{name}.training.json"], record


def beside_shipped(course: Course, weights: np.ndarray) -> dict[str, dict]:
    """Split → by how much weights score more than the shipped ones, paired by scenario, with interval."""
    if course.shipped.trouble:
        return {}
    found = {}
    for split in COMPARED:
        of_split = lessons(load_scenarios(split=split))
        ids = [made.id for made in of_split.scenarios]
        ours, theirs = (
            dict(zip(ids, of_split.scores(course.play, one), strict=True))
            for one in (weights, course.shipped.weights)
        )
        if difference := paired_difference(ours, theirs):
            found[split] = difference.to_json()
    return found


def journal_of(folder: Path, name: str) -> Path:
    """The folder that keeps how far a training is."""
    return folder / f"{name}.journal"


def _start(name: str, constants: np.ndarray | None) -> np.ndarray:
    if name == "tuned":
        return START
    if constants is not None:
        return constants
    if TUNED.trouble:
        raise WeightsError(TUNED.trouble)
    return TUNED.weights


def _about(name: str, course: Course, plan: Plan, school: School) -> dict:
    parts = {"learn": school.learn, "select": school.select, "held_out": school.held_out}
    return {
        "decider": name,
        "environment_version": ENVIRONMENT_VERSION,
        "library_version": __version__,
        "objective": OBJECTIVE,
        "made_with": " ".join(f"{package} {version(package)}" for package in course.needs),
        "training": asdict(plan),
        "scenarios": {part: _described(found.scenarios) for part, found in parts.items() if found},
    }


def _described(scenarios: Sequence[Scenario]) -> dict:
    """Split, how many of each tier, and a digest of them."""
    digest = hashlib.sha256()
    for made in scenarios:
        digest.update(dumps(made).encode())
    tiers = [made.difficulty for made in scenarios]
    return {
        "split": "+".join(sorted({made.split for made in scenarios})),
        **{tier: tiers.count(tier) for tier in DIFFICULTIES if tier in tiers},
        "sha256": digest.hexdigest()[:16],
    }


def usual_school(folder: Path, tell: Tell = lambda done, total: None) -> School:
    """The school that deciders are trained in: fresh scenarios to learn from, the committed sets to choose
    and to measure.

    The fresh ones are drawn as the committed were, and found again in the folder where they were found once.
    """
    total, workers = FRESH * len(DIFFICULTIES), os.cpu_count() or 1
    fresh: list[Scenario] = []
    with Journal(folder / LESSONS) as journal:
        for tier in DIFFICULTIES:
            fresh += make_set(
                tier, CHOSEN_BY, FRESH, FRESH_SEED, FRESH_WIDTH, workers,
                partial(_tell_from, tell, len(fresh), total), journal,
            )[0]  # fmt: skip
    chosen_by, held_out = (load_scenarios(split=split) for split in (CHOSEN_BY, MEASURED_ON))
    return School(lessons(fresh), lessons(chosen_by), lessons(held_out))


def committed_school() -> School:
    """The school of the committed sets alone: of `train`, a quarter helps to choose."""
    return school(load_scenarios(split=CHOSEN_BY), load_scenarios(split=MEASURED_ON))


def _tell_from(tell: Tell, before: int, total: int, kept: int, tried: int) -> None:
    tell(before + kept, total)


def code_digest() -> str:
    """Digest of all code that decides how a training goes."""
    return digest_of(Path(__file__).parents[2], CODE, __version__)
