"""Scenario sets with their references (floor and best-known log), and which scenarios are kept."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.search.eviction.oracle import DEFAULT_WIDTH, solve
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction.cut import windows_of
from kv_cache_rl.sim.eviction.deciders import FLOOR
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.log import LogError
from kv_cache_rl.sim.eviction.scenarios import check_request, interleave
from kv_cache_rl.sim.eviction.spec import MIN_GAP, Scenario, ScenarioError
from kv_cache_rl.traces import TraceError
from kv_cache_rl.traces.files import stamp
from kv_cache_rl.traces.reading import located

SEEDS = {"train": 1_000_003, "eval": 2_000_003, "test": 3_000_017}
"""Seed of each committed split. The generator also takes the split, so that streams never meet."""
SIZES = {"train": 200, "eval": 50, "test": 50}
COMMITTED_WIDTH = DEFAULT_WIDTH


def with_references(scenario: Scenario, width: int = DEFAULT_WIDTH) -> Scenario:
    """The scenario with the return of its best blind decider, and the oracle's log and return."""
    floors = {name: policy_return(scenario, name) for name in FLOOR}
    by = max(floors, key=lambda name: floors[name])
    log, best = solve(scenario, width, trained=False)
    frozen = tuple(tuple(tuple(call) for call in step) for step in log)
    return dataclasses.replace(scenario, floor=floors[by], floor_by=by, best=best, best_log=frozen)


def _named(scenario: Scenario, split: str) -> Scenario:
    """Sets of other seeds than the committed ones have theirs in the id, so that ids stay unique."""
    if scenario.seed == SEEDS[split]:
        return scenario
    return dataclasses.replace(scenario, id=scenario.id.replace(f"-{split}-", f"-{split}{scenario.seed}-", 1))


def kept(scenario: Scenario) -> bool:
    return scenario.best - scenario.floor >= MIN_GAP


def make_set(
    difficulty: str,
    split: str,
    size: int,
    seed: int,
    width: int = DEFAULT_WIDTH,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda kept, tried: None,
) -> tuple[list[Scenario], int]:
    """The first `size` kept scenarios of a tier in order of their index, and how many were tried.

    Args:
        progress: called with (kept so far, tried so far).

    Raises:
        ScenarioError: a size, a width or a number of workers that is no whole number from 1 on.
    """  # fmt: skip
    for what, value in (("size", size), ("width", width), ("workers", workers)):
        whole_number(what, value, 1, error=ScenarioError)
    scenarios: list[Scenario] = []
    tried = 0
    with ThreadPoolExecutor(workers) as pool:
        while len(scenarios) < size:
            batch = range(tried, tried + 4 * workers)
            jobs = [pool.submit(with_references, generate(difficulty, seed, split, k), width) for k in batch]
            for k, job in zip(batch, jobs, strict=True):
                scenario = job.result()
                if kept(scenario) and len(scenarios) < size:
                    scenarios.append(_named(scenario, split))
                    tried = k + 1
                progress(len(scenarios), k + 1)
            if len(scenarios) < size:
                tried = batch.stop
            if tried >= 500 and not scenarios:
                raise ScenarioError(
                    f"none of {tried} {difficulty} scenarios has a gap of {MIN_GAP}; "
                    "change the tier's physics"
                )
    return scenarios, tried


def scenarios_from_trace(
    path: str | Path, difficulty: str = "all", num_examples: int = -1, seed: int = 42, width: int = 2
) -> tuple[Scenario, ...]:
    """Playable, unselected scenarios cut from a trace file, with references; -1 takes 20 a tier.

    The latest answer is kept, as an evaluation asks for the same windows once per decider.

    Raises:
        ScenarioError: unknown names, or a file that cannot be read or holds no usable window.
    """
    path = Path(path)
    check_request(difficulty, num_examples, seed)
    whole_number("width", width, 1, error=ScenarioError)
    try:
        file = Path(located(path)[0])
        changed_ns = stamp(file)[0] if file.exists() else 0
        return _from_trace(path, changed_ns, difficulty, num_examples, seed, width)
    except (TraceError, OSError) as error:
        raise ScenarioError(str(error)) from None


@lru_cache(maxsize=1)
def _from_trace(
    path: Path, changed_ns: int, difficulty: str, num_examples: int, seed: int, width: int
) -> tuple[Scenario, ...]:
    tiers = check_request(difficulty, num_examples, seed)
    wanted = 20 if num_examples < 0 else -(-num_examples // len(tiers))
    groups = [windows_of(path, tier, seed, wanted) for tier in tiers]
    if not any(groups):
        raise ScenarioError(f"{path}: no window with at least four calls; use a longer trace")
    chosen = interleave(groups, num_examples)
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(lambda s: with_references(s, width), chosen))


def verify(scenarios) -> Iterator[tuple[Scenario, str]]:
    """Every scenario whose stored returns do not come out when replayed, with what is wrong."""
    for scenario in scenarios:
        try:
            best = replay(scenario, scenario.best_log).total
            fault = "" if best == scenario.best else f"the stored log returns {best}, not {scenario.best}"
        except LogError as error:
            fault = str(error)
        if fault:
            yield scenario, fault
        for name in FLOOR:
            value = policy_return(scenario, name)
            if value > scenario.floor or (name == scenario.floor_by and value != scenario.floor):
                yield (
                    scenario,
                    f"{name} returns {value}; the stored floor is {scenario.floor} by {scenario.floor_by}",
                )
