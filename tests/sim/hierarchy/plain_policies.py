"""Eviction policies in one tier as their papers put them, in plain Python: each yields the pages it keeps
after every access.

`size` holds the bytes of each page, `room` the bytes of the tier; lists and dicts run from the oldest to the
newest."""

from collections import Counter, OrderedDict


def weight(kept, size):
    """Bytes of these pages."""
    return sum(size[page] for page in kept)


def lru(ids, size, room):
    """Least recently used."""
    kept = OrderedDict()
    for page in ids:
        kept.pop(page, None)
        while weight(kept, size) + size[page] > room:
            kept.popitem(last=False)
        kept[page] = None
        yield set(kept)


def fifo(ids, size, room):
    """First in, first out."""
    kept = []
    for page in ids:
        if page not in kept:
            while weight(kept, size) + size[page] > room:
                kept.pop(0)
            kept.append(page)
        yield set(kept)


def slru(ids, size, room):
    """Two uses protect; the protected part holds four fifths."""
    probation, protected = OrderedDict(), OrderedDict()
    for page in ids:
        if page in probation or page in protected:
            probation.pop(page, None)
            protected.pop(page, None)
            protected[page] = None
            while weight(protected, size) > 0.8 * room:
                probation[protected.popitem(last=False)[0]] = None
        else:
            while weight([*probation, *protected], size) + size[page] > room:
                (probation or protected).popitem(last=False)
            probation[page] = None
        yield {*probation, *protected}


def s3fifo(ids, size, room):
    """Algorithm 1 of the paper: a small queue of a tenth, a main queue, ghosts for as many bytes as the tier
    has.
    """
    small, main, ghosts, seen = OrderedDict(), OrderedDict(), OrderedDict(), {}
    for page in ids:
        if page in small or page in main:
            seen[page] = min(seen[page] + 1, 3)
        else:
            returned = page in ghosts
            ghosts.pop(page, None)
            while weight([*small, *main], size) + size[page] > room:
                if weight(small, size) > 0.1 * room or not main:
                    victim = small.popitem(last=False)[0]
                    if seen[victim] > 1:
                        seen[victim], main[victim] = 0, None
                    else:
                        ghosts[victim] = None
                        while weight(ghosts, size) > room:
                            ghosts.popitem(last=False)
                else:
                    victim = main.popitem(last=False)[0]
                    if seen[victim]:
                        seen[victim], main[victim] = seen[victim] - 1, None
            seen[page] = 0
            (main if returned else small)[page] = None
        yield {*small, *main}


def sieve(ids, size, room):
    """Algorithm 1 of the paper: a hand walks from old to new, spares what was visited and stays there."""
    queue, visited, hand = [], set(), None
    for page in ids:
        if page in queue:
            visited.add(page)
        else:
            while weight(queue, size) + size[page] > room:
                at = queue.index(hand) if hand in queue else 0
                while queue[at] in visited:
                    visited.discard(queue[at])
                    at = (at + 1) % len(queue)
                hand = queue[at + 1] if at + 1 < len(queue) else None
                del queue[at]
            queue.append(page)
        yield set(queue)


def tinylfu(ids, size, room):
    """A window of a hundredth before an SLRU; its oldest page enters that if seen more than the victim."""
    window, probation, protected, seen = OrderedDict(), OrderedDict(), OrderedDict(), Counter()
    for page in ids:
        seen[page] = min(seen[page] + 1, 15)
        if page in window:
            window.move_to_end(page)
        elif page in probation or page in protected:
            probation.pop(page, None)
            protected.pop(page, None)
            protected[page] = None
            while weight(protected, size) > 0.8 * room:
                probation[protected.popitem(last=False)[0]] = None
        else:
            while weight([*window, *probation, *protected], size) + size[page] > room:
                main, candidate = probation or protected, next(iter(window), None)
                rival, held = next(iter(main), None), weight([*probation, *protected], size)
                if candidate is None or (
                    weight(window, size) + size[candidate] <= 0.01 * room and rival is not None
                ):
                    del main[rival]
                    continue
                fits = held + size[candidate] <= 0.99 * room
                del window[candidate]
                if fits or (rival is not None and seen[candidate] > seen[rival]):
                    probation[candidate] = None
                    if not fits:
                        del main[rival]
            window[page] = None
        yield {*window, *probation, *protected}


def arc(ids, size, room):
    """Figure 4 of the paper, for pages of one byte."""
    t1, t2, b1, b2, target = OrderedDict(), OrderedDict(), OrderedDict(), OrderedDict(), 0.0

    def replace(in_b2):
        if t1 and (len(t1) > target or (in_b2 and len(t1) == target)):
            b1[t1.popitem(last=False)[0]] = None
        else:
            b2[t2.popitem(last=False)[0]] = None

    for page in ids:
        if page in t1 or page in t2:
            t1.pop(page, None)
            t2.pop(page, None)
            t2[page] = None
        elif page in b1 or page in b2:
            in_b2, growth = (
                page in b2,
                (max(len(b2) / len(b1), 1) if page in b1 else -max(len(b1) / len(b2), 1)),
            )
            target = min(max(target + growth, 0.0), room)
            replace(in_b2)
            (b2 if in_b2 else b1).pop(page)
            t2[page] = None
        else:
            if len(t1) + len(b1) == room:
                if len(t1) < room:
                    b1.popitem(last=False)
                    replace(False)
                else:
                    t1.popitem(last=False)
            elif len(t1) + len(t2) + len(b1) + len(b2) >= room:
                if len(t1) + len(t2) + len(b1) + len(b2) == 2 * room:
                    b2.popitem(last=False)
                replace(False)
            t1[page] = None
        yield {*t1, *t2}


def by_key(key):
    """A policy that evicts the lowest `key(facts)`, then the earliest inserted; facts of a page as of its
    last access.
    """

    def policy(ids, size, room):
        kept, ever, inflation = {}, Counter(), 0.0
        for clock, page in enumerate(ids, 1):
            ever[page] += 1
            facts = kept.pop(page, {"uses": 0, "inserted": clock, "size": size[page], "page": page})
            while sum(f["size"] for f in kept.values()) + size[page] > room:
                lately = Counter(ids[max(clock - 32, 0) : clock])
                victim = min(
                    kept.values(), key=lambda f: (key(f | {"lately": lately[f["page"]]}), f["inserted"])
                )
                inflation = key(victim | {"lately": 0})
                del kept[victim["page"]]
            kept[page] = facts | {
                "uses": facts["uses"] + 1,
                "ever": ever[page],
                "last": clock,
                "inflation": inflation,
            }
            yield set(kept)

    return policy


def gdsf(cost):
    """Greedy-Dual-Size-Frequency: the key of what was evicted last is what everything touched since starts
    from.
    """
    return by_key(lambda f: f["uses"] * (cost + 0.01) / f["size"] * 1000.0 + f["inflation"])


lfu = by_key(lambda f: (f["uses"], f["last"]))
largest_first = by_key(lambda f: -f["size"])
compute_aware = by_key(lambda f: 1.0 / f["size"])
heavy_hitter = by_key(lambda f: 10_000 * f["ever"] + f["last"])
predictive = by_key(lambda f: 100 * f["ever"] + f["last"])
windowed_recency = by_key(lambda f: (f["lately"], f["last"]))
