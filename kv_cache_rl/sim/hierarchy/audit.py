"""The books of a replay compared with its pages."""

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.sim.hierarchy.sizes import kept_bytes
from kv_cache_rl.sim.hierarchy.state import A, C, Order, State


def check(state: State) -> None:
    """Compares bytes per tier, places in the order and resident children with what the pages say.

    Raises:
        LedgerError: they differ: a bug in the engine, never the user's doing.
    """
    page, tiers = state.page, state.tiers
    tier = page["tier"]
    bytes_now = kept_bytes(page["full_bytes"], state.rungs["kept"][page["level"]])
    pool.check(state.ledger, np.array([bytes_now[tier == t].sum() for t in range(len(tiers))]))
    if (tiers["used"] > tiers["capacity"]).any():
        books = state.ledger[:, :2].tolist()
        raise LedgerError(f"a tier holds more than its capacity: {books}")
    if state.settings.closed:
        _check_tree(state, tier)
    if state.settings.order != Order.UNKEPT:
        for t in range(len(tiers)):
            _check_order(state, t, tier == t)


def _check_order(state: State, t: int, here: np.ndarray) -> None:
    if state.settings.order == Order.LISTED:
        base = t * int(state.settings.stride)
        lists = state.node["list"][base : base + len(state.page)]
        kept = np.flatnonzero((lists >= A) & (lists <= C) & (here | (base > 0)))
    else:
        kept = np.sort(state.heap["page"][t, : state.tiers[t].heaped])
        here = here & (state.kids[:, t] == 0) if state.settings.chained else here
    if kept.tolist() != np.flatnonzero(here).tolist():
        raise LedgerError(f"tier {t}: {len(kept)} pages in its order, {here.sum()} pages that could leave it")


def _check_tree(state: State, tier: np.ndarray) -> None:
    parent = state.page["parent"]
    below = np.flatnonzero((parent >= 0) & (tier >= 0))
    kids = np.zeros_like(state.kids)
    np.add.at(kids, (parent[below], tier[below]), 1)
    above = tier[parent[below]]
    for block in below[(above < 0) | (above > tier[below])]:
        raise LedgerError(
            f"block {block} lies in tier {tier[block]}, its parent in {tier[parent[block]]}: "
            "children leave first"
        )
    if (kids != state.kids).any():
        raise LedgerError("the counts of resident children differ from the children that are resident")
