"""The brief view: the entries that matter most as short strings, for models that pay for every token.

    {"left":14,"used":951,"cpu_free":150,"link":232,"backlog_s":3,"queued":2,"need":210,
     "queue":["k m93 w4"],"rows":["b tool code idle m59 v71 i3 r2 p5"],"rest":"7 gpu m120, 9 cpu m310"}

Every memory is in thousandths of the budget (m). A row names its id, type, class and state (`cpu` where it
lies there), then its memory, bits below 16 (b), value (v), idle windows (i), seconds to recompute it (r) and
priority in tenths (p); numbers that are zero are left out. A tokenizer takes every digit and every blank
before one as a token. So letters stand before the numbers, and ids are letters too: `aliases`."""

import re
from collections.abc import Sequence

import numpy as np

from kv_cache_rl.core.precision import WORK_CLASSES
from kv_cache_rl.sim.eviction.actions import LOWEST
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import BITS, Head, Row, Status, new_view
from kv_cache_rl.sim.eviction.text import CLASSES, STATES, TYPES

SHOWN = 12
"""Rows that are written out."""
QUEUED = 3
"""Requests of the queue that are written out."""
WHOLE = 1000
"""The budget, in which every memory is counted."""
ON_CPU = "cpu"
_REASONING = WORK_CLASSES.index("reasoning")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def aliases(count: int) -> list[str]:
    """Ids of letters for so many slots: a to z, aa to zz, then three letters."""
    names, at = [], 0
    while len(names) < count:
        rest, name = at, ""
        while rest >= 0:
            name, rest = _LETTERS[rest % 26] + name, rest // 26 - 1
        names.append(name)
        at += 1
    return names


def in_thousandths(units: float, budget: int) -> int:
    """Units as thousandths of the budget, rounded."""
    return round(units * WHOLE / max(budget, 1))


def _units(row: Row) -> int:
    return row.pages * (UNITS_PER_PAGE >> row.level)


def _rank(row: Row) -> tuple[int, int]:
    """What a row is sorted by: on the GPU the dead; then what can give memory cheaply; of what runs then
    reasoning in 8 bits, which bears 4 worst, and what is in 4 bits already; then the CPU's. The largest
    stand first. On few others does `tuned` act, which sees all in the full view.
    """
    runs = row.status != Status.IDLE
    if row.place == Place.CPU:
        rank = 4
    elif row.kind in (Kind.REASONING, Kind.EPHEMERAL):
        rank = 0
    elif runs and row.level == LOWEST:
        rank = 3
    elif runs and row.level and row.work_class == _REASONING:
        rank = 2
    else:
        rank = 1
    return rank, -_units(row)


def brief(rows: np.ndarray, head: np.ndarray, names: Sequence[str], pending: list) -> dict:
    """The view as JSON-able values.

    Args:
        names: ids by slot.
        pending: ``[id, pages needed, windows waited]`` of the queue, longest waiting first.
    """
    h = Head._make(head.tolist())

    def thousandths(units: float) -> int:
        return in_thousandths(units, h.budget)

    every = [Row._make(row) for row in rows[: h.rows].tolist()]
    every = [row for row in every if row.kind != Kind.SYSTEM and thousandths(_units(row))]
    every.sort(key=_rank)

    rest = [
        f"{len(left)} {place.name.lower()} m{thousandths(sum(map(_units, left)))}"
        for place in (Place.GPU, Place.CPU)
        if (left := [row for row in every[SHOWN:] if row.place == place])
    ]
    return {
        "left": h.left,
        "used": thousandths(h.used),
        "cpu_free": thousandths(h.cpu - h.cpu_used),
        "link": thousandths(h.link_units),
        "backlog_s": _seconds(h.backlog_ms, 1000),
        "queued": h.queued,
        "need": thousandths(h.need),
        "queue": [
            f"{name} m{thousandths(pages * UNITS_PER_PAGE)} w{round(waited * 10)}"
            for name, pages, waited in pending[:QUEUED]
        ],
        "rows": [_row_text(row, names[row.slot], thousandths(_units(row))) for row in every[:SHOWN]],
        "rest": ", ".join(rest),
    }


def _seconds(parts: int, per_second: int) -> int:
    """Whole seconds, rounded; what takes any time at all takes at least one."""
    return max(round(parts / per_second), int(parts > 0))


def _row_text(row: Row, name: str, memory: int) -> str:
    state = STATES[row.status] if row.place != Place.CPU else ON_CPU
    if row.place == Place.CPU and row.status != Status.IDLE:
        state = f"{STATES[row.status]} {ON_CPU}"
    numbers = (
        ("m", memory),
        ("b", BITS[row.level] if row.level else 0),
        ("v", row.value),
        ("i", row.idle),
        ("r", _seconds(row.reload, 10)),
        ("p", row.priority // 10),  # 5 and 7, from which on evictions are risky, survive
    )
    words = [name, TYPES[row.kind], CLASSES[row.work_class], state]
    return " ".join(words + [f"{letter}{number}" for letter, number in numbers if number])


_ROW = re.compile(
    rf"([a-z]+) ({'|'.join(TYPES)}) ({'|'.join(CLASSES)}) ({'|'.join(STATES)})?(?: ?({ON_CPU}))?"
    r"(?: m(\d+))?(?: b(\d+))?(?: v(\d+))?(?: i(\d+))?(?: r(\d+))?(?: p(\d+))?"
)


def is_brief(values: dict) -> bool:
    """Whether an observation is of this view: its rows are strings."""
    return isinstance(values, dict) and "cpu_free" in values


def read_brief(values: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The view behind a brief observation and the id of each row, as `text.read_view` gives them.

    The budget is 1,000 pages, since memory is told in its thousandths. What is not told is zero.

    Raises:
        ValueError: the dictionary is no brief observation of this environment.
    """
    try:
        rows, head = new_view()
        ids = []
        for k, text in enumerate(values["rows"]):
            if (found := _ROW.fullmatch(text)) is None:
                raise ValueError(f"row {text!r} is not one of a brief observation")
            name, kind, work, state, cpu, *numbers = found.groups()
            memory, bits, value, idle, reload, priority = (int(number or 0) for number in numbers)
            level = BITS.index(bits) if bits else 0
            ids.append(name)
            rows[k] = Row(
                slot=k, kind=TYPES.index(kind), work_class=CLASSES.index(work),
                status=STATES.index(state) if state else Status.IDLE, pages=memory << level, level=level,
                place=Place.CPU if cpu else Place.GPU, priority=10 * priority, progress=0, value=value,
                idle=idle, uses=0, age=0, prefix=-1, sharers=0, reload=10 * reload,
            )  # fmt: skip
        first = _first_of(values["queue"])
        head[:] = Head(
            rows=len(ids), step=0, left=values["left"], used=values["used"] * UNITS_PER_PAGE,
            budget=WHOLE * UNITS_PER_PAGE, gpu=WHOLE * UNITS_PER_PAGE, cpu_used=0,
            cpu=values["cpu_free"] * UNITS_PER_PAGE, queued=values["queued"], growth=0,
            above=0, need=values["need"] * UNITS_PER_PAGE,
            need_first=first[0] * UNITS_PER_PAGE, wait_first=first[1],
            backlog_ms=round(values["backlog_s"] * 1000), link_units=values["link"] * UNITS_PER_PAGE,
            hidden=0, need_cpu=0,
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"not a brief observation of the eviction environment: {type(error).__name__} {error}"
        ) from None
    return rows, head, ids


def _first_of(queue: list[str]) -> tuple[int, int]:
    """Thousandths that the first request of the queue needs, and tenths of a window that it has waited."""
    if not queue:
        return 0, 0
    _, memory, waited = queue[0].split()
    return int(memory.removeprefix("m")), int(waited.removeprefix("w"))
