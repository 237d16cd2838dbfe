"""Lists of rows, linked through the rows themselves: queues, idle caches by age, caches on the CPU by age.

`members` is one LIST of the book: ``c.book.queues[vip]``, ``c.book.idle[vip]``, ``c.book.stored[vip]``.
"""

from kv_cache_rl.jit import uncounted


@uncounted
def link(rows, members, row, before, after):
    """Puts a row of `rows`, which have `before` and `after`, between two neighbours (-1: there is none)."""
    r = rows[row]
    r.before, r.after = before, after
    if before < 0:
        members.first = row
    else:
        rows[before].after = row
    if after < 0:
        members.last = row
    else:
        rows[after].before = row
    members.count += 1


@uncounted
def unlink(rows, members, row):
    """Takes a row of `rows` out."""
    r = rows[row]
    before, after = r.before, r.after
    if before < 0:
        members.first = after
    else:
        rows[before].after = after
    if after < 0:
        members.last = before
    else:
        rows[after].before = before
    r.before, r.after = -1, -1
    members.count -= 1


@uncounted
def insert(c, members, row, before, after):
    """Puts `row` between two neighbours (-1: there is none)."""
    link(c.rows, members, row, before, after)


@uncounted
def push(c, members, row):
    """Puts `row` last."""
    insert(c, members, row, members.last, -1)


@uncounted
def push_front(c, members, row):
    """Puts `row` first."""
    insert(c, members, row, -1, members.first)


@uncounted
def insert_by_age(c, members, row):
    """Puts `row` behind all rows that are as old (``since``) or older."""
    before = members.last
    while before >= 0 and c.rows[before].since > c.rows[row].since:
        before = c.rows[before].before
    insert(c, members, row, before, members.first if before < 0 else c.rows[before].after)


@uncounted
def remove(c, members, row):
    """Takes `row` out."""
    unlink(c.rows, members, row)
