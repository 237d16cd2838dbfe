"""The leading requests of a trace that fill the cache and are in no metric."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

WarmUp = int | float | str
"""Accesses (1000), a share of them (0.2, "20%"), or seconds of the trace's clock ("600s")."""


def warmed(trace: Trace, wanted: WarmUp) -> Trace:
    """The trace whose first requests do not count, whole ones: as many as hold so many accesses at least.

    Source: libCacheSim's ``--warmup-sec`` and ``--warmup-frac``.

    Raises:
        HierarchyError: `wanted` is no warm-up, or nothing would be left to count.
    """
    amount, unit = parse_warm_up(wanted)
    if unit == "s":
        requests = int(np.searchsorted(trace.time_s, trace.time_s[0] + amount))
    else:
        until = np.cumsum(trace.lengths)
        accesses = amount * until[-1] if unit == "%" else amount
        requests = int(np.searchsorted(until, round(accesses, 6))) + 1 if accesses > 0 else 0
    warm = replace(trace, warm_up=min(requests, trace.requests))
    if not warm.accesses:
        raise HierarchyError(
            f"a warm-up of {wanted} takes all {trace.requests:,} requests of {trace.name!r}: nothing is left "
            "to measure; give less"
        )
    return warm


def parse_warm_up(wanted: WarmUp) -> tuple[float, str]:
    """How much, and of what: accesses (""), a share of them ("%"), seconds ("s").

    >>> parse_warm_up(1000), parse_warm_up("20%"), parse_warm_up(0.2), parse_warm_up("600s")
    ((1000.0, ''), (0.2, '%'), (0.2, '%'), (600.0, 's'))
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*)(\.[0-9]+)?\s*(%|s?)\s*", str(wanted))
    if match is None or isinstance(wanted, bool):
        raise HierarchyError(
            f"{wanted!r} is no warm-up; write accesses (1000), a share of them (20%) or seconds (600s)"
        )
    number, unit = float((match[1] + (match[2] or "")).replace("_", "")), match[3]
    share = number / 100 if unit == "%" else number
    unit = "%" if match[2] and not unit else unit
    if unit == "%" and share >= 1:
        raise HierarchyError(f"the warm-up {wanted} is the whole trace or more; give a share below 100%")
    return (share, unit) if unit == "%" else (number, unit)
