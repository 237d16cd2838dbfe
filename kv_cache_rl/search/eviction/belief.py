"""What is believed when a window begins, as compiled code takes it: records with named fields."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.sim.eviction.columns import record

UNKNOWN = -1
"""Class and prefix of a request that was seen in the queue alone."""

BELIEF = record(
    "kind", "work_class", "status", "pages", "level", "place", "priority", "progress", "value", "idle",
    "uses", "age", "reload",  # as the row shows them
    "holds",  # 1 if it holds a shared prefix, as far as can be seen
    "prefix", "seen", "cached", "queued", "active", "gained", "grew", "delay", "cut", "arrived", "lost",
    "bears", "breaks", "spread", "ran",  # as `memory.Entry` has them
    "alike",  # 1 for one that no view has shown: kind and last access are those of one that it resembles
    ("waited", np.float64),
    ("need", np.float64),
    ("fresh", np.float64),
)  # fmt: skip
WINDOW = record(
    "t", "queued", "growth", "above", "backlog_us", "failures", "tokens_done", "late_us",
    "cap",  # tokens of a context, at most
    "bursts",
    ("step_s", np.float64),
    ("sub_agents", np.float64),
    ("arrivals", np.float64),  # of the whole episode, mean
)  # fmt: skip


class Beliefs(NamedTuple):
    """What is believed when a window begins, as compiled code takes it."""

    entries: np.ndarray
    """`BELIEF` ``[N]``, those of the view first"""
    window: np.ndarray
    """`WINDOW` ``[1]``"""
    header: np.ndarray
    """int64 ``[cells(SCENARIO)]``, without sessions, slots and turns"""
    prefix_pages: np.ndarray
    """int64 ``[P]``"""
    anchored: np.ndarray
    """int64 ``[P]``, 1 where the anchor is still there"""
    places: np.ndarray
    """int64 ``[rows]``: the slot of each row of the view; anchors count from the end, -1 the last"""
