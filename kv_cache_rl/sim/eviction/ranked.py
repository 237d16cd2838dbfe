"""Ranking deciders: an order of `kv_cache_rl.policies` says which entries, one ladder says how.

    need = what the queue needs and a reserve of 5 %
    for each entry in the order, while memory is needed:       compress it to 8 bits
    for each idle entry in the order, while memory is needed:  swap it, or evict it if the CPU is full

System prompts and running requests are left alone."""

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.policies.rank import RANK_IDS, rank
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import BITS, Status
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, PAGE_TOKENS
from kv_cache_rl.sim.eviction.weighing import shortage, size_of

RESERVE = 50
"""Thousandths of the budget to keep free."""


@uncounted
def _write_candidate(row, k, c):
    """The row as the candidate that a rank reads."""
    c[Column.SIZE] = size_of(row)
    c[Column.TOKENS] = row.pages * PAGE_TOKENS
    c[Column.IDLE], c[Column.AGE], c[Column.USES] = row.idle, row.age, row.uses
    c[Column.KIND], c[Column.BITS] = row.kind, BITS[row.level]
    c[Column.PRIORITY], c[Column.PROGRESS] = row.priority / 100.0, row.progress / 100.0
    c[Column.RELOAD_S], c[Column.VALUE] = row.reload / 10.0, row.value / 100.0
    c[Column.SHARERS], c[Column.INSERTED] = row.sharers, k


@njit
def _free_in_order(policy, rows, head, out):
    """Calls that free memory in the order of a rank."""
    n, need, cpu_free = head.rows, shortage(head, RESERVE), head.cpu - head.cpu_used
    c, keys, level = np.empty(CANDIDATE_COLS), np.full(n, np.inf), np.empty(n, np.int64)
    for k in range(n):
        row = rows[k]
        level[k] = row.level
        movable = row.place == Place.GPU and row.kind != Kind.SYSTEM and row.pages > 0
        if movable and row.status <= Status.WAIT:
            _write_candidate(row, k, c)
            keys[k] = rank(policy, c)
    order = np.argsort(keys, kind="mergesort")
    m = 0
    for rung in range(2):
        for k in order:
            if need <= 0 or m >= MAX_CALLS_PER_STEP or keys[k] == np.inf:
                break
            size = rows[k].pages * (UNITS_PER_PAGE >> level[k])
            if rung == 0 and level[k] == 0:
                out[m].verb, out[m].entry = Verb.COMPRESS, k
                level[k] = 1
                need -= size // 2
                m += 1
            elif rung == 1 and rows[k].status == Status.IDLE:
                out[m].verb, out[m].entry = Verb.EVICT, k
                if size <= cpu_free:
                    out[m].verb = Verb.SWAP
                    cpu_free -= size
                need -= size
                m += 1
    return m


def ranked(name):
    """The decider that frees memory in the order of the rank `name`."""
    policy = RANK_IDS[name]

    @njit(cache=False)
    def calls(rows, head, out):
        return _free_in_order(policy, rows, head, out)

    return calls
