"""Lists of rows, linked through the rows themselves: queues, idle caches by age, caches on the CPU by age."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.state import AFTER, BEFORE, COUNTS, QUEUES, SINCE


@uncounted
def length(book, which):
    """How many rows the list holds."""
    return book[COUNTS + which - QUEUES, 0]


@uncounted
def link(book, rows, which, row, before, after):
    """Puts `row` between two neighbours of a list (-1: there is none)."""
    rows[row, BEFORE], rows[row, AFTER] = before, after
    if before < 0:
        book[which, 0] = row
    else:
        rows[before, AFTER] = row
    if after < 0:
        book[which, 1] = row
    else:
        rows[after, BEFORE] = row
    book[COUNTS + which - QUEUES, 0] += 1


@uncounted
def push(book, rows, which, row):
    """Puts `row` last."""
    link(book, rows, which, row, book[which, 1], -1)


@uncounted
def push_front(book, rows, which, row):
    """Puts `row` first."""
    link(book, rows, which, row, -1, book[which, 0])


@uncounted
def file(book, rows, which, row):
    """Puts `row` behind all that are as old as itself or older, by SINCE."""
    before = book[which, 1]
    while before >= 0 and rows[before, SINCE] > rows[row, SINCE]:
        before = rows[before, BEFORE]
    link(book, rows, which, row, before, book[which, 0] if before < 0 else rows[before, AFTER])


@uncounted
def remove(book, rows, which, row):
    """Takes `row` out."""
    before, after = rows[row, BEFORE], rows[row, AFTER]
    if before < 0:
        book[which, 0] = after
    else:
        rows[before, AFTER] = after
    if after < 0:
        book[which, 1] = before
    else:
        rows[after, BEFORE] = before
    rows[row, BEFORE], rows[row, AFTER] = -1, -1
    book[COUNTS + which - QUEUES, 0] -= 1
