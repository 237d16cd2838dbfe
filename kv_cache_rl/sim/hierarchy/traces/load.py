"""Trace files of every format that names blocks, read line by line into columns.

Exact duplicates of sessions are dropped. Ids of up to 63 bits (64 in Bailian traces) get dense
numbers; none is ever cut.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from inspect import signature
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.sim.hierarchy.traces.columns import MOST_BLOCKS
from kv_cache_rl.sim.hierarchy.traces.lab_file import is_lab_file, load_lab_file
from kv_cache_rl.sim.hierarchy.traces.numbering import dense_ids, dense_runs, runs_of
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, checked_tree, last_of
from kv_cache_rl.traces.bailian import BLOCK_TOKENS as BAILIAN_BLOCK_TOKENS
from kv_cache_rl.traces.bailian import ROOT, read_bailian
from kv_cache_rl.traces.claude_code import Request, Run, Session, parse_session
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.fields import json_fields, shown
from kv_cache_rl.traces.formats import detect
from kv_cache_rl.traces.lines import Line, read_lines
from kv_cache_rl.traces.mooncake import BLOCK_TOKENS as MOONCAKE_BLOCK_TOKENS
from kv_cache_rl.traces.mooncake import parse_mooncake
from kv_cache_rl.traces.tracks import ChainedRequest, chain_of, jittered


def load_trace(
    path: str | Path, format: str | None = None, *, jitter_seed: int | None = None, **options: Any
) -> Trace:
    """The trace in a file; without `format`, a key of LOADERS, its first line decides.

    `jitter_seed` spreads requests on a coarse clock over their tick. `options` are those of the
    format's loader (Claude Code: selection, seed; Mooncake: block_size).

    Raises:
        TraceError: the file, the format or an option cannot be used.
    """
    name = format or ("lab" if is_lab_file(path) else detect(path))
    if name not in LOADERS:
        problem = (
            f"a trace in {name} format names no blocks"
            if name in WITHOUT_BLOCKS
            else f"unknown format {shown(name)}"
        )
        remedy = f"give one of {', '.join(LOADERS)}"
        raise place_of(path).error(problem, remedy + (" (arrivals and lengths are for the serving world)"))
    known = list(signature(LOADERS[name]).parameters)[1:]
    for option in options:
        if option not in known:
            takes = f"they take {', '.join(known)}" if known else "they take none"
            raise place_of(path).error(f"{name} traces have no option {option!r}", f"leave it out; {takes}")
    trace = LOADERS[name](path, **options)
    return trace if jitter_seed is None else jitter(trace, jitter_seed)


def jitter(trace: Trace, seed: int) -> Trace:
    """The trace with requests of equal times spread over the tick, in the same order.

    A trace with a fine clock is returned unchanged.
    """
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
    """A session's requests, its times from its own start, its ids dense from 0."""

    line: int
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
        raise place_of(path).error(
            f"unknown selection {selection!r}", f"choose one of {', '.join(SELECTIONS)}"
        )
    chosen = SELECTIONS[selection]
    rng = random.Random(chosen.seed if seed is None else seed)
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
    trace = Trace(
        name=Path(path).name,
        chained=True,
        block_tokens=sessions[0].block_tokens,
        time_s=time_s[order],
        sequence=sequence,
        first_run=first_run,
        run_start=np.concatenate(shifted)[taken],
        run_length=np.concatenate([session.run_length for session in sessions])[taken],
        blocks=int(base[-1]),
        page_bytes=0,
        input_tokens=np.concatenate([session.input_tokens for session in sessions])[order],
        output_tokens=np.concatenate([session.output_tokens for session in sessions])[order],
        ends=last_of(sequence),
    )
    return checked_tree(trace, str(path), [sessions[at].line for at in sequence])


def _distinct_sessions(path: str | Path, chosen: Selection) -> Iterator[SessionColumns | None]:
    """The sessions' columns in file order, without duplicates, marked or found.

    None for a session that does not fit the selection.
    """
    names: dict[str, int] = {}
    contents: set[bytes] = set()
    for place, text in read_lines(path):
        session = parse_session(json_fields(place, text))
        if session.id in names:
            problem = f"session {shown(session.id)} already stands on line {names[session.id]}"
            raise place.error(problem, "give each its own id", "id")
        names[session.id] = place.line
        content = blake2b(repr(session.requests).encode()).digest()
        if session.exact_duplicate or content in contents:
            continue
        contents.add(content)
        suits = chosen.fewest <= len(session.calls) <= chosen.most
        columns = _columns(session, place.line, chosen.sub_agents) if suits else None
        if columns is not None and columns.blocks > MOST_BLOCKS:
            raise place.error(
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
    return SessionColumns(
        line=line,
        block_tokens=session.block_size,
        blocks=blocks,
        time_s=np.array([time_s for time_s, _ in calls], dtype=np.float64),
        input_tokens=np.array([call.input_tokens for _, call in calls], dtype=np.int64),
        output_tokens=np.array([call.output_tokens for _, call in calls], dtype=np.int64),
        runs=np.array([len(call.runs) for _, call in calls], dtype=np.int64),
        run_start=starts,
        run_length=table[:, 1].copy(),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A request of a trace that lists ids one by one."""

    time_s: float
    input_tokens: int
    output_tokens: int
    ids: tuple[int, ...]
    sequence: int


def load_mooncake(path: str | Path, *, block_size: int = MOONCAKE_BLOCK_TOKENS) -> Trace:
    """The requests of a Mooncake trace; one that extends an earlier request has the same sequence."""
    lines = array("q")

    def noted() -> Iterator[Line]:
        for place, text in read_lines(path):
            lines.append(place.line)
            yield place, text

    requests, ahead = tee(parse_mooncake(noted(), block_size=block_size))
    chains = chain_of(request.hash_ids[: request.input_length // block_size] for request in ahead)
    rows = (
        Row(
            request.timestamp_ms / 1000,
            request.input_length,
            request.output_length,
            request.hash_ids,
            sequence,
        )
        for request, sequence in zip(requests, chains, strict=True)
    )
    return _from_rows(path, rows, block_size, lines)


def load_bailian(path: str | Path) -> Trace:
    """The requests of a Qwen-Bailian trace under chained ids; a chat and its follow-ups are one sequence."""
    return _from_rows(path, _bailian_rows(path), BAILIAN_BLOCK_TOKENS)


def _bailian_rows(path: str | Path) -> Iterator[Row]:
    chats: dict[int, int] = {}
    sequences = 0
    for request in read_bailian(path):
        sequence = chats.get(request.parent_chat_id) if request.parent_chat_id != ROOT else None
        if sequence is None:
            sequence, sequences = sequences, sequences + 1
        chats[request.chat_id] = sequence
        yield Row(
            request.timestamp_s, request.input_length, request.output_length, request.chain_ids, sequence
        )


def _from_rows(
    path: str | Path, rows: Iterable[Row], block_tokens: int, lines: Sequence[int] | None = None
) -> Trace:
    """Rows as columns; `array` holds 8 bytes a number while they come in."""
    time_s, ids = array("d"), array("q")
    sequence, tokens_in, tokens_out, lengths = array("q"), array("q"), array("q"), array("q")
    for row in rows:
        time_s.append(row.time_s)
        sequence.append(row.sequence)
        tokens_in.append(row.input_tokens)
        tokens_out.append(row.output_tokens)
        lengths.append(len(row.ids))
        ids.extend(row.ids)
    dense, blocks = dense_ids(np.array(ids, dtype=np.int64))
    first_run, run_start, run_length = runs_of(dense, np.array(lengths, dtype=np.int64))
    sequences = np.array(sequence, dtype=np.int64)
    trace = Trace(
        name=Path(path).name,
        chained=True,
        block_tokens=block_tokens,
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
    return checked_tree(trace, str(path), lines)


WITHOUT_BLOCKS = ("azure", "burstgpt")
LOADERS: dict[str, Callable[..., Trace]] = {
    "claude-code": load_claude_code,
    "mooncake": load_mooncake,
    "bailian": load_bailian,
    "lab": load_lab_file,
}
