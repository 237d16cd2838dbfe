"""The link between GPU and CPU: two lanes, each first come first served, slower while both are busy."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import give
from kv_cache_rl.sim.serving.columns import CPU, CPU_POOL, ENTERING, FINISHED, GPU, GPU_POOL, IN, LEAVING, OUT
from kv_cache_rl.sim.serving.lists import insert_by_age


@uncounted
def send(c, way, row):
    """Puts the blocks of `row` at the end of a lane."""
    r, lane = c.rows[row], c.book.lanes[way]
    r.where = LEAVING if way == OUT else ENTERING
    r.next = -1
    lane.blocks += r.blocks
    last = lane.last
    lane.last = row
    if last >= 0:
        c.rows[last].next = row
        return
    lane.first = row
    lane.left_bytes = transfer_bytes(c, row)


@uncounted
def transfer_bytes(c, row):
    """What a row has to send, latency included."""
    return c.rows[row].cpu_blocks * c.settings.block_bytes + c.settings.latency_bytes


@uncounted
def land(c, way):
    """Ends the transfer at the head of a lane: its source is free, the next one starts."""
    lane = c.book.lanes[way]
    row = lane.first
    r, following = c.rows[row], c.rows[row].next
    r.next = -1
    lane.blocks -= r.blocks
    lane.first = following
    if following < 0:
        lane.last = -1
        lane.left_bytes = 0
    else:
        lane.left_bytes = transfer_bytes(c, following)
    vip = c.requests[row].vip
    if way == OUT:
        give(c.book.pools, GPU_POOL, r.blocks)
        r.blocks = 0
        r.where = CPU
        if r.status == FINISHED:
            insert_by_age(c, c.book.stored[vip], row)
        return
    give(c.book.pools, CPU_POOL, r.cpu_blocks)
    r.cpu_blocks = 0
    r.where = GPU
    c.book.largest[vip].active_unknown = 1
    if r.tokens == c.requests[row].prompt + r.made:
        c.book.decoding += 1


@uncounted
def first_landing(c):
    """Microseconds until the inbound head lands if nothing else moves; -1 if the lane is empty."""
    if c.book.lanes[IN].first < 0:
        return -1
    rate = c.settings.one_way if c.book.lanes[OUT].first < 0 else c.settings.both_ways
    return max((c.book.lanes[IN].left_bytes + rate - 1) // rate, 1)


@uncounted
def transfer(c, micros):
    """Lets the lanes work for so many microseconds."""
    out, into, left = c.book.lanes[OUT], c.book.lanes[IN], micros
    while left > 0:
        outbound, inbound = out.first >= 0, into.first >= 0
        if not outbound and not inbound:
            break
        rate = c.settings.both_ways if outbound and inbound else c.settings.one_way
        step = left
        if outbound:
            step = min(step, (out.left_bytes + rate - 1) // rate)
        if inbound:
            step = min(step, (into.left_bytes + rate - 1) // rate)
        left -= step
        if outbound:
            out.left_bytes -= rate * step
        if inbound:
            into.left_bytes -= rate * step
        if outbound and out.left_bytes <= 0:
            land(c, OUT)
        if inbound and into.left_bytes <= 0:
            land(c, IN)
    c.book.lane_busy_us = micros - left
