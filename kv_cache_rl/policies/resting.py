"""Whether a rank says truly what a simulator that keeps the order has to know of it.

Keys are kept at rest: clock zero, plus the drift that the rank names. Here the order of candidates at rest
is compared with their order as the clock moves on, and that of two with the clock until which it is said to
hold. What a rank does not say of itself (that it drifts, that it reads a column that costs work) would else
replay another policy without a word.
"""

from collections.abc import Callable
from functools import lru_cache
from numbers import Real

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.policies.rank import Rank

COSTLY = (Column.RECENT_USES, Column.REGRET, Column.RETURNS, Column.DRAW)
"""Columns that a simulator fills only for ranks whose `needs` name them."""
ROWS, START = 48, 200.0
CLOCKS = (START, START + 1, START + 16, 2 * START, 100 * START, 1e7)
SLACK = 1e-9
"""Two keys that differ by less, of their size, are taken to be equal."""


class RankError(Refused):
    """A rank that is not what its line in RANKS says: says what it does, and what the line should say."""


@lru_cache(256)
def check_rank(name: str, policy: Rank) -> None:
    """Raises RankError if a simulator that keeps the order of `policy` would replay another policy."""
    try:
        _check_needs(name, policy)
        if Column.DRAW in policy.needs:
            _check_draw(name, policy)
        elif Column.RETURNS in policy.needs:
            _check_returns(name, policy)
        else:
            _check_order(name, policy)
        if policy.holds is not None:
            _check_holds(name, policy, policy.holds, policy.drift)
    except ArithmeticError as wrong:
        raise RankError(
            f"rank {name!r} has no key for some candidates ({wrong}): keep what it divides by above 0, as in "
            "max(c[Column.SIZE], 1.0); at rest IDLE is minus the last access and AGE minus the insertion"
        ) from None


def _check_needs(name: str, policy: Rank) -> None:
    rows = _rows()
    for column in COSTLY:
        without = rows.copy()
        without[:, column] = 0.0
        if column not in policy.needs and (_keys(name, policy, rows) != _keys(name, policy, without)).any():
            raise RankError(
                f"rank {name!r} reads {column.name}, which is 0 unless its line in RANKS names it; write "
                f"Rank(..., needs=(Column.{column.name},))"
            )


def _check_draw(name: str, policy: Rank) -> None:
    rows = _rows()
    rows[:, Column.DRAW] = 0.5
    if np.ptp(_keys(name, policy, rows)) > 0:
        raise RankError(
            f"rank {name!r} reads more than DRAW, and a page would be drawn all the same; let its key be "
            "c[Column.DRAW]"
        )


def _check_returns(name: str, policy: Rank) -> None:
    one, two = _rows(), _rows()
    two[:, Column.RETURNS] *= 2.0
    later = _at(two, 2 * START)
    once, twice = _keys(name, policy, one), _keys(name, policy, later)
    if (np.abs(twice - 2 * once) > SLACK * np.abs(once)).any():
        raise RankError(
            f"rank {name!r} is not in proportion to RETURNS, or reads the clock beside it; let its key be "
            "c[Column.RETURNS] times what does not change with time"
        )


def _check_order(name: str, policy: Rank) -> None:
    rows = _rows()
    last = rows[:, Column.LAST].copy()
    rest = _at(rows, 0.0)
    rest[:, Column.NOW] = 1.0
    resting = _keys(name, policy, rest if policy.drift is None else _at_rest(rows))
    drift = getattr(policy.drift, "py_func", policy.drift)
    for clock in CLOCKS:
        added = 0.0 if drift is None else np.array([drift(one, clock) for one in last])
        first = rows[:, Column.INSERTED] if drift is None else None
        pair = _turned(_keys(name, policy, _at(rows, clock)), resting + added, first)
        if pair is not None:
            raise RankError(_drifts(name, policy, clock, [rows[at] for at in pair]))


def _check_holds(name: str, policy: Rank, holds: Callable, drift: Callable | None) -> None:
    """Looks at pairs, every other one with equal keys, until the clock at which they may change places."""
    if drift is None:
        raise RankError(f"rank {name!r} says how long an order holds, and nothing drifts; drop `holds`")
    rows = _rows()
    last = rows[:, Column.LAST]
    drift, holds = getattr(drift, "py_func", drift), getattr(holds, "py_func", holds)
    keys = _keys(name, policy, _at_rest(rows))
    for clock in CLOCKS:
        for a in range(ROWS - 1):
            one, other = (keys[a], last[a]), (keys[a + a % 2], last[a + 1])
            until = holds(*one, *other, clock)
            far = min(until, 1e12)
            ahead = [clock + 1, clock + (far - clock) // 2, far - 1]
            orders = [
                np.sign((one[0] + drift(one[1], at)) - (other[0] + drift(other[1], at)))
                for at in (clock, *(at for at in ahead if clock < at < until))
            ]
            if not until > clock or len(set(orders)) > 1:
                raise RankError(
                    f"rank {name!r}: by `holds` pages last used at {one[1]:.0f} and {other[1]:.0f} keep the "
                    f"order they have at {clock:,.0f} until {until:,.0f}, and they do not; let it give an "
                    "earlier clock, later than now, or leave it out, at the cost of a scan"
                )


def _drifts(name: str, policy: Rank, clock: float, pair: list[np.ndarray]) -> str:
    """What is wrong with the order of two candidates that nothing touches."""
    facts = [
        f"{row[Column.USES]:.0f} uses, last used at {row[Column.LAST]:.0f}, here since "
        f"{row[Column.INSERTED]:.0f}"
        for row in pair
    ]
    said = "names no drift" if policy.drift is None else "names another drift"
    return (
        f"rank {name!r} drifts with time, and its line in RANKS {said}: at clock {clock:,.0f} a page with "
        f"{facts[0]} leaves before one with {facts[1]}, by its key at rest after it. Give what time adds as "
        "Rank(..., drift=FUNCTION) of (last access, now), or let idle time and age enter as plain sums "
        "(docs/extending/adding_a_policy.md)"
    )


def _turned(now: np.ndarray, rest: np.ndarray, inserted: np.ndarray | None) -> tuple[int, int] | None:
    """Two candidates the first of which leaves first now and last at rest; None: there are none.

    Args:
        inserted: what breaks ties; None: they do not count.
    """
    for keys in (now, rest):
        keys[np.isinf(keys)] = np.sign(keys[np.isinf(keys)]) * 1e300
    gaps = [keys[:, None] - keys[None, :] for keys in (now, rest)]
    sizes = [SLACK * (np.abs(keys[:, None]) + np.abs(keys[None, :])) for keys in (now, rest)]
    before, after = gaps[0] < -sizes[0], gaps[1] > sizes[1]
    turned = before & after
    if inserted is not None:
        older = inserted[:, None] < inserted[None, :]
        turned |= ((gaps[0] == 0) & older & after) | (before & (gaps[1] == 0) & older.T)
    found = np.argwhere(turned)
    return (int(found[0, 0]), int(found[0, 1])) if len(found) else None


def _keys(name: str, policy: Rank, rows: np.ndarray) -> np.ndarray:
    key = getattr(policy.key, "py_func", policy.key)
    given = rows.copy()
    with np.errstate(divide="raise", invalid="raise", over="ignore"):
        found, again = ([key(row) for row in given] for _ in range(2))
    if (given != rows).any():
        raise RankError(
            f"rank {name!r} writes to its candidate; read columns, and keep the rest in variables"
        )
    odd = [one for one in found if not isinstance(one, Real | np.bool_) or one != one]  # NaN is not itself
    if odd:
        raise RankError(
            f"rank {name!r} has a key that is no number ({odd[0]!r}): no order holds it; keep it finite"
        )
    if found != again:
        raise RankError(
            f"rank {name!r} has another key each time for the same candidate; to draw, let its key be "
            "c[Column.DRAW] and write Rank(..., needs=(Column.DRAW,))"
        )
    return np.array(found, np.float64)


def _at(rows: np.ndarray, clock: float) -> np.ndarray:
    """The same candidates at another clock; nothing touched them."""
    later = rows.copy()
    later[:, Column.NOW] = clock
    later[:, Column.IDLE] = clock - later[:, Column.LAST]
    later[:, Column.AGE] = clock - later[:, Column.INSERTED]
    return later


def _at_rest(rows: np.ndarray) -> np.ndarray:
    """The same candidates at clock zero, at which each was last accessed."""
    rest = _at(rows, 0.0)
    rest[:, Column.NOW] = 1.0
    rest[:, [Column.LAST, Column.IDLE]] = 0.0
    return rest


def _rows() -> np.ndarray:
    """Candidates of all kinds at clock START, the same ones every time."""
    rng = np.random.default_rng(7)
    rows = rng.integers(1, 9, (ROWS, CANDIDATE_COLS)).astype(np.float64)
    rows[:, Column.SIZE] = rng.integers(1, 4096, ROWS)
    rows[:, Column.INSERTED] = rng.permutation(ROWS) + 1
    rows[:, Column.LAST] = START - np.floor(np.exp(rng.uniform(0, np.log(START - ROWS - 1), ROWS)))
    rows[:, Column.FREQUENCY] = rows[:, Column.USES] + rng.integers(0, 9, ROWS)
    rows[:, Column.RELOAD_S] = rng.random(ROWS)
    for column in (
        Column.PRIORITY,
        Column.PROGRESS,
        Column.VALUE,
        Column.REGRET,
        Column.RETURNS,
        Column.DRAW,
    ):
        rows[:, column] = rng.random(ROWS)
    rows[:, Column.SHARERS] = rng.integers(0, 3, ROWS)
    return _at(rows, START)
