"""One iteration of the engine: everyone decodes a token, waiting prompts are read in chunks, some finish."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import free, prefill_microseconds, take
from kv_cache_rl.sim.serving.actions import shred, to_queue
from kv_cache_rl.sim.serving.link import first_landing
from kv_cache_rl.sim.serving.lists import push
from kv_cache_rl.sim.serving.state import (
    ACTIVE,
    ACTIVE_LARGEST,
    ALIVE,
    ARRIVED,
    BLOCK_TOKENS,
    BLOCKS,
    BUDGET,
    C1,
    C2,
    CLOCK,
    COMPLETED,
    ENDED,
    FINISHED,
    FIRST,
    FIXED,
    FORCED,
    GPU,
    GPU_POOL,
    HEADS,
    HIGH,
    IDLE,
    MADE,
    MISSED,
    NOMINAL,
    OUTPUT,
    PER_KV,
    PROMPT,
    REUSE,
    SERVED,
    SERVED_TOKENS,
    SERVICE,
    SINCE,
    SLA_FREE,
    STATUS,
    STRICT,
    TERMS,
    TOKENS,
    VIP,
    WAITED,
    WHERE,
)
from kv_cache_rl.sim.serving.state import ARRIVAL as ARRIVAL_US
from kv_cache_rl.theory.flow import complete

CRASHED = 1


@uncounted
def make_room(traffic, settings, book, rows, running, row, n):
    """Frees a block for a row that grows, at the newest's cost; false if that is the row itself, or the
    episode crashes.
    """
    newest = n - 1
    while free(book, GPU_POOL) < 1:
        if settings[STRICT]:
            book[ALIVE, 0], book[ARRIVED, 1] = 0, CRASHED
            return False
        while rows[running[0, newest], STATUS] != ACTIVE or rows[running[0, newest], WHERE] != GPU:
            newest -= 1
        victim = running[0, newest]
        to_queue(traffic, book, rows, victim)
        shred(book, rows, victim)
        book[TERMS + FORCED, 0] += 1
        if victim == row:
            return False
    return True


@uncounted
def compute(traffic, settings, book, rows, running):
    """Advances every request in service by what one iteration gives it; microseconds that takes, 0 if nothing
    was computed.
    """
    n, size = book[SERVICE, 0], settings[BLOCK_TOKENS]
    to_decode = settings[BUDGET]
    to_read = max(to_decode - book[SERVICE, 1], 0)
    micros, kv_read, busy = 0, 0, False
    for i in range(n):
        row = running[0, i]
        if rows[row, STATUS] != ACTIVE or rows[row, WHERE] != GPU:
            continue
        have, goal = rows[row, TOKENS], traffic[row, PROMPT] + rows[row, MADE]
        if have < goal:
            count = min(to_read, goal - have)
            if count > 0:
                micros += prefill_microseconds(count, have, settings[C1], settings[C2])
                to_read -= count
                rows[row, TOKENS] = have + count
                book[SERVICE, 1] += have + count == goal
                busy = True
        elif to_decode > 0:
            if have == rows[row, BLOCKS] * size:
                if not make_room(traffic, settings, book, rows, running, row, n):
                    if not book[ALIVE, 0]:
                        return 0
                    continue
                take(book, GPU_POOL, 1)
                rows[row, BLOCKS] += 1
            to_decode -= 1
            rows[row, MADE] += 1
            rows[row, TOKENS] = have + 1
            kv_read += have + 1
            busy = True
    return settings[FIXED] + micros + kv_read * settings[PER_KV] // 1_000_000 if busy else 0


@uncounted
def idle_time(settings, book):
    """Microseconds of an iteration in which nothing could be computed."""
    landing = first_landing(settings, book)
    return settings[NOMINAL] if landing < 0 else min(landing, settings[NOMINAL])


@uncounted
def settle(traffic, settings, book, rows, running, flow, micros):
    """Books what the iteration brought, and keeps in service who is not done."""
    n, kept = book[SERVICE, 0], 0
    for vip in range(2):
        book[ACTIVE_LARGEST + vip, 0], book[ACTIVE_LARGEST + vip, 1] = -1, 0
    for i in range(n):
        row = running[0, i]
        if rows[row, STATUS] != ACTIVE:
            continue
        new = rows[row, TOKENS] - rows[row, HIGH]
        if new > 0 and rows[row, WHERE] == GPU:
            rows[row, HIGH] += new
            rows[row, SERVED] += micros
            book[TERMS + SERVED_TOKENS, 0] += new
            if rows[row, MADE] > 0 and rows[row, FIRST] == 0:
                rows[row, FIRST] = book[CLOCK, 0]
            if rows[row, MADE] == traffic[row, OUTPUT]:
                finish(traffic, settings, book, rows, flow, row)
                continue
        running[0, kept] = row
        kept += 1
        if rows[row, WHERE] == GPU:
            largest = book[ACTIVE_LARGEST + traffic[row, VIP], 0]
            if largest < 0 or rows[row, BLOCKS] >= rows[largest, BLOCKS]:
                book[ACTIVE_LARGEST + traffic[row, VIP], 0] = row
    book[SERVICE, 0] = kept


@uncounted
def finish(traffic, settings, book, rows, flow, row):
    """Ends a request; its KV stays as an idle cache unless the user's next turn is past that."""
    now, vip = book[CLOCK, 0], traffic[row, VIP]
    book[SERVICE, 1] -= 1
    superseded = rows[row, ENDED] < 0
    rows[row, STATUS], rows[row, ENDED], rows[row, SINCE] = FINISHED, now, now
    within = rows[row, WAITED] <= settings[SLA_FREE + vip]
    book[TERMS + (COMPLETED if within else MISSED), 0] += 1
    in_service = now - traffic[row, ARRIVAL_US] - rows[row, WAITED]
    complete(flow, now / 1e6, in_service / 1e6, float(rows[row, BLOCKS]))
    if superseded or not settings[REUSE]:
        shred(book, rows, row)
        return
    push(book, rows, IDLE + vip, row)
    largest = book[HEADS + vip, 0]
    if largest < 0 or rows[row, BLOCKS] > rows[largest, BLOCKS]:
        book[HEADS + vip, 0] = row
