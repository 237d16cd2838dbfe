"""A recording of KV events as a trace of requests: those that can be told from it (kv_cache.py), or those of
a request log, with the blocks that the events give them.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from kv_cache_rl.amounts import counted
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.kv_cache import USUAL_BLOCK, Asked, CacheSeen
from kv_cache_rl.traces.kv_events import Batch, read_kv_events
from kv_cache_rl.traces.reading import Reading
from kv_cache_rl.traces.requests import Arrival, Requests, limited

UNSEEN_HITS = "requests that found all their blocks and so stored none"
"""What no recording of KV events shows."""
FORMAT = "kv-events"
WAIT_S, AHEAD_S = 60.0, 1.0
"""A logged request stores its first block at most so long after it arrived, and at most so long before it
was logged."""


def kv_events_requests(path: str, reading: Reading) -> Requests:
    """The requests of a recording in the common form."""
    every = replace(reading, limit=None)
    return requests_seen(path, cache_seen(read_kv_events(every.named(path))), reading)


def cache_seen(batches: Iterable[Batch]) -> CacheSeen:
    """The cache after all these batches."""
    seen = CacheSeen()
    for batch in batches:
        seen.take(batch)
    return seen


def requests_seen(path: str | Path, seen: CacheSeen, reading: Reading) -> Requests:
    """The requests that can be told from a cache's events.

    Raises:
        TraceError: no block was stored, or blocks of several sizes.
    """
    if not seen.requests:
        raise place_of(path).error(
            f"its {seen.batches:,} batches of KV events store no block",
            "record while the engine serves requests that are longer than a block",
        )
    size = block_tokens(path, seen, reading)
    arrivals = (_arrival(path, one, seen, size) for one in limited(seen.requests, reading))
    return Requests(str(path), FORMAT, size, arrivals, notes=notes(seen, size), emptied=emptied(seen))


def emptied(seen: CacheSeen) -> int:
    """How often a cache was cleared, or began anew with its engine."""
    return seen.counts["cleared"] + seen.counts["restarted"]


def block_tokens(path: str | Path, seen: CacheSeen, reading: Reading) -> int:
    """Tokens in a block: as given, else as the events say."""
    if reading.block_size is None and len(seen.block_tokens) > 1:
        raise place_of(path).error(
            f"its blocks have {sorted(seen.block_tokens)} tokens", "record one engine at a time", "block_size"
        )
    return reading.block_size or next(iter(seen.block_tokens), USUAL_BLOCK)


def _arrival(path: str | Path, one: Asked, seen: CacheSeen, size: int) -> Arrival:
    ids = seen.path(one.prompt_end)
    written = one.written * size or None
    return Arrival(
        place_of(path), one.time_s - (seen.first_s or 0.0), len(ids) * size, written, ids, one.session
    )


def notes(seen: CacheSeen, size: int) -> list[str]:
    """What is inferred and what is not known, in sentences."""
    higher = "" if emptied(seen) else ", so the engine's hit rate is higher"
    said = [
        f"requests are inferred, {len(seen.requests):,} from {seen.counts['stored']:,} stored blocks: a "
        f"store asks for the blocks ahead of it and its own; {seen.counts['joined']:,} went on with a "
        "request (one block: decoding wrote it; several: more of its prompt)",
        f"not seen: {UNSEEN_HITS}{higher}; what fills no block, so prompts and "
        "answers are cut to whole blocks",
        f"the cache held at most {seen.peak:,} blocks at one time",
    ]
    said += [] if seen.block_tokens else [f"no event says how large blocks are: {size} tokens (--block-size)"]
    if seen.counts["timeless"]:
        said.append(f"{seen.counts['timeless']:,} of {seen.batches:,} batches have no time: a second each")
    if seen.counts["missed"]:
        said.append(
            f"{seen.counts['missed']:,} batches are missing: what they stored and removed is not known"
        )
    if seen.counts["cleared"]:
        said.append(
            f"the engine cleared its cache {counted(seen.counts['cleared'], 'time')}: what it computed anew "
            "after that, a replay finds"
        )
    if seen.counts["restarted"]:
        said.append(
            f"the engine began anew {seen.counts['restarted']:,} times: its cache was empty then, and it may "
            "name the same blocks otherwise (set PYTHONHASHSEED to keep their names)"
        )
    if len(seen.ranks) > 1:
        said.append(
            f"{len(seen.ranks)} caches share the stream: they are replayed as one, no block in common"
        )
    for where, count in sorted(seen.elsewhere.items()):
        said.append(f"{count:,} blocks of {where} are not counted")
    for name, count in sorted(seen.unknown.items()):
        said.append(f"{count:,} events of type {name!r} are not known here (a newer engine?) and passed over")
    if seen.counts["unseen"]:
        said.append(
            f"{seen.counts['unseen']:,} blocks were stored before the recording begins: what lies ahead of "
            "them is not known"
        )
    return said


def logged_requests(path: str | Path, seen: CacheSeen, log: Requests, reading: Reading) -> Requests:
    """The requests of a log: as they are where they name blocks, else each with those that the events show
    to have been stored for a prompt of its length, at its time.

    Raises:
        TraceError: the log has no times, or none that the events have too.
    """
    if not seen.requests:
        return requests_seen(path, seen, reading)
    every = list(log.timed())
    if any(one.ids is not None for one in every):
        return _compared(every, seen, log)
    return _matched(path, every, seen, log, block_tokens(path, seen, reading))


def _compared(every: list[Arrival], seen: CacheSeen, log: Requests) -> Requests:
    asked = sum(one.input_tokens // max(1, log.block_tokens) for one in every)
    computed = seen.counts["computed"]
    note = f"the engine computed {computed:,} of the {asked:,} full blocks that the log asks for"
    found = f", and found {1 - computed / asked:.2%}" if asked >= computed and asked else ""
    return Requests(
        log.path, log.format, log.block_tokens, iter(every), log.names, log.left_out, [note + found]
    )


def _matched(path: str | Path, every: list[Arrival], seen: CacheSeen, log: Requests, size: int) -> Requests:
    begin, end = (seen.first_s or 0.0) - WAIT_S, seen.now_s + AHEAD_S
    inside = [one for one in every if begin <= (one.time_s or 0.0) <= end]
    if not inside:
        raise place_of(log.path).error(
            f"none of its {len(every):,} requests arrived while the events were recorded "
            f"({begin + WAIT_S:.0f} to {seen.now_s:.0f} seconds since 1970)",
            "log arrival times in milliseconds since 1970, on the engine's clock",
            "timestamp",
        )
    pairs = _pairs(inside, seen, size)
    left_out = Counter({"requests outside the recording": len(every) - len(inside)})
    left_out["requests that stored no block: what they found is not seen"] = len(inside) - len(pairs)
    found = Requests(str(path), FORMAT, size, iter(()), left_out=+left_out)
    begun = seen.first_s or 0.0
    found.arrivals = (
        Arrival(
            one.place,
            max(0.0, (one.time_s or 0.0) - begun),
            one.input_tokens,
            one.output_tokens,
            seen.path(asked.prompt_end),
            one.session or asked.session,
        )
        for one, asked in pairs
    )
    found.notes = [
        f"{len(pairs):,} of {len(inside):,} logged requests were found among {len(seen.requests):,} that the "
        "events show, by time and by length; the others are left out"
    ]
    return found


def _pairs(every: list[Arrival], seen: CacheSeen, size: int) -> list[tuple[Arrival, Asked]]:
    """Each request of the events with the last that was logged before it for as many full blocks, or else
    with the next that was logged soon after it, in the order of the log.
    """
    logged: dict[int, deque[int]] = defaultdict(deque)
    for at, one in enumerate(every):
        logged[one.input_tokens // size].append(at)
    before: dict[int, list[int]] = defaultdict(list)
    found: dict[int, Asked] = {}
    for asked in seen.requests:
        blocks = len(seen.path(asked.prompt_end))
        line, earlier = logged[blocks], before[blocks]
        while line and (every[line[0]].time_s or 0.0) <= asked.time_s:
            earlier.append(line.popleft())
        if earlier and (every[earlier[-1]].time_s or 0.0) >= asked.time_s - WAIT_S:
            found[earlier.pop()] = asked
        elif line and (every[line[0]].time_s or 0.0) <= asked.time_s + AHEAD_S:
            found[line.popleft()] = asked
    return [(every[at], found[at]) for at in sorted(found)]
