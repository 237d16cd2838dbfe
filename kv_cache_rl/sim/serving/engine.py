"""One iteration of the engine: running requests decode a token, prompts are read in chunks, some finish."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, prefill_microseconds, take
from kv_cache_rl.sim.serving.actions import free_blocks, requeue
from kv_cache_rl.sim.serving.columns import ACTIVE, FINISHED, GPU, GPU_POOL, Crash
from kv_cache_rl.sim.serving.idle import keep
from kv_cache_rl.sim.serving.link import first_landing
from kv_cache_rl.theory.flow import complete

"""Of `columns.CRASHES`."""


@uncounted
def make_room(c, row, n):
    """Frees a block for a row that grows, at the newest row's cost; false if that is the row itself, or the
    episode crashes.
    """
    newest = n - 1
    while free(c.book.pools, GPU_POOL) < 1:
        if c.settings.strict:
            c.book.alive, c.book.crash = 0, Crash.NO_BLOCK
            return False
        while c.rows[c.running[newest]].status != ACTIVE or c.rows[c.running[newest]].where != GPU:
            newest -= 1
        victim = c.running[newest]
        requeue(c, victim)
        c.book.tokens_preempted += c.rows[victim].tokens
        free_blocks(c, victim)
        c.terms.forced_preemption += 1
        if victim == row:
            return False
    return True


@uncounted
def compute(c):
    """Advances every request in service by one iteration; its microseconds, 0 if nothing was computed."""
    n, size = c.book.serving, c.settings.block_tokens
    to_decode = c.settings.token_budget
    to_read = max(to_decode - c.book.decoding, 0)
    micros, kv_read, busy = 0, 0, False
    for i in range(n):
        row = c.running[i]
        r = c.rows[row]
        if r.status != ACTIVE or r.where != GPU:
            continue
        have, goal = r.tokens, c.requests[row].prompt + r.made
        if have < goal:
            count = min(to_read, goal - have)
            if count > 0:
                micros += prefill_microseconds(count, have, c.settings.prefill_ns, c.settings.prefill_pair_ps)
                to_read -= count
                r.tokens = have + count
                c.book.decoding += have + count == goal
                busy = True
        elif to_decode > 0:
            if have == r.blocks * size:
                if not make_room(c, row, n):
                    if not c.book.alive:
                        return 0
                    continue
                take(c.book.pools, GPU_POOL, 1)
                r.blocks += 1
            to_decode -= 1
            r.made += 1
            r.tokens = have + 1
            kv_read += have + 1
            busy = True
    return c.settings.fixed_us + micros + kv_read * c.settings.kv_read_ps // 1_000_000 if busy else 0


@uncounted
def idle_time(c):
    """Microseconds of an iteration in which nothing could be computed."""
    landing = first_landing(c)
    return c.settings.tick_us if landing < 0 else min(landing, c.settings.tick_us)


@uncounted
def settle(c, micros):
    """Records what the iteration brought, and keeps in service what is not done."""
    n, kept = c.book.serving, 0
    for vip in range(2):
        c.book.largest[vip].active, c.book.largest[vip].active_unknown = -1, 0
    for i in range(n):
        row = c.running[i]
        r, q = c.rows[row], c.requests[row]
        if r.status != ACTIVE:
            continue
        new = r.tokens - r.high
        if new > 0 and r.where == GPU:
            r.high += new
            r.served += micros
            c.terms.tokens_served += new
            if r.made > 0 and r.first == 0:
                r.first = c.book.clock_us
            if r.made == q.output:
                finish(c, row)
                continue
        c.running[kept] = row
        kept += 1
        if r.where == GPU:
            largest = c.book.largest[q.vip].active
            if largest < 0 or r.blocks >= c.rows[largest].blocks:
                c.book.largest[q.vip].active = row
    c.book.serving = kept


@uncounted
def finish(c, row):
    """Ends a request; its KV stays as an idle cache unless a later turn of the user was admitted before."""
    r, q, now = c.rows[row], c.requests[row], c.book.clock_us
    c.book.decoding -= 1
    superseded = r.ended < 0
    r.status, r.ended, r.since = FINISHED, now, now
    if r.waited <= c.settings.classes[q.vip].sla_us:
        c.terms.completed_in_sla += 1
    else:
        c.terms.sla_missed += 1
    in_service = now - q.arrival - r.waited
    complete(c.book.flow, now / 1e6, in_service / 1e6, float(r.blocks))
    if superseded or not c.settings.reuse:
        free_blocks(c, row)
        return
    keep(c, q.vip, row)
