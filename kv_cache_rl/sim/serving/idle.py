"""Idle caches on the GPU, by class: their order of age, the largest, and running sums of sizes and ages."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.lists import push, remove


@uncounted
def keep(c, vip, row):
    """Makes a finished row the newest idle cache of its class."""
    push(c, c.book.idle[vip], row)
    count(c, vip, row, 1)
    largest = c.book.largest[vip]
    if largest.idle < 0 or c.rows[row].blocks > c.rows[largest.idle].blocks:
        largest.idle = row


@uncounted
def take_away(c, vip, row):
    """Takes an idle cache out; call it while the row still holds its blocks."""
    remove(c, c.book.idle[vip], row)
    count(c, vip, row, -1)
    largest = c.book.largest[vip]
    if largest.idle == row:
        largest.idle_unknown = 1


@uncounted
def count(c, vip, row, sign):
    """Adds a row to the sums of its class, or with -1 takes it out of them."""
    r, sums = c.rows[row], c.book.idle_sums[vip]
    sums.blocks += sign * r.blocks
    sums.blocks_squared += sign * r.blocks * r.blocks
    sums.since += sign * r.since
    sums.since_squared += sign * r.since * r.since


@uncounted
def largest_idle(c, vip):
    """The idle cache of a class that would free most (the longest idle of equals); -1 if there is none."""
    largest = c.book.largest[vip]
    if largest.idle_unknown:
        best, row = -1, c.book.idle[vip].first
        while row >= 0:
            if best < 0 or c.rows[row].blocks > c.rows[best].blocks:
                best = row
            row = c.rows[row].after
        largest.idle, largest.idle_unknown = best, 0
    return largest.idle
