"""The hysteresis loop: a service with returning users, its load swept up and down again, against the fixed
points of theory.

Coding agents as users: each turn brings the whole history and a little that is new, and most turns are
followed by another soon. As long as histories are found the work is small; a service that has lost them is
overloaded by the same load.

Theory says which states hold themselves up, not how long they last: fluctuations tip a finite service over
before the region's upper end, and below its lower end a full queue has yet to drain, which takes QUEUE /
(mu(0) - lambda) seconds."""

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.experiments.stability.runs import (
    OPTIMISTIC,
    RESERVE,
    watch,
)
from kv_cache_rl.experiments.stability.workloads import (
    HARDWARE_NAME,
    MEMORY_TOKENS,
    SERVER_BUDGET,
    as_traffic,
    server,
)
from kv_cache_rl.experiments.workers import mapped
from kv_cache_rl.sim.serving.demand import Traffic
from kv_cache_rl.sim.serving.draws import USERS, branch, exponential, root, uniform
from kv_cache_rl.theory.errors import StabilityError
from kv_cache_rl.theory.lengths import sampled_lengths
from kv_cache_rl.theory.reuse import (
    FixedPoint,
    Reuse,
    bistable_region,
    fixed_points,
    reuse_of,
    service_rate_at,
)

FIRST_TOKENS, NEW_TOKENS, ANSWER_TOKENS = 1_000, 30, 60
"""Context of a first turn · mean of what each turn adds · mean output (both exponential)."""
RETURNS, THINK_S = 0.85, 3.0
"""Probability of another turn · mean seconds from an answer to it, exponential."""
NOMINAL_TICK_S = 0.0155
"""Of a healthy service: an answer is counted on after so many for each token.

Returns are fixed in advance, as everywhere.
"""
GRID = 121
"""Rates at which the fixed points are computed."""
MOST_TURNS = 60
"""No user takes more."""
QUEUE = 100
"""Most waiting requests: a request that arrives when so many wait is dropped, so that an overloaded service
has a state that it can leave.
"""
LEVELS = 13
BELOW, ABOVE = 0.40, 0.10
"""How far outside the bistable region the sweep begins and turns, as shares of its ends."""
FULL_LOOP, QUICK_LOOP = (4, 120.0), (2, 60.0)
"""Sweeps, and seconds at each rate."""
SETTLE = 0.5
"""Share of a level that is not measured."""
MOST = 0.5
"""Share of the history above which a service counts as healthy."""
GAP, ADDS, ANSWERS, STAYS, THINKS = range(5)
REFERENCE_SEED = 1
FIRST_TURN = 16
"""Branches of a user from this one on are their turns."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a service was like at one arrival rate, on the way up or down; means after it has settled."""

    seed: int
    """Which of the sweeps, counted from 0."""
    up: bool
    rate: float
    """Requests per second, returns included."""
    found: float
    """Share of the history found; NaN if no request brought any."""
    occupancy: float
    """Share of the memory held by requests in service."""
    idle: float
    """Share held by idle caches."""
    waiting: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """What theory says of a rate: its fixed points."""

    rate: float
    points: tuple[FixedPoint, ...]


@dataclass(frozen=True, slots=True)
class Loop:
    """The sweep and the theory beside it."""

    levels: tuple[Level, ...]
    """Sweep after sweep, each in its order: up, then down.

    No means over sweeps: between two states there is none.
    """
    predicted: tuple[Predicted, ...]
    region: tuple[float, float] | None
    """Rates between which theory has two stable states."""
    recovers_below: float
    """mu without hits: what a service that has lost everything can serve."""
    at_best: float
    """mu with all history found."""

    def turns(self, up: bool) -> tuple[float | None, ...]:
        """By sweep, the first rate on the way up at which most history is lost; on the way down, at which
        most is found again.
        """
        found: dict[int, float | None] = {level.seed: None for level in self.levels}
        for level in self.levels:
            turned = level.found < MOST if up else level.found >= MOST
            if level.up == up and turned and found[level.seed] is None:
                found[level.seed] = level.rate
        return tuple(found.values())

    def to_json(self) -> dict:
        return {
            "bistable_between": None if self.region is None else list(self.region),
            "service_rate_nothing_found": self.recovers_below,
            "service_rate_all_found": self.at_best,
            "collapsed_at": list(self.turns(True)),
            "recovered_at": list(self.turns(False)),
            "levels": [
                asdict(level) | {"found": None if np.isnan(level.found) else level.found}
                for level in self.levels
            ],
            "predicted": [asdict(at) for at in self.predicted],
        }


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """The turns of users, columns ``[n]``, users together and each user's in order."""

    user: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    history: np.ndarray
    since_s: np.ndarray
    """Seconds since the user's first turn."""
    before: np.ndarray
    """Position of the turn before, or -1."""


def turns_of(keys: np.ndarray) -> Turns:
    """The turns of the users with these keys; their number and their lengths depend on nothing else."""
    n = len(keys)
    user, context, since_s, before = np.arange(n), np.full(n, FIRST_TOKENS), np.zeros(n), np.full(n, -1)
    parts, rows = [], 0
    for number in range(MOST_TURNS):
        mine = branch(keys[user], FIRST_TURN + number)
        prompt = context + 1 + (exponential(mine, ADDS) * NEW_TOKENS).astype(np.int64)
        output = 1 + (exponential(mine, ANSWERS) * ANSWER_TOKENS).astype(np.int64)
        history = context if number else np.zeros(len(user), np.int64)
        parts.append((user, prompt, output, history, since_s, before))
        stays = uniform(mine, STAYS) < RETURNS
        position = rows + np.arange(len(user))
        rows += len(user)
        gap_s = output * NOMINAL_TICK_S + exponential(mine, THINKS) * THINK_S
        user, context, since_s, before = (
            user[stays],
            (prompt + output)[stays],
            (since_s + gap_s)[stays],
            position[stays],
        )
        if not len(user):
            break
    return Turns(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def theory() -> Reuse:
    """The map of this workload on this server, from the turns of a fixed sample of users."""
    turns = turns_of(branch(branch(root(REFERENCE_SEED), USERS), np.arange(20_000)))
    return reuse_of(
        turns.prompt,
        turns.output,
        turns.history,
        hardware=HARDWARE[HARDWARE_NAME],
        memory_tokens=MEMORY_TOKENS,
        think_s=THINK_S,
        chunk=SERVER_BUDGET,
        token_budget=SERVER_BUDGET,
    )


def swept_rates(reuse: Reuse, levels: int = LEVELS) -> np.ndarray:
    """Rates of the sweep, up and down again: through the bistable region, and beyond it on both sides."""
    region = bistable_region(reuse)
    low, high = region or (service_rate_at(reuse, 0.0).per_s, service_rate_at(reuse, 1.0).per_s)
    up = np.linspace(low * (1 - BELOW), high * (1 + ABOVE), levels)
    return np.concatenate([up, up[-2::-1]])


def swept_traffic(rates: np.ndarray, level_s: float, seed: int) -> Traffic:
    """Users whose arrival rate changes from level to level, and their returns."""
    end_s = level_s * len(rates)
    per_user = sampled_turns()
    most = int(1.2 * rates.sum() * level_s / per_user) + 100
    keys = branch(branch(root(seed), USERS), np.arange(most))
    # A unit Poisson stream, its clock slowed down to the rate of each level.
    passed = np.concatenate([[0.0], np.cumsum(rates * level_s / per_user)])
    arrival_s = np.interp(
        np.cumsum(exponential(keys, GAP)), passed, np.arange(len(rates) + 1) * level_s, right=np.inf
    )
    keys, arrival_s = keys[arrival_s < end_s], arrival_s[arrival_s < end_s]
    turns = turns_of(keys)
    at_s = arrival_s[turns.user] + turns.since_s
    order = np.argsort(at_s, kind="stable")
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    parent = np.where(turns.before >= 0, row[turns.before], -1)
    zero = np.zeros(len(order), np.int64)
    columns = ((at_s * 1e6).astype(np.int64), turns.prompt, turns.output, zero, zero, parent, turns.history)
    table = np.ascontiguousarray(np.column_stack([column[order] for column in columns]))
    table = table[table[:, 0] < end_s * 1e6]
    return as_traffic(
        sampled_lengths(turns.prompt, turns.output), table, round(end_s * 1e6), float(rates.mean())
    )


def sampled_turns() -> float:
    """Turns of a user, on average."""
    return (1 - RETURNS**MOST_TURNS) / (1 - RETURNS)


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One run of the loop."""

    rates: tuple[float, ...]
    level_s: float
    seed: int


def swept(sweep: Sweep) -> np.ndarray:
    """Found, occupancy, idle and waiting of each level, float64 ``[levels, 4]``."""
    per_level = 40
    rates = np.asarray(sweep.rates)
    scenario = server(SERVER_BUDGET, RESERVE, reuse=True, queue_free=QUEUE)
    run = watch(
        scenario, swept_traffic(rates, sweep.level_s, sweep.seed), OPTIMISTIC, samples=per_level * len(rates)
    )
    level = np.minimum((run.samples["clock_us"] - 1) // round(sweep.level_s * 1e6), len(rates) - 1)
    means = np.full((len(rates), 4), np.nan)
    for k in range(len(rates)):
        mine = run.samples[level == k]
        mine = mine[int(SETTLE * len(mine)) :]
        if len(mine) > 1:
            sought, hit = (int(mine[name][-1] - mine[name][0]) for name in ("history", "found"))
            held = (mine[name].mean() / scenario.gpu_blocks for name in ("blocks_held", "blocks_idle"))
            means[k] = hit / sought if sought else np.nan, *held, mine["waiting"].mean()
    return means


def hysteresis(
    seed: int = 0,
    seeds: int = FULL_LOOP[0],
    level_s: float = FULL_LOOP[1],
    levels: int = LEVELS,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Loop:
    """The loop, means over seeds, with the fixed points."""
    whole_number("seed", seed, error=StabilityError)
    whole_number("seeds", seeds, 1, error=StabilityError)
    reuse = theory()
    rates = swept_rates(reuse, levels)
    trials = [Sweep(tuple(rates.tolist()), level_s, (seed << 20 | k) % (1 << 64)) for k in range(seeds)]
    found = mapped(swept, trials, workers, lambda done: progress(done, len(trials)))
    ups = [True] * levels + [False] * (levels - 1)
    return Loop(
        levels=tuple(
            Level(k, up, float(rate), *map(float, mean))
            for k, means in enumerate(found)
            for up, rate, mean in zip(ups, rates, means, strict=True)
        ),
        predicted=tuple(
            Predicted(float(rate), fixed_points(reuse, float(rate)))
            for rate in np.linspace(rates.min(), rates.max(), GRID)
        ),
        region=bistable_region(reuse),
        recovers_below=service_rate_at(reuse, 0.0).per_s,
        at_best=service_rate_at(reuse, 1.0).per_s,
    )
