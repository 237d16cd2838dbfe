"""Admission: which cache a request finds, how many blocks it needs, and whether it fits."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import blocks_for, free, give, take
from kv_cache_rl.sim.serving.columns import (
    ACTIVE,
    CPU,
    CPU_POOL,
    FINISHED,
    GPU,
    GPU_POOL,
    IN,
    LEAVING,
    NOWHERE,
)
from kv_cache_rl.sim.serving.idle import take_away
from kv_cache_rl.sim.serving.link import send
from kv_cache_rl.sim.serving.lists import remove


@uncounted
def cache_of(c, row):
    """The finished turn whose cache a request would build on (-1: none), and the tokens it can use of it.

    A turn that was admitted took over what older turns of its user had left, so only the nearest such
    turn can hold anything.
    """
    if c.rows[row].found >= 0:
        return -1, 0
    ancestor, usable = c.requests[row].parent, c.requests[row].history
    while ancestor >= 0 and c.rows[ancestor].found < 0:
        usable = min(usable, c.requests[ancestor].history)
        ancestor = c.requests[ancestor].parent
    if ancestor < 0:
        return -1, 0
    cache = c.rows[ancestor]
    if cache.status != FINISHED or cache.where == NOWHERE:
        return -1, 0
    return ancestor, min(usable, cache.tokens, c.requests[row].prompt - 1)


@uncounted
def blocks_needed(c, row):
    """Blocks a request takes at admission: room for its next token too."""
    return blocks_for(c.requests[row].prompt + c.rows[row].made + 1, c.settings.block_tokens)


@uncounted
def fits(c, row):
    """Whether a waiting request can be admitted now."""
    need = blocks_needed(c, row)
    room = free(c.book.pools, GPU_POOL)
    if c.rows[row].where == LEAVING:
        return False
    if c.rows[row].where == NOWHERE:
        cache = cache_of(c, row)[0]
        if cache >= 0:
            if c.rows[cache].where == LEAVING:
                return False
            room += c.rows[cache].blocks
    return need <= room and (not c.settings.reserve or all_can_finish(c, row, room))


@uncounted
def all_can_finish(c, row, room):
    """Whether all requests in service, and `row` with them, can finish without a forced preemption.

    Each takes one block for every so many tokens until it is done, and then frees all of them; the use
    of memory peaks just before a request finishes. Idle caches stay where they are. Each is rounded up
    to a block, so the answer errs towards no.
    """
    n, size = c.book.serving, c.settings.block_tokens
    plan, held, tokens = c.plan, 0, 0
    for i in range(n + 1):
        k = row if i == n else c.running[i]
        held += 0 if i == n else c.rows[k].blocks
        has = c.requests[k].prompt + c.rows[k].made + size
        tokens += has
        # What is left to do and what it holds in one number, so that sorting reads nothing else; late
        # comers mostly finish late.
        key = remaining(c, k) << 32 | has
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
def remaining(c, row):
    """Iterations a request has before it, prefill at the full budget."""
    q, r = c.requests[row], c.rows[row]
    unread = q.prompt + r.made - r.tokens
    return q.output - r.made + blocks_for(unread, c.settings.token_budget)


@uncounted
def admit(c, row):
    """Brings a waiting request that fits into service."""
    r, vip = c.rows[row], c.requests[row].vip
    remove(c, c.book.queues[vip], row)
    r.waited += c.book.clock_us - r.since
    r.since = c.book.clock_us
    r.status = ACTIVE
    c.running[c.book.serving] = row
    c.book.serving += 1
    need = blocks_needed(c, row)
    if r.where == CPU:
        take(c.book.pools, GPU_POOL, need)
        r.blocks = need
        send(c, IN, row)
        return
    cache, usable = cache_of(c, row)
    supersede(c, row)
    if cache >= 0:
        inherit(c, cache, row, usable)
    take(c.book.pools, GPU_POOL, need - r.blocks)
    r.blocks = need
    if r.found < 0:
        r.found = usable
    if r.cpu_blocks > 0:
        send(c, IN, row)
        return
    r.where = GPU
    largest = c.book.largest[vip].active
    if largest < 0 or need >= c.rows[largest].blocks:
        c.book.largest[vip].active = row


@uncounted
def inherit(c, cache, row, usable):
    """Hands the usable part of a finished turn's cache to the next turn; the rest is free."""
    r, old, vip = c.rows[row], c.rows[cache], c.requests[cache].vip
    keep = blocks_for(usable, c.settings.block_tokens)
    if old.where == GPU:
        take_away(c, vip, cache)
        keep = min(keep, old.blocks)
        give(c.book.pools, GPU_POOL, old.blocks - keep)
        r.blocks = keep
    else:
        remove(c, c.book.stored[vip], cache)
        keep = min(keep, old.cpu_blocks)
        give(c.book.pools, CPU_POOL, old.cpu_blocks - keep)
        r.cpu_blocks = keep
    old.blocks, old.cpu_blocks, old.tokens, old.where = 0, 0, 0, NOWHERE
    r.tokens = usable


@uncounted
def supersede(c, row):
    """Marks the user's earlier turns that are not finished yet: no later turn will use their caches."""
    ancestor = c.requests[row].parent
    while ancestor >= 0:
        a = c.rows[ancestor]
        if a.status != FINISHED:
            a.ended = -1
        if a.found >= 0:
            break
        ancestor = c.requests[ancestor].parent
