"""Capacities and traffic of a replay in words."""

from typing import TYPE_CHECKING

from kv_cache_rl.amounts import amount

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace


def size_in(capacity: int, trace: "Trace") -> str:
    """A capacity of a replay in words: bytes and the blocks that they hold at fp16, or blocks alone."""
    size = trace.page_bytes
    if not isinstance(size, int):
        return amount(capacity)
    return f"{amount(capacity)} ({capacity // size:,} blocks)" if size else f"{capacity:,}"


def moved_in(count: int, trace: "Trace") -> str:
    """What crossed the links, in the unit of a replay."""
    return f"{count:,}" if isinstance(trace.page_bytes, int) and not trace.page_bytes else amount(count)
