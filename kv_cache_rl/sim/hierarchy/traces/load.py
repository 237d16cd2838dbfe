"""Trace files of every format that names blocks, read line by line into columns.

Exact duplicates of sessions are dropped. Ids of up to 63 bits (64 in Bailian traces) get dense
numbers; none is ever cut.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.amounts import counted
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.sim.hierarchy.traces.columns import MOST_BLOCKS, UNKNOWN
from kv_cache_rl.sim.hierarchy.traces.lab_file import load_lab_file
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids, dense_runs, runs_of
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, checked_tree, last_of, pages
from kv_cache_rl.sim.hierarchy.traces.writes import decoded
from kv_cache_rl.traces.claude_code import Request, Run, Session, distinct, read_sessions
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.fields import shown
from kv_cache_rl.traces.formats import FORMATS, detect, requests_of
from kv_cache_rl.traces.kv_requests import UNSEEN_HITS
from kv_cache_rl.traces.libcachesim import NO_BYTES
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.requests import Requests
from kv_cache_rl.traces.tracks import ChainedRequest, chain_of, jittered


def load_trace(
    path: str | Path,
    format: str | None = None,
    *,
    decode_writes: bool = True,
    jitter_seed: int | None = None,
    block_size: int | None = None,
    time_unit: str | None = None,
    limit: int | None = None,
    sort: bool = False,
    **options: Any,
) -> Trace:
    """The trace in a file; the format, a key of LOADERS, is told from its first record if not given.

    With `decode_writes` what decoding wrote is in the cache, as in an engine (traces/writes.py); else prompts
    alone are replayed. `jitter_seed` spreads requests on a coarse clock over their tick; `block_size`,
    `time_unit`, `limit` and `sort` are those of Reading. `options` are those of the format's loader (Claude
    Code: selection, seed).
    Raises TraceError for a file that cannot be used."""
    reading = Reading(format, block_size, time_unit, limit, sort)
    file, reading = located(path, None if reading == Reading() else reading)
    name = reading.format if reading.format not in (None, *LOADERS) else detect(reading.named(file))
    if name not in LOADERS:
        problem = (
            f"a trace in {name} format names no blocks"
            if name in FORMATS
            else f"unknown format {shown(name)}"
        )
        remedy = f"give one of {', '.join(LOADERS)}"
        raise place_of(file).error(problem, remedy + (" (arrivals and lengths are for the serving world)"))
    known = list(signature(LOADERS[name]).parameters)[1:]
    for option in options:
        if option not in known:
            takes = f"they take {', '.join(known)}" if known else "they take none of their own"
            raise place_of(file).error(f"{name} traces have no option {option!r}", f"leave it out; {takes}")
    trace = LOADERS[name](replace(reading, format=name).named(file), **options)
    if not isinstance(decode_writes, bool):
        raise place_of(file).error(f"decode_writes is {shown(decode_writes)}", "write true or false")
    trace = trace if jitter_seed is None else jitter(trace, jitter_seed)
    return decoded(trace) if decode_writes else trace


def jitter(trace: Trace, seed: int) -> Trace:
    """The trace with requests of equal times spread over the tick, in the same order.

    A trace with a fine clock is returned unchanged.
    """
    whole_number("seed", seed)
    requests = [ChainedRequest(time_s, 0, 0, ()) for time_s in trace.time_s.tolist()]
    spread = jittered(requests, random.Random(seed))
    return replace(trace, time_s=np.array([request.start_s for request in spread]))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which Claude Code sessions are replayed together, and the span of their uniform starts."""

    seed: int
    spread_s: float
    sub_agents: bool
    sessions: int | None = None  # so many of the suitable ones, drawn; None: all, in file order
    fewest: int = 0  # calls of its own that a suitable session has
    most: int = 2**31


SELECTIONS = {
    "all": Selection(seed=0, spread_s=8 * 3600.0, sub_agents=True),
    "headroom": Selection(seed=1, spread_s=3600.0, sub_agents=False, sessions=60, fewest=20, most=200),
}


@dataclass(frozen=True, slots=True)
class SessionColumns:
    """A session's requests, its times from its own start, its ids dense from 0 (as they are where global)."""

    line: int
    is_global: bool
    block_tokens: int
    blocks: int
    time_s: np.ndarray
    input_tokens: np.ndarray
    output_tokens: np.ndarray
    runs: np.ndarray  # number of runs of each request
    run_start: np.ndarray
    run_length: np.ndarray


def load_claude_code(path: str | Path, *, selection: str = "all", seed: int | None = None) -> Trace:
    """Sessions overlaid on one clock, by a selection of SELECTIONS.

    `all` starts all of them uniformly over 8 hours, `headroom` starts 60 of medium length over one.
    """
    if selection not in SELECTIONS:
        raise place_of(path).error(f"unknown selection {selection!r}", f"use one of {', '.join(SELECTIONS)}")
    chosen = SELECTIONS[selection]
    rng = random.Random(chosen.seed if seed is None else whole_number("seed", seed))
    sessions = [session for session in _distinct_sessions(path, chosen) if session is not None]
    if chosen.sessions is not None:
        rng.shuffle(sessions)
        sessions = sessions[: chosen.sessions]
    if not sessions:
        raise place_of(path).error(f"no session fits the selection {selection!r}", "choose another selection")
    starts = [rng.uniform(0, chosen.spread_s) for _ in sessions]
    sizes = {session.block_tokens for session in sessions}
    if len(sizes) > 1:
        raise place_of(path).error(
            f"sessions have blocks of {sorted(sizes)} tokens", "split the file by block_size", "block_size"
        )
    if len({session.is_global for session in sessions}) > 1:
        raise place_of(path).error(
            "some sessions share their block ids and others do not",
            "split the file by hash_id_scope",
            "hash_id_scope",
        )
    return _overlaid(path, sessions, starts)


def _overlaid(path: str | Path, sessions: Sequence[SessionColumns], starts: Sequence[float]) -> Trace:
    time_s = np.concatenate([session.time_s + start for session, start in zip(sessions, starts, strict=True)])
    counts = [len(session.time_s) for session in sessions]
    base = np.concatenate([[0], np.cumsum([session.blocks for session in sessions])])
    order = np.argsort(time_s, kind="stable")
    runs = np.concatenate([session.runs for session in sessions])
    first = np.concatenate([[0], np.cumsum(runs)])
    first_run = np.concatenate([[0], np.cumsum(runs[order])])
    taken = np.arange(first_run[-1]) + np.repeat(first[order] - first_run[:-1], runs[order])
    shifted = [session.run_start + at for session, at in zip(sessions, base[:-1], strict=True)]
    sequence = np.repeat(np.arange(len(sessions)), counts)[order]
    run_start = np.concatenate(shifted)[taken]
    run_length = np.concatenate([session.run_length for session in sessions])[taken]
    blocks = int(base[-1])
    if sessions[0].is_global:
        run_start, blocks = dense_runs(run_start, run_length)
    trace = Trace(
        name=Path(located(path)[0]).name,
        chained=True,
        block_tokens=sessions[0].block_tokens,
        time_s=time_s[order],
        sequence=sequence,
        first_run=first_run,
        run_start=run_start,
        run_length=run_length,
        blocks=blocks,
        page_bytes=0,
        input_tokens=np.concatenate([session.input_tokens for session in sessions])[order],
        output_tokens=np.concatenate([session.output_tokens for session in sessions])[order],
        ends=last_of(sequence),
    )
    return checked_tree(trace, located(path)[0], [sessions[at].line for at in sequence])


def _distinct_sessions(path: str | Path, chosen: Selection) -> Iterator[SessionColumns | None]:
    """The sessions' columns in file order, without duplicates, marked or found.

    None for a session that does not fit the selection.
    """
    for session in distinct(read_sessions(path)):
        suits = chosen.fewest <= len(session.calls) <= chosen.most
        columns = _columns(session, session.place.line, chosen.sub_agents) if suits else None
        if columns is not None and columns.blocks > MOST_BLOCKS:
            raise session.place.error(
                f"the session has {columns.blocks:,} blocks",
                f"at most {MOST_BLOCKS:,} are supported",
                "requests",
            )
        yield columns


def _columns(session: Session, line: int, sub_agents: bool) -> SessionColumns:
    calls: list[tuple[float, Request]] = []
    for entry in session.requests:
        if isinstance(entry, Request):
            calls.append((entry.t_s, entry))
        elif sub_agents:
            calls += [(entry.t_s + call.t_s, call) for call in entry.requests]
    runs: list[Run] = [run for _, call in calls for run in call.runs]
    table = np.array(runs, dtype=np.int64).reshape(-1, 2)
    starts, blocks = dense_runs(table[:, 0], table[:, 1])
    if session.is_global:
        starts, blocks = table[:, 0].copy(), 0
    return SessionColumns(
        line=line,
        is_global=session.is_global,
        block_tokens=session.block_size,
        blocks=blocks,
        time_s=np.array([time_s for time_s, _ in calls], dtype=np.float64),
        input_tokens=np.array([call.input_tokens for _, call in calls], dtype=np.int64),
        output_tokens=np.array([call.output_tokens for _, call in calls], dtype=np.int64),
        runs=np.array([len(call.runs) for _, call in calls], dtype=np.int64),
        run_start=starts,
        run_length=table[:, 1].copy(),
    )


def load_requests(path: str | Path) -> Trace:
    """The requests of a trace that lists the ids of its blocks (Mooncake, Bailian).

    A session or chat is one sequence; where none is named, a request that extends an earlier one belongs to
    it."""
    return _of_requests(path, requests_of(path))


def _of_requests(path: str | Path, found: Requests) -> Trace:
    size = found.block_tokens
    arrivals, ahead = tee(found.blocks("the hierarchy lab"))
    chains = chain_of((one.ids or ())[: one.input_tokens // size] for one in ahead if not one.session)
    numbers: dict[str | int, int] = {}
    time_s, ids, lines = array("d"), array("q"), array("q")
    sequence, tokens_in, tokens_out, lengths = array("q"), array("q"), array("q"), array("q")
    for one in arrivals:
        key: str | int = one.session or next(chains)
        time_s.append(one.time_s or 0.0)
        sequence.append(numbers.setdefault(key, len(numbers)))
        tokens_in.append(one.input_tokens)
        tokens_out.append(UNKNOWN if one.output_tokens is None else one.output_tokens)
        lengths.append(len(one.ids or ()))
        ids.extend(one.ids or ())
        lines.append(one.place.line)
    known = np.array(ids, dtype=np.int64)
    dense, blocks = dense_ids(known)
    names = np.empty(blocks, np.int64)
    names[dense] = known
    first_run, run_start, run_length = runs_of(dense, np.array(lengths, dtype=np.int64))
    sequences = np.array(sequence, dtype=np.int64)
    trace = Trace(
        name=Path(located(path)[0]).name,
        chained=True,
        block_tokens=size,
        time_s=np.array(time_s, dtype=np.float64),
        sequence=sequences,
        first_run=first_run,
        run_start=run_start,
        run_length=run_length,
        blocks=blocks,
        page_bytes=0,
        input_tokens=np.array(tokens_in, dtype=np.int64),
        output_tokens=np.array(tokens_out, dtype=np.int64),
        ends=last_of(sequences),
    )
    return checked_tree(trace, located(path)[0], lines, lambda block: found.names.text(int(names[block])))


def load_pages(path: str | Path) -> Trace:
    """The page accesses of libCacheSim's formats; an object keeps the size that it had first, and accesses
    of no bytes are left out, as libCacheSim does."""
    name, reading = located(path)
    times, ids, sizes, empty = array("d"), array("q"), array("q"), 0
    numbers: dict[int | str, int] = {}
    for access in FORMATS[reading.format or detect(name)].read(path):
        if not access.bytes:
            empty += 1
            continue
        times.append(access.time_s)
        number = numbers.setdefault(access.object, len(numbers))
        if number == len(sizes):
            sizes.append(access.bytes)
        ids.append(number)
    trace = pages(
        Path(name).name,
        np.array(ids, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(times, dtype=np.float64),
    )
    return replace(trace, left_out=f"{empty:,} {NO_BYTES}" if empty else "")


def load_kv_events(path: str | Path) -> Trace:
    """The requests that can be told from a recording of KV events."""
    found = requests_of(path)
    emptied = f", and {counted(found.emptied, 'time')} that the cache was emptied," if found.emptied else ""
    return replace(_of_requests(path, found), left_out=UNSEEN_HITS + emptied)


LOADERS: dict[str, Callable[..., Trace]] = {
    "claude-code": load_claude_code,
    "mooncake": load_requests,
    "bailian": load_requests,
    "libcachesim": load_pages,
    "oracle-general": load_pages,
    "kv-events": load_kv_events,
    "lab": load_lab_file,
}
"""Format → what makes its columns: those of FORMATS that name blocks or pages."""
