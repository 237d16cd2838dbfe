"""Bytes of pages at the precisions they are stored in, in whole numbers."""

import numpy as np

from kv_cache_rl.core.precision import LADDER
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario
from kv_cache_rl.sim.hierarchy.traces.trace import Trace


def kept_bytes(size, part):
    """Bytes of `size` at `part` 1024ths, rounded down, without overflow.

    Plain Python, for arrays; compiled below for one page.
    """
    return (size >> 10) * part + ((size & 1023) * part >> 10)


_kept_bytes = uncounted(kept_bytes)


@uncounted
def bytes_of(s, p):
    """Bytes of a page at its present precision."""
    size, level = s.page[p].full_bytes, s.page[p].level
    return size if level == 0 else _kept_bytes(size, s.rungs[level].kept)


def kept_parts(scenario: Scenario) -> list[int]:
    """1024ths of its fp16 bytes that a page keeps at each rung, rounded up.

    A rung that was not measured keeps all.
    """
    schemes = scenario.calibrated.schemes
    return [int(np.ceil(schemes[name].multiplier * 1024)) if name in schemes else 1024 for name in LADDER]


def page_sizes(trace: Trace, scenario: Scenario) -> np.ndarray:
    """Bytes of each page in the scenario's footprint, int64 [P]; 1 each where a trace counts blocks.

    Raises:
        HierarchyError: a page larger than a tier or without bytes at the lowest precision, or a precision for
            pages of unknown bytes.
    """
    base = np.broadcast_to(np.asarray(trace.page_bytes, np.int64), trace.blocks)
    if not base.any():
        if scenario.squeeze != "fp16" or scenario.footprint != "fp16":
            raise HierarchyError(
                "the trace does not know the bytes of its blocks, precision cannot matter; give a model"
            )
        sizes = np.ones(trace.blocks, np.int64)
    else:
        part = scenario.calibrated.scheme(scenario.footprint).multiplier
        sizes = np.maximum((base * part).astype(np.int64), 1)
    smallest, largest = int(sizes.argmin()), int(sizes.argmax())
    if kept_bytes(sizes[smallest], kept_parts(scenario)[LADDER.index(scenario.squeeze)]) == 0:
        raise HierarchyError(
            f"page {smallest} has {sizes[smallest]} bytes, none at {scenario.squeeze}; use larger pages"
        )
    for tier in scenario.tiers:
        if sizes[largest] > tier.capacity:
            raise HierarchyError(
                f"page {largest} takes {sizes[largest]} bytes, tier {tier.name!r} holds {tier.capacity}; "
                "enlarge the tier, or use smaller pages or a lower precision"
            )
    return sizes
