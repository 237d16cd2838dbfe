"""Ranking deciders: an order of `kv_cache_rl.policies` says which entries, one ladder says how.

    evict what no later turn reads
    for each entry in the order, while memory is short of the reserve of its rung:
        compress it to 8 bits
        compress it to 4 bits, unless it reasons
        swap it, if it is idle and the CPU has room
        evict it, if it is idle

The ladder is the same for every rank, and its reserves are tuned for their mean: so ranks differ by the
entries that they choose, and by nothing else. System prompts are left alone, and running requests stay on
the GPU."""

import numpy as np

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.core.precision import WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.policies.rank import RANK_IDS, rank
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import BITS, Status
from kv_cache_rl.sim.eviction.returns import never_read
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, PAGE_TOKENS
from kv_cache_rl.sim.eviction.weighing import shortage, size_of

RESERVES = np.array([800, 160, 210, -80], np.int64)
"""Thousandths of the budget to keep free beyond what the queue needs, by compressing to 8 bits, to 4
bits, by swapping and by evicting."""
_EIGHT, _FOUR, _SWAP, _EVICT = range(4)
_GONE = -1
_REASONING = WORK_CLASSES.index("reasoning")


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


@uncounted
def _step_down(row, level, rung, cpu_free, link):
    """The verb by which `rung` frees memory of an entry at `level`, or KEEP where it may not."""
    size = row.pages * (UNITS_PER_PAGE >> level)
    if rung <= _FOUR:
        spared = rung == _FOUR and row.work_class == _REASONING
        return Verb.COMPRESS if level == rung and not spared else Verb.KEEP
    if row.status != Status.IDLE:
        return Verb.KEEP
    if rung == _SWAP:
        return Verb.SWAP if size <= cpu_free and link > 0 else Verb.KEEP
    return Verb.EVICT


@njit
def free_in_order(policy, rows, head, reserves, out):
    """Calls that free memory in the order of a rank, down a ladder with reserves like `RESERVES`."""
    n, cpu_free, link = head.rows, head.cpu - head.cpu_used, head.link_units
    c, keys, level = np.empty(CANDIDATE_COLS), np.full(n, np.inf), np.empty(n, np.int64)
    freed, m = 0, 0
    for k in range(n):
        row = rows[k]
        level[k] = row.level
        if row.place != Place.GPU or row.kind == Kind.SYSTEM or row.pages == 0:
            continue
        if never_read(row):
            if m < MAX_CALLS_PER_STEP:
                out[m].verb, out[m].entry = Verb.EVICT, k
                freed += size_of(row)
                m += 1
        else:
            _write_candidate(row, k, c)
            keys[k] = rank(policy, c)
    order = np.argsort(keys, kind="mergesort")
    for rung in range(len(reserves)):
        short = shortage(head, reserves[rung])
        for k in order:
            if freed >= short or m >= MAX_CALLS_PER_STEP or keys[k] == np.inf:
                break
            if level[k] == _GONE:
                continue
            verb = _step_down(rows[k], level[k], rung, cpu_free, link)
            if verb == Verb.KEEP:
                continue
            size = rows[k].pages * (UNITS_PER_PAGE >> level[k])
            out[m].verb, out[m].entry = verb, k
            m += 1
            if verb == Verb.COMPRESS:
                level[k] += 1
                freed += size // 2
                continue
            level[k] = _GONE
            freed += size
            if verb == Verb.SWAP:
                cpu_free -= size
                link -= size
    return m


def ranked(name):
    """The decider that frees memory in the order of the rank `name`."""
    policy = RANK_IDS[name]

    @njit(cache=False)
    def calls(rows, head, out):
        return free_in_order(policy, rows, head, RESERVES, out)

    return calls
