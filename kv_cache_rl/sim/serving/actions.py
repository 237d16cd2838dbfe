"""The eighteen actions: which row each one is about, and what it does."""

from typing import Any

from kv_cache_rl.core.numbers import numbered
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.serving.admission import admit, fits
from kv_cache_rl.sim.serving.columns import (
    CPU_POOL,
    FREE,
    GPU,
    GPU_POOL,
    LEAVING,
    NOWHERE,
    OUT,
    QUEUED,
    REJECTED,
)
from kv_cache_rl.sim.serving.idle import largest_idle, take_away
from kv_cache_rl.sim.serving.link import send
from kv_cache_rl.sim.serving.lists import push_front, remove
from kv_cache_rl.sim.serving.spec import ServingError

ACTIONS = (
    "evict_largest_free",
    "evict_largest_vip",
    "evict_oldest_free",
    "evict_oldest_vip",
    "swap_largest_free",
    "swap_largest_vip",
    "swap_oldest_free",
    "swap_oldest_vip",
    "admit_free",
    "admit_vip",
    "reject_free",
    "reject_vip",
    "preempt_shred_free",
    "preempt_shred_vip",
    "preempt_swap_free",
    "preempt_swap_vip",
    "collect_garbage",
    "do_nothing",
)
EVICT_LARGEST, EVICT_OLDEST, SWAP_LARGEST, SWAP_OLDEST, ADMIT, REJECT, PREEMPT, PREEMPT_SWAP = range(0, 16, 2)
"""Actions on Free users; the next number is the same on VIPs."""
COLLECT, NOTHING = 16, 17
GARBAGE_TICKS = 200
"""Nominal ticks after which a Free cache on the CPU counts as garbage."""


_COUNT = len(ACTIONS)


def checked(action: Any) -> int:
    """The action as Python's own integer (`core.numbers.numbered`).

    Raises:
        ServingError: it is none of the 18.
    """
    number = numbered(action)
    if not 0 <= number < _COUNT:
        raise ServingError(f"action is {action!r}; give a whole number from 0 to {len(ACTIONS) - 1}")
    return number


@uncounted
def largest_active(c, vip):
    """The active request of a class on the GPU that holds most (the newest of equals); -1 without one."""
    largest = c.book.largest[vip]
    if largest.active_unknown:
        best = -1
        for i in range(c.book.serving):
            row = c.running[i]
            r = c.rows[row]
            if (
                r.where == GPU
                and c.requests[row].vip == vip
                and (best < 0 or r.blocks >= c.rows[best].blocks)
            ):
                best = row
        largest.active, largest.active_unknown = best, 0
    return largest.active


@uncounted
def is_garbage(c, row):
    """Whether a cache on the CPU has been idle for too long."""
    return c.book.clock_us - c.rows[row].since > GARBAGE_TICKS * c.settings.tick_us


@uncounted
def to_swap(c, row):
    """The row, or -1 where the CPU has no room for its blocks."""
    return row if row >= 0 and c.rows[row].blocks <= free(c.book.pools, CPU_POOL) else -1


@uncounted
def to_admit(c, row):
    """The row, or -1 where it does not fit."""
    return row if row >= 0 and fits(c, row) else -1


@uncounted
def to_reject(c, row):
    """The row, or -1 where its blocks are on their way to the CPU."""
    return row if row >= 0 and c.rows[row].where != LEAVING else -1


@uncounted
def to_collect(c):
    """18, or -1 where the CPU holds no garbage."""
    oldest = c.book.stored[FREE].first
    return len(ACTIONS) if oldest >= 0 and is_garbage(c, oldest) else -1


@uncounted
def target(c, action):
    """The row that an action would act on; -1 if it has none and is refused; 18 where no row is meant."""
    if action == NOTHING:
        return len(ACTIONS)
    if action == COLLECT:
        return to_collect(c)
    vip = action & 1
    kind = action - vip
    if kind == EVICT_LARGEST:
        return largest_idle(c, vip)
    if kind == EVICT_OLDEST:
        return c.book.idle[vip].first
    if kind == SWAP_LARGEST:
        return to_swap(c, largest_idle(c, vip))
    if kind == SWAP_OLDEST:
        return to_swap(c, c.book.idle[vip].first)
    if kind == ADMIT:
        return to_admit(c, c.book.queues[vip].first)
    if kind == REJECT:
        return to_reject(c, c.book.queues[vip].first)
    if kind == PREEMPT:
        return largest_active(c, vip)
    return to_swap(c, largest_active(c, vip))


@uncounted
def write_mask(c, mask):
    """Writes which actions have a `target`, int8 ``[18]``; each row is looked up once."""
    for vip in range(2):
        largest, oldest = largest_idle(c, vip), c.book.idle[vip].first
        head, active = c.book.queues[vip].first, largest_active(c, vip)
        mask[EVICT_LARGEST + vip] = mask[EVICT_OLDEST + vip] = oldest >= 0
        mask[SWAP_LARGEST + vip], mask[SWAP_OLDEST + vip] = to_swap(c, largest) >= 0, to_swap(c, oldest) >= 0
        mask[ADMIT + vip], mask[REJECT + vip] = to_admit(c, head) >= 0, to_reject(c, head) >= 0
        mask[PREEMPT + vip], mask[PREEMPT_SWAP + vip] = active >= 0, to_swap(c, active) >= 0
    mask[COLLECT], mask[NOTHING] = to_collect(c) >= 0, True


@uncounted
def perform(c, action, row):
    """Does what `action` means to its target."""
    vip = action & 1
    kind = action - vip
    if action == COLLECT:
        collect(c)
    elif kind == ADMIT:
        before = c.rows[row].cpu_blocks
        admit(c, row)
        if c.rows[row].cpu_blocks > 0:
            c.terms.swap_traffic += max(before, c.rows[row].cpu_blocks)
    elif kind == REJECT:
        c.terms.rejected += 2 if fits(c, row) else 1
        reject(c, row)
    elif kind == PREEMPT:
        leave_service(c, row)
        free_blocks(c, row)
    elif kind == PREEMPT_SWAP:
        leave_service(c, row)
        swap_out(c, row)
    else:
        take_away(c, vip, row)
        if kind == EVICT_LARGEST or kind == EVICT_OLDEST:
            free_blocks(c, row)
        else:
            swap_out(c, row)


@uncounted
def free_blocks(c, row):
    """Frees the GPU blocks of a row; what was in them is lost."""
    r = c.rows[row]
    give(c.book.pools, GPU_POOL, r.blocks)
    r.blocks, r.tokens, r.where = 0, 0, NOWHERE


@uncounted
def free_cpu_blocks(c, row):
    """Frees the CPU blocks of a row; what was in them is lost."""
    r = c.rows[row]
    give(c.book.pools, CPU_POOL, r.cpu_blocks)
    r.cpu_blocks, r.tokens, r.where = 0, 0, NOWHERE


@uncounted
def swap_out(c, row):
    """Sends the blocks of a row to the CPU; on the GPU they are free when they have crossed."""
    r = c.rows[row]
    take(c.book.pools, CPU_POOL, r.blocks)
    r.cpu_blocks = r.blocks
    c.terms.swap_traffic += r.cpu_blocks
    send(c, OUT, row)


@uncounted
def requeue(c, row):
    """Puts a preempted request before all others of its class."""
    r, q = c.rows[row], c.requests[row]
    if r.tokens == q.prompt + r.made:
        c.book.decoding -= 1
    r.status = QUEUED
    r.since = c.book.clock_us
    push_front(c, c.book.queues[q.vip], row)
    c.book.largest[q.vip].active_unknown = 1


@uncounted
def leave_service(c, row):
    """Takes a request out of service, back into its queue."""
    i, last = 0, c.book.serving - 1
    while c.running[i] != row:
        i += 1
    for k in range(i, last):
        c.running[k] = c.running[k + 1]
    c.book.serving = last
    requeue(c, row)


@uncounted
def reject(c, row):
    """Rejects a waiting request; what it had on the CPU is free."""
    remove(c, c.book.queues[c.requests[row].vip], row)
    free_cpu_blocks(c, row)
    c.rows[row].status = REJECTED


@uncounted
def collect(c):
    """Frees the garbage on the CPU: caches of Free users that have been idle for too long."""
    row = c.book.stored[FREE].first
    while row >= 0 and is_garbage(c, row):
        following = c.rows[row].after
        remove(c, c.book.stored[FREE], row)
        free_cpu_blocks(c, row)
        row = following
