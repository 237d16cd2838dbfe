"""How fast the run-length and page replays are here and now, next to a Python loop over an OrderedDict in the same process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable

from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.runs import lru_hits


def lru_speed(accesses: int = 4_000_000, pages: int = 1_000_000, resident: int = 50_000, skew: float = 1.0) -> dict[str, float]:
    """Accesses per second of `lru_hits` and of an OrderedDict loop over the same Zipf trace, their ratio and the hit rate.

    Raises RuntimeError if the two disagree on the hits.
    """
    ids = zipf(pages, accesses, skew).run_start
    lru_hits(ids[:1], pages, resident)  # compiles
    begin = time.perf_counter()
    hits = lru_hits(ids, pages, resident)
    between = time.perf_counter()
    expected = ordered_dict_hits(ids.tolist(), resident)
    end = time.perf_counter()
    if hits != expected:
        raise RuntimeError(f"lru_hits counted {hits} hits, the OrderedDict loop {expected}; report this with the arguments")
    ours, theirs = accesses / (between - begin), accesses / (end - between)
    return {"lru_hits": ours, "ordered_dict": theirs, "ratio": ours / theirs, "hit_rate": hits / accesses}


def ordered_dict_hits(ids: Iterable[int], capacity: int) -> int:
    """Accesses that hit in an LRU cache of `capacity` pages, the plainest way."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for page in ids:
        if page in cache:
            hits += 1
            cache.move_to_end(page)
        else:
            if len(cache) >= capacity:
                cache.popitem(last=False)
            cache[page] = None
    return hits
