"""Scenario sets with their references (floor and best-known log), and which scenarios are kept."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.journal import Journal
from kv_cache_rl.search.eviction.oracle import DEFAULT_WIDTH, solve
from kv_cache_rl.search.eviction.rollout import floor_of
from kv_cache_rl.sim.eviction.cut import NONE_FITS, PRESSURES, windows_of
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
MOST_A_TIER = 20
"""Scenarios of a tier that are cut from a trace where no number is given."""
RETURNS = ("floor", "floor_by", "best")
"""What a journal keeps of a scenario's references."""


def with_references(scenario: Scenario, width: int = DEFAULT_WIDTH) -> Scenario:
    """The scenario with its floor, and the oracle's log and return."""
    floor, by = floor_of(scenario)
    log, best = solve(scenario, width, trained=False)
    frozen = tuple(tuple(tuple(call) for call in step) for step in log)
    return dataclasses.replace(scenario, floor=floor, floor_by=by, best=best, best_log=frozen)


def _referred(scenario: Scenario, width: int, journal: Journal | None) -> Scenario:
    """The scenario with its references; where a journal keeps them, without the log."""
    if journal is None:
        return with_references(scenario, width)
    if scenario.id in journal.rows:
        return dataclasses.replace(scenario, **journal.rows[scenario.id])
    return dataclasses.replace(with_references(scenario, width), best_log=())


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
    journal: Journal | None = None,
) -> tuple[list[Scenario], int]:
    """The first `size` kept scenarios of a tier in order of their index, and how many were tried.

    Args:
        progress: called with (kept so far, tried so far).
        journal: keeps the returns that were found, and says which have been; scenarios then come without
            the oracle's log.

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
            drawn = [generate(difficulty, seed, split, k) for k in batch]
            found = pool.map(lambda one: _referred(one, width, journal), drawn)
            for k, scenario in zip(batch, found, strict=True):
                if journal is not None:
                    journal.add(scenario.id, {name: getattr(scenario, name) for name in RETURNS})
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


@dataclasses.dataclass(frozen=True, slots=True)
class FromTrace:
    """Scenarios cut from a trace, and what became of the windows."""

    scenarios: tuple[Scenario, ...]
    tried: int
    left_out: tuple[float, ...]
    """Best known return less floor of each window that was left out, at the pressure where it is largest."""


def scenarios_from_trace(
    path: str | Path, difficulty: str = "all", num_examples: int = -1, seed: int = 42, width: int = 2
) -> FromTrace:
    """Playable scenarios cut from a trace file, with references; -1 takes `MOST_A_TIER` of each tier.

    A window has the least pressure of `PRESSURES` at which looking pays as a set asks for (`kept`); where
    none does, it is left out. `windows_tried` says how many are tried. The latest answer is kept, as an
    evaluation asks for the same windows once per decider.

    Raises:
        ScenarioError: unknown names, a file that cannot be read or holds no usable window, or windows of
            which none can be pressed.
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


def windows_tried(wanted: int) -> int:
    """Windows of a trace that are tried at most for so many scenarios of a tier."""
    return 3 * max(wanted, MOST_A_TIER)


@lru_cache(maxsize=1)
def _from_trace(
    path: Path, changed_ns: int, difficulty: str, num_examples: int, seed: int, width: int
) -> FromTrace:
    tiers = check_request(difficulty, num_examples, seed)
    wanted = MOST_A_TIER if num_examples < 0 else -(-num_examples // len(tiers))
    groups, tried, left_out = [], 0, []
    with ThreadPoolExecutor(2) as pool:
        for tier in tiers:
            groups.append([])
            windows = islice(windows_of(path, tier, seed), windows_tried(wanted))
            while len(groups[-1]) < wanted and (batch := list(islice(windows, 2))):
                for made in pool.map(lambda window: pressed(window, width), batch):
                    if len(groups[-1]) == wanted:
                        break
                    tried += 1
                    if kept(made):
                        groups[-1].append(made)
                    else:
                        left_out.append(round(made.best - made.floor, 6))
    if not tried:
        raise ScenarioError(f"{path}: {NONE_FITS}")
    if not any(groups):
        raise ScenarioError(
            f"{path}: none of {tried} windows can be pressed: at up to {PRESSURES[-1]:g} times a tier's "
            f"demand the best log known is at most {max(left_out):.3f} above the floor ({MIN_GAP} are asked "
            "for). Often too few sessions return within half a minute; use a trace of agents' sessions, or "
            "ask for more scenarios, for which more windows are tried"
        )
    return FromTrace(interleave(groups, num_examples), tried, tuple(left_out))


def pressed(window: Sequence[Scenario], width: int) -> Scenario:
    """The first of a window's scenarios in which looking pays, with references; else the one with the
    largest gap."""
    best = None
    for scenario in window:
        made = with_references(scenario, width)
        if kept(made):
            return made
        if best is None or made.best - made.floor > best.best - best.floor:
            best = made
    assert best is not None
    return best


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
        floor, by = floor_of(scenario)
        if (floor, by) != (scenario.floor, scenario.floor_by):
            yield (
                scenario,
                f"{by} returns {floor}; the stored floor is {scenario.floor} by {scenario.floor_by}",
            )
