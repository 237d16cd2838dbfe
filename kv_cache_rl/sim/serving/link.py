"""The link between GPU and CPU: two lanes, each first come first served, slower while both are busy."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import give
from kv_cache_rl.sim.serving.lists import file
from kv_cache_rl.sim.serving.state import (
    ACTIVE_LARGEST,
    ALIVE,
    BLOCK_BYTES,
    BLOCKS,
    BOTH_WAYS,
    CPU,
    CPU_POOL,
    ENTERING,
    FINISHED,
    GPU,
    GPU_POOL,
    LANES,
    LATENCY_BYTES,
    LEAVING,
    LEFT,
    MADE,
    NEXT,
    ONE_WAY,
    PAGES,
    PROMPT,
    SERVICE,
    STATUS,
    STORED,
    TOKENS,
    VIP,
    WHERE,
)

OUT, IN = 0, 1


@uncounted
def ship(settings, book, rows, lane, row):
    """Queues the pages of `row` on a lane."""
    rows[row, WHERE] = LEAVING if lane == OUT else ENTERING
    rows[row, NEXT] = -1
    last = book[LANES + lane, 1]
    book[LANES + lane, 1] = row
    if last >= 0:
        rows[last, NEXT] = row
        return
    book[LANES + lane, 0] = row
    book[LEFT + lane, 0] = rows[row, PAGES] * settings[BLOCK_BYTES] + settings[LATENCY_BYTES]


@uncounted
def land(traffic, settings, book, rows, lane):
    """The head of a lane has crossed: its source is free, the next one starts."""
    row = book[LANES + lane, 0]
    following = rows[row, NEXT]
    rows[row, NEXT] = -1
    book[LANES + lane, 0] = following
    book[LEFT + lane, 1] += 1
    if following < 0:
        book[LANES + lane, 1] = -1
        book[LEFT + lane, 0] = 0
    else:
        book[LEFT + lane, 0] = rows[following, PAGES] * settings[BLOCK_BYTES] + settings[LATENCY_BYTES]
    if lane == OUT:
        give(book, GPU_POOL, rows[row, BLOCKS])
        rows[row, BLOCKS] = 0
        rows[row, WHERE] = CPU
        if rows[row, STATUS] == FINISHED:
            file(book, rows, STORED + traffic[row, VIP], row)
        return
    give(book, CPU_POOL, rows[row, PAGES])
    rows[row, PAGES] = 0
    rows[row, WHERE] = GPU
    book[ACTIVE_LARGEST + traffic[row, VIP], 1] = 1
    if rows[row, TOKENS] == traffic[row, PROMPT] + rows[row, MADE]:
        book[SERVICE, 1] += 1


@uncounted
def first_landing(settings, book):
    """Microseconds until the head of the inbound lane has crossed if nothing else moves; -1 if the lane is
    empty.
    """
    if book[LANES + IN, 0] < 0:
        return -1
    rate = settings[ONE_WAY] if book[LANES + OUT, 0] < 0 else settings[BOTH_WAYS]
    return max((book[LEFT + IN, 0] + rate - 1) // rate, 1)


@uncounted
def carry(traffic, settings, book, rows, micros):
    """Lets the lanes work for so many microseconds."""
    left = micros
    while left > 0:
        outbound, inbound = book[LANES + OUT, 0] >= 0, book[LANES + IN, 0] >= 0
        if not outbound and not inbound:
            break
        rate = settings[BOTH_WAYS] if outbound and inbound else settings[ONE_WAY]
        step = left
        if outbound:
            step = min(step, (book[LEFT + OUT, 0] + rate - 1) // rate)
        if inbound:
            step = min(step, (book[LEFT + IN, 0] + rate - 1) // rate)
        left -= step
        if outbound:
            book[LEFT + OUT, 0] -= rate * step
        if inbound:
            book[LEFT + IN, 0] -= rate * step
        if outbound and book[LEFT + OUT, 0] <= 0:
            land(traffic, settings, book, rows, OUT)
        if inbound and book[LEFT + IN, 0] <= 0:
            land(traffic, settings, book, rows, IN)
    book[ALIVE, 1] = micros - left
