"""Who may come in: which cache a request finds, how many blocks it needs, and whether it fits."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import blocks_for, free, give, take
from kv_cache_rl.sim.serving.link import IN, ship
from kv_cache_rl.sim.serving.lists import remove
from kv_cache_rl.sim.serving.state import (
    ACTIVE,
    ACTIVE_LARGEST,
    BLOCK_TOKENS,
    BLOCKS,
    BUDGET,
    CLOCK,
    CPU,
    CPU_POOL,
    ENDED,
    FINISHED,
    FOUND,
    GPU,
    GPU_POOL,
    HEADS,
    HISTORY,
    IDLE,
    LEAVING,
    MADE,
    NOWHERE,
    OUTPUT,
    PAGES,
    PARENT,
    PROMPT,
    QUEUES,
    RESERVE,
    SERVICE,
    SINCE,
    STATUS,
    STORED,
    TOKENS,
    VIP,
    WAITED,
    WHERE,
)


@uncounted
def cache_of(traffic, rows, row):
    """The finished turn whose cache a request would build on (-1: none), and how many of its tokens it can
    use.

    Whoever was admitted took over what older turns of his had left, so only the nearest such turn can hold
    anything."""
    if rows[row, FOUND] >= 0:
        return -1, 0
    ancestor, usable = traffic[row, PARENT], traffic[row, HISTORY]
    while ancestor >= 0 and rows[ancestor, FOUND] < 0:
        usable = min(usable, traffic[ancestor, HISTORY])
        ancestor = traffic[ancestor, PARENT]
    if ancestor < 0 or rows[ancestor, STATUS] != FINISHED or rows[ancestor, WHERE] == NOWHERE:
        return -1, 0
    return ancestor, min(usable, rows[ancestor, TOKENS], traffic[row, PROMPT] - 1)


@uncounted
def fits(traffic, settings, book, rows, running, row):
    """Whether a waiting request can be admitted now."""
    need = blocks_for(traffic[row, PROMPT] + rows[row, MADE] + 1, settings[BLOCK_TOKENS])
    room = free(book, GPU_POOL)
    if rows[row, WHERE] == LEAVING:
        return False
    if rows[row, WHERE] == NOWHERE:
        cache = cache_of(traffic, rows, row)[0]
        if cache >= 0:
            if rows[cache, WHERE] == LEAVING:
                return False
            room += rows[cache, BLOCKS]
    return need <= room and (
        not settings[RESERVE] or finishes(traffic, settings, book, rows, running, row, room)
    )


@uncounted
def finishes(traffic, settings, book, rows, running, row, room):
    """Whether everybody, and `row` with them, can finish without a forced preemption.

    Everyone in service takes one block for every so many tokens until done, and then gives all of them back;
    the use of memory peaks when somebody is about to finish. Idle caches stay where they are. Each is rounded
    up to a block, so the answer errs towards no."""
    n, size = book[SERVICE, 0], settings[BLOCK_TOKENS]
    plan, held, tokens = running[1], 0, 0
    for i in range(n + 1):
        r = row if i == n else running[0, i]
        held += 0 if i == n else rows[r, BLOCKS]
        has = traffic[r, PROMPT] + rows[r, MADE] + size
        tokens += has
        # What is left to do and what it holds in one number, so that the sort looks nothing up; late comers
        # mostly finish late.
        key = remaining(traffic, settings, rows, r) << 32 | has
        k = i
        while k > 0 and plan[k - 1] > key:
            plan[k] = plan[k - 1]
            k -= 1
        plan[k] = key
    limit = (held + room) * size
    for k in range(n + 1):
        if tokens + (n + 1 - k) * (plan[k] >> 32) > limit:
            return False
        tokens -= plan[k] & 0xFFFFFFFF
    return True


@uncounted
def remaining(traffic, settings, rows, row):
    """Iterations a request has before it, prefill at the full budget."""
    unread = traffic[row, PROMPT] + rows[row, MADE] - rows[row, TOKENS]
    return traffic[row, OUTPUT] - rows[row, MADE] + blocks_for(unread, settings[BUDGET])


@uncounted
def admit(traffic, settings, book, rows, running, row):
    """Brings a waiting request that fits into service."""
    vip = traffic[row, VIP]
    remove(book, rows, QUEUES + vip, row)
    rows[row, WAITED] += book[CLOCK, 0] - rows[row, SINCE]
    rows[row, SINCE] = book[CLOCK, 0]
    rows[row, STATUS] = ACTIVE
    running[0, book[SERVICE, 0]] = row
    book[SERVICE, 0] += 1
    need = blocks_for(traffic[row, PROMPT] + rows[row, MADE] + 1, settings[BLOCK_TOKENS])
    if rows[row, WHERE] == CPU:
        take(book, GPU_POOL, need)
        rows[row, BLOCKS] = need
        ship(settings, book, rows, IN, row)
        return
    cache, usable = cache_of(traffic, rows, row)
    supersede(traffic, rows, row)
    if cache >= 0:
        inherit(traffic, settings, book, rows, cache, row, usable)
    take(book, GPU_POOL, need - rows[row, BLOCKS])
    rows[row, BLOCKS] = need
    if rows[row, FOUND] < 0:
        rows[row, FOUND] = usable
    if rows[row, PAGES] > 0:
        ship(settings, book, rows, IN, row)
        return
    rows[row, WHERE] = GPU
    largest = book[ACTIVE_LARGEST + vip, 0]
    if largest < 0 or need >= rows[largest, BLOCKS]:
        book[ACTIVE_LARGEST + vip, 0] = row


@uncounted
def inherit(traffic, settings, book, rows, cache, row, usable):
    """Hands the usable part of a finished turn's cache to the next turn; the rest is free."""
    keep = blocks_for(usable, settings[BLOCK_TOKENS])
    if rows[cache, WHERE] == GPU:
        remove(book, rows, IDLE + traffic[cache, VIP], cache)
        book[HEADS + traffic[cache, VIP], 1] = 1
        keep = min(keep, rows[cache, BLOCKS])
        give(book, GPU_POOL, rows[cache, BLOCKS] - keep)
        rows[row, BLOCKS] = keep
    else:
        remove(book, rows, STORED + traffic[cache, VIP], cache)
        keep = min(keep, rows[cache, PAGES])
        give(book, CPU_POOL, rows[cache, PAGES] - keep)
        rows[row, PAGES] = keep
    rows[cache, BLOCKS], rows[cache, PAGES], rows[cache, TOKENS], rows[cache, WHERE] = 0, 0, 0, NOWHERE
    rows[row, TOKENS] = usable


@uncounted
def supersede(traffic, rows, row):
    """Marks the user's turns that are not finished yet: nobody will build on their caches any more."""
    ancestor = traffic[row, PARENT]
    while ancestor >= 0:
        if rows[ancestor, STATUS] != FINISHED:
            rows[ancestor, ENDED] = -1
        if rows[ancestor, FOUND] >= 0:
            break
        ancestor = traffic[ancestor, PARENT]
