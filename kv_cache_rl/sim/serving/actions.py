"""The eighteen actions: whom each one means, and what it does."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, give, take
from kv_cache_rl.sim.serving.admission import admit, fits
from kv_cache_rl.sim.serving.link import OUT, ship
from kv_cache_rl.sim.serving.lists import push_front, remove
from kv_cache_rl.sim.serving.state import (
    ACTIVE_LARGEST,
    AFTER,
    BLOCKS,
    CLOCK,
    CPU_POOL,
    GPU,
    GPU_POOL,
    HEADS,
    IDLE,
    LEAVING,
    MADE,
    NOMINAL,
    NOWHERE,
    PAGES,
    PROMPT,
    QUEUED,
    QUEUES,
    REFUSED,
    REJECTED,
    SERVICE,
    SINCE,
    STATUS,
    STORED,
    SWAPPED,
    TERMS,
    TOKENS,
    VIP,
    WHERE,
)

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
(EVICT_LARGEST, EVICT_OLDEST, SWAP_LARGEST, SWAP_OLDEST, ADMIT, REJECT, SHRED, PREEMPT_SWAP, REST) = range(9)
"""What an action does, whichever class it means: its number halved."""
COLLECT, NOTHING = 16, 17
GARBAGE_TICKS = 200
"""Nominal ticks after which a Free cache on the CPU counts as garbage."""


@uncounted
def largest_idle(book, rows, vip):
    """The idle cache of a class that would free most (the longest idle of equals); -1 if there is none."""
    if book[HEADS + vip, 1]:
        best, row = -1, book[IDLE + vip, 0]
        while row >= 0:
            if best < 0 or rows[row, BLOCKS] > rows[best, BLOCKS]:
                best = row
            row = rows[row, AFTER]
        book[HEADS + vip, 0], book[HEADS + vip, 1] = best, 0
    return book[HEADS + vip, 0]


@uncounted
def largest_active(traffic, book, rows, running, vip):
    """The active request of a class, on the GPU, that holds most (the newest of equals); -1 if there is none."""
    if book[ACTIVE_LARGEST + vip, 1]:
        best = -1
        for i in range(book[SERVICE, 0]):
            row = running[0, i]
            if (
                rows[row, WHERE] == GPU
                and traffic[row, VIP] == vip
                and (best < 0 or rows[row, BLOCKS] >= rows[best, BLOCKS])
            ):
                best = row
        book[ACTIVE_LARGEST + vip, 0], book[ACTIVE_LARGEST + vip, 1] = best, 0
    return book[ACTIVE_LARGEST + vip, 0]


@uncounted
def target(traffic, settings, book, rows, running, action):
    """The row that an action would act on; -1 if it has none and is refused (18 stands in where no row is
    meant).
    """
    if action == NOTHING:
        return len(ACTIONS)
    if action == COLLECT:
        oldest = book[STORED, 0]
        garbage = oldest >= 0 and book[CLOCK, 0] - rows[oldest, SINCE] > GARBAGE_TICKS * settings[NOMINAL]
        return len(ACTIONS) if garbage else -1
    deed, vip = action >> 1, action & 1
    if deed == EVICT_LARGEST or deed == SWAP_LARGEST:
        row = largest_idle(book, rows, vip)
    elif deed == EVICT_OLDEST or deed == SWAP_OLDEST:
        row = book[IDLE + vip, 0]
    elif deed == ADMIT or deed == REJECT:
        row = book[QUEUES + vip, 0]
    else:
        row = largest_active(traffic, book, rows, running, vip)
    if row < 0:
        return -1
    if deed == SWAP_LARGEST or deed == SWAP_OLDEST or deed == PREEMPT_SWAP:
        return row if rows[row, BLOCKS] <= free(book, CPU_POOL) else -1
    if deed == ADMIT:
        return row if fits(traffic, settings, book, rows, running, row) else -1
    if deed == REJECT:
        return row if rows[row, WHERE] != LEAVING else -1
    return row


@uncounted
def perform(traffic, settings, book, rows, running, action, row):
    """Does what `action` means to the target it was found."""
    deed, vip = action >> 1, action & 1
    if action == COLLECT:
        collect(settings, book, rows)
    elif deed == ADMIT:
        before = rows[row, PAGES]
        admit(traffic, settings, book, rows, running, row)
        if rows[row, PAGES] > 0:
            book[TERMS + SWAPPED, 0] += max(before, rows[row, PAGES])
    elif deed == REJECT:
        book[TERMS + REFUSED, 0] += 2 if fits(traffic, settings, book, rows, running, row) else 1
        reject(traffic, book, rows, row)
    elif deed == SHRED:
        leave_service(traffic, book, rows, running, row)
        shred(book, rows, row)
    elif deed == PREEMPT_SWAP:
        leave_service(traffic, book, rows, running, row)
        swap_out(settings, book, rows, row)
    else:
        remove(book, rows, IDLE + vip, row)
        book[HEADS + vip, 1] = 1
        if deed == EVICT_LARGEST or deed == EVICT_OLDEST:
            shred(book, rows, row)
        else:
            swap_out(settings, book, rows, row)


@uncounted
def shred(book, rows, row):
    """Frees the GPU blocks of a row; what was in them is lost."""
    give(book, GPU_POOL, rows[row, BLOCKS])
    rows[row, BLOCKS], rows[row, TOKENS], rows[row, WHERE] = 0, 0, NOWHERE


@uncounted
def swap_out(settings, book, rows, row):
    """Sends the blocks of a row to the CPU; on the GPU they are free when they have crossed."""
    take(book, CPU_POOL, rows[row, BLOCKS])
    rows[row, PAGES] = rows[row, BLOCKS]
    book[TERMS + SWAPPED, 0] += rows[row, PAGES]
    ship(settings, book, rows, OUT, row)


@uncounted
def to_queue(traffic, book, rows, row):
    """Puts a preempted request before all others of its class."""
    if rows[row, TOKENS] == traffic[row, PROMPT] + rows[row, MADE]:
        book[SERVICE, 1] -= 1
    rows[row, STATUS] = QUEUED
    rows[row, SINCE] = book[CLOCK, 0]
    push_front(book, rows, QUEUES + traffic[row, VIP], row)
    book[ACTIVE_LARGEST + traffic[row, VIP], 1] = 1


@uncounted
def leave_service(traffic, book, rows, running, row):
    """Takes a request out of service, back into its queue."""
    i, last = 0, book[SERVICE, 0] - 1
    while running[0, i] != row:
        i += 1
    for k in range(i, last):
        running[0, k] = running[0, k + 1]
    book[SERVICE, 0] = last
    to_queue(traffic, book, rows, row)


@uncounted
def reject(traffic, book, rows, row):
    """Sends a waiting request away; what it had on the CPU is free."""
    remove(book, rows, QUEUES + traffic[row, VIP], row)
    give(book, CPU_POOL, rows[row, PAGES])
    rows[row, PAGES], rows[row, TOKENS], rows[row, WHERE] = 0, 0, NOWHERE
    rows[row, STATUS] = REJECTED


@uncounted
def collect(settings, book, rows):
    """Frees the caches of Free users on the CPU that have been idle for too long."""
    row = book[STORED, 0]
    while row >= 0 and book[CLOCK, 0] - rows[row, SINCE] > GARBAGE_TICKS * settings[NOMINAL]:
        following = rows[row, AFTER]
        remove(book, rows, STORED, row)
        give(book, CPU_POOL, rows[row, PAGES])
        rows[row, PAGES], rows[row, TOKENS], rows[row, WHERE] = 0, 0, NOWHERE
        row = following
