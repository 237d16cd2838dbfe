"""What a decider sees: one integer table compiled from the state, and the compact JSON text a chat model
reads.

The table is the View. Deciders take it; the text is the table written down, and `read_view` reads it back, so
that a policy behind a chat endpoint and the same policy inside the search decide from the same numbers."""

import json

import numpy as np

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.admission import demand
from kv_cache_rl.sim.eviction.entries import eviction_value, prefill_us, progress, units_of
from kv_cache_rl.sim.eviction.state import (
    ABOVE_95,
    BORN,
    BUDGET,
    CLASS,
    COUNT,
    DEAD_KIND,
    DECODE,
    EPHEMERAL,
    FIRST_TURN,
    GPU,
    IDLE,
    KIND,
    LAST,
    LEVEL,
    LINK_NS,
    NOWHERE,
    ON_CPU,
    ON_GPU,
    ORDER,
    P_PAGES,
    P_REFS,
    P_TOKENS,
    PAGES,
    PHASE,
    PLACE,
    PREFILL,
    PREFIX,
    PRIORITY,
    QUEUE_BEFORE,
    QUEUED,
    REASONING,
    REF,
    SESSIONS,
    SLOTS,
    STEP_US,
    STEPS_,
    SYSTEM,
    TODO_US,
    TOKENS,
    TURN,
    UNITS_PER_PAGE,
    WAIT_US,
    T,
    columns_of,
)  # fmt: skip

MAX_ROWS = 32
MAX_CHARACTERS = 3600
TOP = 6

# Columns of a row. Percentages are integers 0-100, reload is tenths of a second, idle and age are windows.
(V_SLOT, V_TYPE, V_CLASS, V_STATE, V_PAGES, V_LEVEL, V_PLACE, V_PRIORITY, V_PROGRESS, V_VALUE, V_IDLE, V_USES, V_AGE,
 V_PREFIX, V_SHARERS, V_RELOAD) = range(16)  # fmt: skip
VIEW_COLS = 16
COLUMNS = ("id", "type", "class", "state", "pages", "bits", "place", "priority", "progress", "value", "idle", "uses", "age",
           "prefix", "sharers", "reload_s")  # fmt: skip
TYPES = ("system", "context", "tool", "gen", "think", "ephemeral")
CLASSES = ("chat", "extract", "code", "reason")
STATES = ("idle", "wait", "prefill", "decode", "reasoning")
S_IDLE, S_WAIT, S_PREFILL, S_DECODE, S_REASONING = range(5)
BITS = (16, 8, 4)
PLACE_NAMES = ("none", "gpu", "cpu")

# Head of the view: quarter pages, windows, thousandths of a second, tenths of a window.
(N_ROWS, STEP, LEFT, USED, BUDGET_, GPU_, CPU_USED, CPU_CAP, QUEUED_N, GROWTH, ABOVE, NEED, NEED_FIRST, WAIT_FIRST, BACKLOG_MS,
 LINK_UNITS, HIDDEN, NEED_CPU) = range(18)  # fmt: skip
VIEW_HEAD = 20


@uncounted
def _visible(dyn, slots, order, keys):
    """Slots shown, in slot order: all if they are few, else the running ones, then the GPU's, then the
    largest.
    """
    n = 0
    for i in range(slots):
        order[n] = i
        n += dyn[PLACE, i] != NOWHERE
    hidden = max(n - MAX_ROWS, 0)
    if hidden == 0:
        return n, 0
    for k in range(n):
        i = order[k]
        rank = 2 if dyn[PHASE, i] != IDLE else 1 if dyn[PLACE, i] == ON_GPU else 0
        keys[k] = (rank << 40) + units_of(dyn, i)
    # Few are hidden: dropping the least (the last of equals) one by one takes less than sorting.
    for shown in range(n - 1, MAX_ROWS - 1, -1):
        least = 0
        for k in range(1, shown + 1):
            if keys[k] <= keys[least]:
                least = k
        for k in range(least, shown):
            order[k], keys[k] = order[k + 1], keys[k + 1]
    return MAX_ROWS, hidden


@uncounted
def _facts(scn, c, i, row):
    """The columns that any weighing needs."""
    dyn, prefixes, p, kind = c.dyn, c.prefixes, c.static[PREFIX, i], c.dyn[KIND, i]
    row[V_SLOT], row[V_TYPE], row[V_CLASS] = i, kind, c.static[CLASS, i]
    row[V_STATE] = dyn[PHASE, i]
    row[V_PAGES] = prefixes[p, P_PAGES] if kind == SYSTEM else dyn[PAGES, i]
    row[V_LEVEL], row[V_PLACE] = dyn[LEVEL, i], dyn[PLACE, i]
    if kind == REASONING or kind == EPHEMERAL:
        row[V_RELOAD] = 0
    elif kind == SYSTEM:
        row[V_RELOAD] = prefill_us(scn, prefixes[p, P_TOKENS], 0) // 100_000
    else:
        row[V_RELOAD] = prefill_us(scn, dyn[TOKENS, i], prefixes[p, P_TOKENS] if p >= 0 else 0) // 100_000


@uncounted
def _judgement(c, i, row):
    """The columns that say how an entry was used and what it is worth."""
    static, dyn, t = c.static, c.dyn, c.counters[T]
    if dyn[PHASE, i] == DECODE and c.turns[static[FIRST_TURN, i] + dyn[TURN, i], DEAD_KIND] == 1:
        row[V_STATE] = S_REASONING
    row[V_PRIORITY] = static[PRIORITY, i] // 10
    row[V_PROGRESS] = progress(c, i) // 10
    row[V_VALUE] = eviction_value(c, i, t) // 10
    row[V_IDLE], row[V_USES], row[V_AGE] = t - dyn[LAST, i], dyn[COUNT, i], t - dyn[BORN, i]
    row[V_PREFIX] = static[PREFIX, i] if dyn[REF, i] else -1
    row[V_SHARERS] = c.prefixes[static[PREFIX, i], P_REFS] if dyn[REF, i] else 0


@uncounted
def _totals(scn, c, head):
    """Fills the head, the number of rows aside."""
    dyn, ledger, counters = c.dyn, c.ledger, c.counters
    head[STEP], head[LEFT] = counters[T], scn[STEPS_] - counters[T]
    head[USED], head[BUDGET_], head[GPU_] = ledger[0, 1], scn[BUDGET], scn[GPU]
    head[CPU_USED], head[CPU_CAP] = ledger[1, 1], ledger[1, 0]
    head[ABOVE] = counters[ABOVE_95]
    head[LINK_UNITS] = scn[STEP_US] * 1000 // max(scn[LINK_NS], 1)
    first = np.int64(1) << 60
    backlog = 0
    for i in range(scn[SESSIONS]):
        if dyn[PHASE, i] == QUEUED:
            need = demand(c, i)
            head[QUEUED_N] += 1
            head[NEED] += need
            if dyn[PLACE, i] == ON_CPU:
                head[NEED_CPU] += need
            if dyn[ORDER, i] < first:
                first = dyn[ORDER, i]
                head[NEED_FIRST], head[WAIT_FIRST] = need, dyn[WAIT_US, i] * 10 // scn[STEP_US]
        elif dyn[PHASE, i] == PREFILL:
            backlog += dyn[TODO_US, i]
    head[BACKLOG_MS] = backlog // 1000
    head[GROWTH] = head[QUEUED_N] - counters[QUEUE_BEFORE]


@uncounted
def look(scn, state, rows, head, slots, whole):
    """Fills the table like `view`; `slots`, int64 ``[2, slots + 1]``, is its scratch paper.

    Without `whole` it leaves out what only deciders that cannot see the future look at: half the work.
    """
    c = columns_of(scn, state)
    n, hidden = _visible(c.dyn, scn[SLOTS], slots[0], slots[1])
    for k in range(n):
        _facts(scn, c, slots[0, k], rows[k])
        if whole:
            _judgement(c, slots[0, k], rows[k])
    head[:] = 0
    head[N_ROWS], head[HIDDEN] = n, hidden
    _totals(scn, c, head)
    return n


@njit
def view(scn, state, rows, head):
    """Fills the table a decider sees:

    `rows` int64 ``[32, 16]`` and `head` int64 ``[20]``; returns the number of rows.
    """
    return look(scn, state, rows, head, np.empty((2, scn[SLOTS] + 1), np.int64), True)


def new_view() -> tuple[np.ndarray, np.ndarray]:
    """Empty buffers for `view`."""
    return np.zeros((MAX_ROWS, VIEW_COLS), np.int64), np.zeros(VIEW_HEAD, np.int64)


def in_pages(units: int) -> int | float:
    """Quarter pages as pages, whole where they are."""
    whole, rest = divmod(int(units), UNITS_PER_PAGE)
    return whole + rest / UNITS_PER_PAGE if rest else whole


def observation(
    rows: np.ndarray, head: np.ndarray, names: list[str], prefix_ids: list[str], pending: list
) -> dict:
    """The view as JSON-able values under the original environment's field names.

    `names` are the seq_ids by slot; `pending` lists ``[seq_id, pages needed, windows waited]``, longest
    waiting first."""
    h = head.tolist()
    table = rows[: h[N_ROWS]].tolist()
    out_rows, ids, by_memory, by_safety = [], [], [], []
    overview = dict.fromkeys(("system", "context", "tool_result", "generation", "reasoning", "ephemeral"), 0)
    kinds = list(overview)
    compressed = swapped = 0
    for k, r in enumerate(table):
        name = names[r[V_SLOT]]
        ids.append(name)
        overview[kinds[r[V_TYPE]]] += 1
        compressed += r[V_LEVEL] > 0
        swapped += r[V_PLACE] == ON_CPU
        out_rows.append(
            [name, TYPES[r[V_TYPE]], CLASSES[r[V_CLASS]], STATES[r[V_STATE]], r[V_PAGES], BITS[r[V_LEVEL]],
             PLACE_NAMES[r[V_PLACE]], *r[V_PRIORITY:V_PREFIX], prefix_ids[r[V_PREFIX]] if r[V_PREFIX] >= 0 else 0,
             r[V_SHARERS], r[V_RELOAD] / 10 if r[V_RELOAD] else 0]
        )  # fmt: skip
        if r[V_PLACE] == ON_GPU:
            by_memory.append((-(r[V_PAGES] * (UNITS_PER_PAGE >> r[V_LEVEL])), k))
            by_safety.append((-r[V_VALUE], r[V_PRIORITY], r[V_PROGRESS], k))
    by_memory.sort()
    by_safety.sort()
    overview |= {"compressed": compressed, "swapped": swapped}
    if h[HIDDEN]:
        overview["not_shown"] = h[HIDDEN]
    return {
        "memory_usage": round(h[USED] / h[GPU_], 4),
        "memory_budget": round(h[BUDGET_] / h[GPU_], 4),
        "episode_remaining": h[LEFT],
        "time_above_0_95": h[ABOVE],
        "pending_queue_growth": h[GROWTH],
        "pages": {
            "used": in_pages(h[USED]), "budget": in_pages(h[BUDGET_]), "gpu": in_pages(h[GPU_]),
            "cpu_used": in_pages(h[CPU_USED]), "cpu": in_pages(h[CPU_CAP]), "link_per_window": in_pages(h[LINK_UNITS]),
        },
        "prefill_backlog_s": h[BACKLOG_MS] / 1000,
        "cache_overview": overview,
        "columns": list(COLUMNS),
        "rows": out_rows,
        "top_memory_entries": [ids[k] for *_, k in by_memory[:TOP]],
        "top_eviction_candidates": [ids[k] for *_, k in by_safety[:TOP]],
        "pending_summary": {
            "queued": h[QUEUED_N], "pages_needed": in_pages(h[NEED]), "from_cpu": in_pages(h[NEED_CPU]),
            "first_needs": in_pages(h[NEED_FIRST]), "first_waited": h[WAIT_FIRST] / 10, "first": pending[:TOP],
        },
        "visible_seq_ids": ids,
    }  # fmt: skip


def to_text(values: dict) -> str:
    """Compact JSON, fixed key order."""
    return json.dumps(values, separators=(",", ":"))


_TYPE, _CLASS, _STATE, _PLACE = (
    {name: k for k, name in enumerate(n)} for n in (TYPES, CLASSES, STATES, PLACE_NAMES)
)
_LEVEL = {bits: level for level, bits in enumerate(BITS)}


def read_view(values: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The view behind an observation, and the seq_id of each row.

    Raises:
        ValueError: the dictionary is not an observation of this environment.
    """
    try:
        rows, head = new_view()
        ids = [r[0] for r in values["rows"]]
        prefixes: dict = {}
        for k, r in enumerate(values["rows"]):
            rows[k] = (
                k, _TYPE[r[1]], _CLASS[r[2]], _STATE[r[3]], r[4], _LEVEL[r[5]], _PLACE[r[6]], *r[7:13],
                prefixes.setdefault(r[13], len(prefixes)) if r[13] else -1, r[14], round(r[15] * 10),
            )  # fmt: skip
        pages, pending = values["pages"], values["pending_summary"]
        head[N_ROWS], head[LEFT] = len(ids), values["episode_remaining"]
        for slot, number in (
            (USED, pages["used"]), (BUDGET_, pages["budget"]), (GPU_, pages["gpu"]), (CPU_USED, pages["cpu_used"]),
            (CPU_CAP, pages["cpu"]), (LINK_UNITS, pages["link_per_window"]), (NEED, pending["pages_needed"]),
            (NEED_FIRST, pending["first_needs"]), (NEED_CPU, pending["from_cpu"]),
        ):  # fmt: skip
            head[slot] = round(number * UNITS_PER_PAGE)
        head[QUEUED_N], head[WAIT_FIRST] = pending["queued"], round(pending["first_waited"] * 10)
        head[GROWTH], head[ABOVE] = values["pending_queue_growth"], values["time_above_0_95"]
        head[BACKLOG_MS] = round(values["prefill_backlog_s"] * 1000)
        head[HIDDEN] = values["cache_overview"].get("not_shown", 0)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"not an observation of the eviction environment: {type(error).__name__} {error}"
        ) from None
    return rows, head, ids
