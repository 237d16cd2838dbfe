"""How likely an idle entry is asked for again, by its type and by how long it has been idle."""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.eviction.columns import Kind
from kv_cache_rl.sim.eviction.observe import Status

EPISODE_TOOL = np.array([0.77, 0.70, 0.55, 0.35, 0.20])
EPISODE_END = np.array([0.20, 0.17, 0.14, 0.12, 0.10])
"""P(asked for again in the episode | idle), by `idle_bin`, after a tool call and after a turn's end.

Source: the 30-second return shares measured on the Claude Code sessions (tool 0.82 at age 0, 0.35 at
16-30 s; end 0.20)."""

WINDOW_TOOL = np.array([0.20, 0.20, 0.14, 0.07, 0.02])
WINDOW_END = np.array([0.23, 0.02, 0.01, 0.007, 0.008])
"""P(asked for in the next window | idle), likewise.

Source: measured over the committed training scenarios."""


@uncounted
def idle_bin(windows):
    """The column of an idle time: 0-1, 2-3, 4-7, 8-14, 15 and more windows."""
    if windows < 4:
        return 0 if windows < 2 else 1
    if windows < 8:
        return 2
    return 3 if windows < 15 else 4


@uncounted
def never_read(row):
    """Whether no later turn reads the entry."""
    return row.kind == Kind.REASONING or row.kind == Kind.EPHEMERAL


@uncounted
def return_chance(row):
    """Estimated probability that an entry is asked for again before the episode is over."""
    if never_read(row):
        return 0.0
    if row.status != Status.IDLE:
        return 1.0
    k = idle_bin(row.idle)
    return EPISODE_TOOL[k] if row.kind == Kind.TOOL_RESULT else EPISODE_END[k]


@uncounted
def next_call(row):
    """Probability that an idle entry is asked for in the next window."""
    k = idle_bin(row.idle)
    return WINDOW_TOOL[k] if row.kind == Kind.TOOL_RESULT else WINDOW_END[k]
