"""Scenario sets: the committed ones, files of your own, and windows cut from a trace."""

import functools
import gzip
import random
import re
import zlib
from pathlib import Path
from typing import Any

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.files import NotJson, json_value, lines_of, regular, write_whole
from kv_cache_rl.sim.eviction.spec import DIFFICULTIES, SPLITS, Scenario, ScenarioError, dumps, one_of
from kv_cache_rl.traces.files import stamp

_ROOTS = (Path(__file__).parents[2] / "scenarios", Path(__file__).parents[3] / "scenarios")


def set_path(split: str, difficulty: str) -> Path:
    """Where a committed set lives: inside the installed package, or at the root of a checkout."""
    root = next((r for r in _ROOTS if r.is_dir()), _ROOTS[1])
    return root / split / f"{difficulty}.jsonl"


def load_file(path: str | Path) -> tuple[Scenario, ...]:
    """Every scenario of a JSON Lines file (gzip too).

    Raises:
        ScenarioError: naming the file, the line, the field and the remedy.
    """
    path = Path(path)
    scenarios = []
    try:
        regular(path)
        opened: Any = gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")
        with opened as file:
            for number, line in lines_of(file):
                scenarios.append(_read_line(line, f"{path}:{number}"))
    except (OSError, EOFError, zlib.error, NotJson) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ScenarioError(
            f"{path}: cannot be read ({reason}); check path and permissions, "
            "or make it with `kv-cache-rl scenarios generate`"
        ) from None
    if not scenarios:
        raise ScenarioError(f"{path}: holds no scenario; make some with `kv-cache-rl scenarios generate`")
    return tuple(scenarios)


def _read_line(line: bytes, where: str) -> Scenario:
    try:
        data = json_value(line)
    except NotJson as error:
        raise ScenarioError(
            f"{where}: not JSON as it was written: {error}; the line may be cut off, regenerate the file "
            "with `kv-cache-rl scenarios generate`"
        ) from None
    return Scenario.from_json(data, where)


def load_scenarios(
    difficulty: str = "all", split: str = "eval", num_examples: int = -1, seed: int = 42
) -> tuple[Scenario, ...]:
    """Scenarios of the committed sets, the same for the same arguments.

    With ``difficulty="all"`` the tiers take turns. `num_examples` is the most that are returned, over all
    tiers; -1, or more than there are, takes every one. `seed` orders the choice within a tier.

    Raises:
        ScenarioError: unknown names, or a set that is not there.
    """
    tiers = check_request(difficulty, num_examples, seed)
    one_of("split", split, SPLITS)
    paths = [set_path(split, tier) for tier in tiers]
    groups = [list(_committed(path, stamp(path) if path.exists() else None)) for path in paths]
    for group in groups:
        random.Random(seed).shuffle(group)
    return interleave(groups, num_examples)


def committed(name: str) -> dict[str, Scenario] | None:
    """The scenarios of the committed set that a stable id belongs to, by id, whether it is one of them or
    not; None where the name is no such id.

    Raises:
        ScenarioError: the set is not there.
    """
    match = re.fullmatch(r"eviction-(\w+)-(\w+)-\d+-v.+", name)
    if not match or match[1] not in SPLITS or match[2] not in DIFFICULTIES:
        return None
    return {scenario.id: scenario for scenario in load_scenarios(difficulty=match[2], split=match[1])}


@functools.lru_cache(maxsize=len(SPLITS) * len(DIFFICULTIES))
def _committed(path: Path, stamped: tuple[int, int] | None) -> tuple[Scenario, ...]:
    """The scenarios of a set, read and checked once for as long as the file keeps its stamp."""
    return load_file(path)


def check_request(difficulty: str, num_examples: int, seed: int) -> tuple[str, ...]:
    """The tiers a request names.

    Raises:
        ScenarioError: an unknown tier or an impossible number.
    """
    whole_number("num_examples", num_examples, error=ScenarioError)
    whole_number("seed", seed, error=ScenarioError)
    one_of("difficulty", difficulty, (*DIFFICULTIES, "all"))
    if num_examples < -1 or num_examples == 0:
        raise ScenarioError(f"num_examples is {num_examples}; use -1 for all, or a positive number")
    return DIFFICULTIES if difficulty == "all" else (difficulty,)


def interleave(groups: list[list[Scenario]], num_examples: int) -> tuple[Scenario, ...]:
    """One of each group in turn, `num_examples` in all (-1: every one)."""
    longest = max((len(group) for group in groups), default=0)
    mixed = [group[k] for k in range(longest) for group in groups if k < len(group)]
    return tuple(mixed if num_examples < 0 else mixed[:num_examples])


def write_file(path: str | Path, scenarios) -> None:
    """One scenario a line, all or none of them; regenerating gives the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(dumps(scenario) + "\n" for scenario in scenarios).encode())
