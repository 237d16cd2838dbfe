"""The observation: the view as the compact JSON text that a chat model reads, and back.

A policy behind a chat endpoint and the same policy inside the search so decide from the same numbers."""

import json

import numpy as np

from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Place
from kv_cache_rl.sim.eviction.observe import BITS, Head, new_view
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, PLACES

MAX_CHARACTERS = 3600
TOP = 6
"""Entries in each short list."""
COLUMNS = ("id", "type", "class", "state", "pages", "bits", "place", "priority", "progress", "value", "idle",
           "uses", "age", "prefix", "sharers", "reload_s")  # fmt: skip
TYPES = ("system", "context", "tool", "gen", "think", "ephemeral")
CLASSES = ("chat", "extract", "code", "reason")
STATES = ("idle", "wait", "prefill", "decode", "reasoning")


def in_pages(units: int) -> int | float:
    """Units as pages, whole where they are."""
    whole, rest = divmod(int(units), UNITS_PER_PAGE)
    return whole + rest / UNITS_PER_PAGE if rest else whole


def observation(
    rows: np.ndarray, head: np.ndarray, names: list[str], prefix_ids: list[str], pending: list
) -> dict:
    """The view as JSON-able values under the original environment's field names.

    `names` are the seq_ids by slot; `pending` lists ``[seq_id, pages needed, windows waited]``, longest
    waiting first."""
    h, gpu, cpu = Head._make(head.tolist()), int(Place.GPU), int(Place.CPU)
    out_rows, ids, by_memory, by_safety = [], [], [], []
    overview = dict.fromkeys(BLOCK_TYPES, 0)
    compressed = swapped = 0
    # Fields in the order of `Row`: unpacked, as making 32 rows takes longer than writing them.
    for k, (slot, kind, work, status, pages, level, place, *shown, prefix, sharers, reload) in enumerate(
        rows[: h.rows].tolist()
    ):
        name = names[slot]
        ids.append(name)
        overview[BLOCK_TYPES[kind]] += 1
        compressed += level > 0
        swapped += place == cpu
        out_rows.append(
            [name, TYPES[kind], CLASSES[work], STATES[status], pages, BITS[level], PLACES[place], *shown,
             prefix_ids[prefix] if prefix >= 0 else 0, sharers, reload / 10 if reload else 0]
        )  # fmt: skip
        if place == gpu:
            priority, progress, value, *_ = shown
            by_memory.append((-(pages * (UNITS_PER_PAGE >> level)), k))
            by_safety.append((-value, priority, progress, k))
    by_memory.sort()
    by_safety.sort()
    overview |= {"compressed": compressed, "swapped": swapped}
    if h.hidden:
        overview["not_shown"] = h.hidden
    return {
        "memory_usage": round(h.used / h.gpu, 4),
        "memory_budget": round(h.budget / h.gpu, 4),
        "episode_remaining": h.left,
        "time_above_0_95": h.above,
        "pending_queue_growth": h.growth,
        "pages": {
            "used": in_pages(h.used), "budget": in_pages(h.budget), "gpu": in_pages(h.gpu),
            "cpu_used": in_pages(h.cpu_used), "cpu": in_pages(h.cpu),
            "link_per_window": in_pages(h.link_units),
        },
        "prefill_backlog_s": h.backlog_ms / 1000,
        "cache_overview": overview,
        "columns": list(COLUMNS),
        "rows": out_rows,
        "top_memory_entries": [ids[k] for *_, k in by_memory[:TOP]],
        "top_eviction_candidates": [ids[k] for *_, k in by_safety[:TOP]],
        "pending_summary": {
            "queued": h.queued, "pages_needed": in_pages(h.need), "from_cpu": in_pages(h.need_cpu),
            "first_needs": in_pages(h.need_first), "first_waited": h.wait_first / 10, "first": pending[:TOP],
        },
        "visible_seq_ids": ids,
    }  # fmt: skip


def to_text(values: dict) -> str:
    """Compact JSON, fixed key order."""
    return json.dumps(values, separators=(",", ":"))


_KIND, _CLASS, _STATUS, _PLACE, _LEVEL = (
    {name: k for k, name in enumerate(names)} for names in (TYPES, CLASSES, STATES, PLACES, BITS)
)


def _units(pages: float) -> int:
    return round(pages * UNITS_PER_PAGE)


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
                k, _KIND[r[1]], _CLASS[r[2]], _STATUS[r[3]], r[4], _LEVEL[r[5]], _PLACE[r[6]], *r[7:13],
                prefixes.setdefault(r[13], len(prefixes)) if r[13] else -1, r[14], round(r[15] * 10),
            )  # fmt: skip
        pages, pending = values["pages"], values["pending_summary"]
        head[:] = Head(
            rows=len(ids), step=0, left=values["episode_remaining"], used=_units(pages["used"]),
            budget=_units(pages["budget"]), gpu=_units(pages["gpu"]), cpu_used=_units(pages["cpu_used"]),
            cpu=_units(pages["cpu"]), queued=pending["queued"], growth=values["pending_queue_growth"],
            above=values["time_above_0_95"], need=_units(pending["pages_needed"]),
            need_first=_units(pending["first_needs"]), wait_first=round(pending["first_waited"] * 10),
            backlog_ms=round(values["prefill_backlog_s"] * 1000), link_units=_units(pages["link_per_window"]),
            hidden=values["cache_overview"].get("not_shown", 0), need_cpu=_units(pending["from_cpu"]),
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"not an observation of the eviction environment: {type(error).__name__} {error}"
        ) from None
    return rows, head, ids
