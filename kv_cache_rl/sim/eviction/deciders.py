"""Deciders: from the view to tool calls. All of them are pure functions of what a chat model sees.

Blind ones never look (they make up the floor and the canaries). The ranking ones free just what the queue and
a reserve need, in the order of a policy of `kv_cache_rl.policies`. `cost_aware` and `lookahead` weigh every
(entry, action) pair. `stability` leaves to the queueing controller how much is freed and how coarse it may
get, and to `value_aware` what."""

from collections.abc import Callable, Sequence

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.core.precision import LADDER, PRECISIONS, WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.policies.rank import RANK_IDS, rank
from kv_cache_rl.sim.eviction.calls import Call
from kv_cache_rl.sim.eviction.dynamics import COMPRESS, EVICT, KEEP, SWAP, UNREADABLE
from kv_cache_rl.sim.eviction.observe import (
    CPU_CAP,
    CPU_USED,
    LEFT,
    N_ROWS,
    S_IDLE,
    S_WAIT,
    V_AGE,
    V_CLASS,
    V_IDLE,
    V_LEVEL,
    V_PAGES,
    V_PLACE,
    V_PRIORITY,
    V_PROGRESS,
    V_RELOAD,
    V_SHARERS,
    V_STATE,
    V_TYPE,
    V_USES,
    V_VALUE,
    read_view,
)  # fmt: skip
from kv_cache_rl.sim.eviction.reserve import reserve
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, PAGE_TOKENS
from kv_cache_rl.sim.eviction.state import (
    EPHEMERAL,
    ON_GPU,
    REASONING,
    SYSTEM,
    TOOL_RESULT,
    UNITS_PER_PAGE,
)  # fmt: skip
from kv_cache_rl.sim.eviction.weighing import shortage, size_of, weigh

MAX_OUT = 20
_LOSS = np.array([[PRECISIONS[name].loss[work] for name in LADDER] for work in WORK_CLASSES])

# P(the next call comes within a step | idle for 0-1, 2-3, 4-7, 8-14, 15+ windows), after a tool call, and
# after a turn's end.
# Source: the 30-second return shares measured on the Claude Code sessions (tool 0.82 at age 0, 0.35 at 16-30
# s; end 0.20).
_RETURN_TOOL = np.array([0.77, 0.70, 0.55, 0.35, 0.20])
_RETURN_END = np.array([0.20, 0.17, 0.14, 0.12, 0.10])


@uncounted
def _candidate(row, k, c):
    c[Column.SIZE] = size_of(row)
    c[Column.TOKENS] = row[V_PAGES] * PAGE_TOKENS
    c[Column.IDLE], c[Column.AGE], c[Column.USES], c[Column.KIND] = (
        row[V_IDLE],
        row[V_AGE],
        row[V_USES],
        row[V_TYPE],
    )
    c[Column.PRIORITY], c[Column.PROGRESS], c[Column.BITS] = (
        row[V_PRIORITY] / 100.0,
        row[V_PROGRESS] / 100.0,
        16 >> row[V_LEVEL],
    )
    c[Column.RELOAD_S], c[Column.SHARERS], c[Column.VALUE], c[Column.INSERTED] = (
        row[V_RELOAD] / 10.0,
        row[V_SHARERS],
        row[V_VALUE] / 100.0,
        k,
    )


@uncounted
def _blind(rows, n, verb, lowest, out):
    """The same call on everything it applies to."""
    m = 0
    for k in range(n):
        row = rows[k]
        if m == MAX_CALLS_PER_STEP:
            break
        if verb != EVICT and (row[V_PLACE] != ON_GPU or row[V_TYPE] == SYSTEM or row[V_PAGES] == 0):
            continue
        if verb == COMPRESS and row[V_LEVEL] >= lowest:
            continue
        out[m, 0], out[m, 1] = verb, k
        m += 1
    return m


@uncounted
def _random(rows, n, left, out):
    """Three calls drawn by a hash of the window and the table: reproducible without a generator."""
    seed = np.uint64(left * 7919 + n * 104729)
    for k in range(n):
        seed = seed * np.uint64(6364136223846793005) + np.uint64(rows[k, V_PAGES] * 31 + rows[k, V_IDLE] + 1)
    for m in range(3):
        seed = seed * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
        draw = np.int64(seed >> np.uint64(33))
        out[m, 0] = EVICT + draw % 3
        out[m, 1] = (draw // 3) % max(n, 1)
    return 3 if n > 0 else 0


@njit
def _ranked(policy, rows, n, head, reserve, out):
    """Textbook policy: the rank says who gives way, one ladder says how: to 8 bits, then the CPU pool, else
    dropped.
    """
    need = shortage(head, reserve)
    cpu_free = head[CPU_CAP] - head[CPU_USED]
    c, keys = np.empty(CANDIDATE_COLS), np.full(n, np.inf)
    level = rows[:n, V_LEVEL].copy()
    for k in range(n):
        row = rows[k]
        if row[V_PLACE] == ON_GPU and row[V_STATE] <= S_WAIT and row[V_TYPE] != SYSTEM and row[V_PAGES] > 0:
            _candidate(row, k, c)
            keys[k] = rank(policy, c)
    order = np.argsort(keys, kind="mergesort")
    m = 0
    for rung in range(2):
        for k in order:
            if need <= 0 or m >= MAX_CALLS_PER_STEP or keys[k] == np.inf:
                break
            size = rows[k, V_PAGES] * (UNITS_PER_PAGE >> level[k])
            if rung == 0 and level[k] == 0:
                out[m, 0], out[m, 1] = COMPRESS, k
                level[k] = 1
                need -= size // 2
                m += 1
            elif rung == 1 and rows[k, V_STATE] == S_IDLE:
                out[m, 0], out[m, 1] = EVICT, k
                if size <= cpu_free:
                    out[m, 0] = SWAP
                    cpu_free -= size
                need -= size
                m += 1
    return m


@uncounted
def return_chance(row):
    """Estimated probability that an idle entry is asked for again before the episode is over."""
    kind = row[V_TYPE]
    if kind == REASONING or kind == EPHEMERAL:
        return 0.0
    if row[V_STATE] != S_IDLE:
        return 1.0
    idle = row[V_IDLE]
    bin_ = 0 if idle < 2 else 1 if idle < 4 else 2 if idle < 8 else 3 if idle < 15 else 4
    return _RETURN_TOOL[bin_] if kind == TOOL_RESULT else _RETURN_END[bin_]


# Policy numbers for the compiled dispatch: below 100 the ranking policies, then the rest.
(
    P_KEEP,
    P_RANDOM,
    P_EVICT_ALL,
    P_INT8,
    P_INT4,
    P_SWAP_ALL,
    P_SPAM,
    P_VALUE,
    P_COST,
    P_LOOKAHEAD,
    P_STABILITY,
) = range(100, 111)
P_THRESHOLD = 111
"""From here on:

`value_aware` that frees what is above a fixed share of the budget, the measure for `stability`.
"""
THRESHOLDS = np.array([800, 900, 950])


@uncounted
def _worth(row):
    """How much losing an entry would hurt, 0 to 1: its block type, hotness, progress, priority and shared
    prefix.
    """
    worth = 1.0 - row[V_VALUE] / 100.0
    return min(worth * (0.7 + 0.6 * row[V_PRIORITY] / 100.0) * (1.0 + 0.02 * min(row[V_SHARERS], 10)), 1.0)


@uncounted
def _estimates(rows, n, policy, chance, loss):
    """What each weighing policy believes: cost_aware that everything alive returns, value_aware the shown
    value, lookahead the measured return shares."""
    for k in range(n):
        row = rows[k]
        for level in range(3):
            loss[k, level] = _LOSS[row[V_CLASS], level]
        if row[V_TYPE] == REASONING or row[V_TYPE] == EPHEMERAL:
            chance[k] = 0.0
        elif policy == P_LOOKAHEAD:
            chance[k] = return_chance(row)
        elif policy == P_VALUE or policy >= P_STABILITY:
            chance[k] = _worth(row)
        else:
            chance[k] = 1.0


@njit
def decide(policy, rows, head, out):
    """Calls of a policy for one window:

    `out` int64 ``[20, 2]`` receives (verb, row), -1 for an id that does not exist.
    """
    n = head[N_ROWS]
    if policy == P_KEEP:
        out[0, 0], out[0, 1] = KEEP, -1
        return 1
    if policy == P_RANDOM:
        return _random(rows, n, head[LEFT], out)
    if policy == P_EVICT_ALL:
        return _blind(rows, n, EVICT, 0, out)
    if policy == P_INT8:
        return _blind(rows, n, COMPRESS, 1, out)
    if policy == P_INT4:
        return _blind(rows, n, COMPRESS, 2, out)
    if policy == P_SWAP_ALL:
        return _blind(rows, n, SWAP, 0, out)
    if policy == P_SPAM:
        for m in range(MAX_OUT):
            out[m, 0], out[m, 1] = EVICT, -1
        return MAX_OUT
    if policy >= P_VALUE:
        chance, loss = np.empty(n), np.empty((n, 3))
        _estimates(rows, n, policy, chance, loss)
        if policy < P_STABILITY:
            return weigh(rows, n, head, chance, loss, shortage(head, 60), shortage(head, 220), out)
        if policy == P_STABILITY:
            kept_free, lowest = reserve(rows, head)
            short = shortage(head, 0) + kept_free
            loss[:, lowest + 1 :] = np.inf
        else:
            short = shortage(head, 1000 - THRESHOLDS[policy - P_THRESHOLD])
        return weigh(rows, n, head, chance, loss, short, short, out)
    return _ranked(policy, rows, n, head, 50, out)


POLICY_IDS: dict[str, int] = {
    "keep": P_KEEP,
    "random": P_RANDOM,
    "evict_all": P_EVICT_ALL,
    "compress_int8": P_INT8,
    "compress_int4": P_INT4,
    "swap_all": P_SWAP_ALL,
    "spam_invalid": P_SPAM,
    "lru": RANK_IDS["lru"],
    "fifo": RANK_IDS["fifo"],
    "lfu": RANK_IDS["lfu"],
    "largest_first": RANK_IDS["largest_first"],
    "gdsf": RANK_IDS["gdsf"],
    "value_aware": P_VALUE,
    "cost_aware": P_COST,
    "lookahead": P_LOOKAHEAD,
    "stability": P_STABILITY,
}
THRESHOLD_IDS: dict[str, int] = {
    f"threshold_{share / 1000:.2f}": P_THRESHOLD + k for k, share in enumerate(THRESHOLDS)
}
"""Not shipped: what `stability` is compared with."""
CANARIES = ("keep", "random", "evict_all", "compress_int8", "compress_int4", "swap_all", "spam_invalid")
FLOOR = ("keep", "evict_all", "swap_all", "compress_int8", "compress_int4")

_VERB_NAMES = {KEEP: "keep", EVICT: "evict", COMPRESS: "compress", SWAP: "swap_to_cpu", UNREADABLE: "?"}
Decider = Callable[[dict], Sequence[Call]]


def policy_id(name: str) -> int:
    """The number by which compiled code knows a decider; raises ValueError where no decider has that name."""
    known = POLICY_IDS | THRESHOLD_IDS
    if name not in known:
        raise ValueError(f"there is no decider {name!r}; choose one of {', '.join(POLICY_IDS)}")
    return known[name]


def decider(name: str) -> Decider:
    """A decider by name, as a function from an observation dictionary to tool calls.

    Raises:
        ValueError: no decider has that name.
    """
    policy = policy_id(name)

    def act(observation: dict) -> list[Call]:
        rows, head, ids = read_view(observation)
        out = np.zeros((MAX_OUT, 2), np.int64)
        count = decide(policy, rows, head, out)
        return [
            Call("keep") if verb == KEEP else Call(_VERB_NAMES[verb], ids[k] if k >= 0 else f"no-such-id-{m}")
            for m, (verb, k) in enumerate(out[:count].tolist())
        ]

    return act


DECIDERS: dict[str, Callable[[], Decider]] = {name: (lambda name=name: decider(name)) for name in POLICY_IDS}
"""Name -> factory; calling the factory is the episode reset."""
