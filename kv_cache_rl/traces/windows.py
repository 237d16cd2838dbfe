"""Windows of half a minute cut from a trace: what a server's sequences hold at the start and what
arrives after.

Nothing here depends on a simulator; what plays a window turns seconds and tokens into its own
units. Which sequences are together on a server is decided in `overlay`."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.traces.overlay import Overlay, read_overlay
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.tracks import Track, Turn

LIVE_SEQUENCES = 24.0
LIVE_S = 60.0  # Source: of the Claude Code sequences idle for less than this, 48 % return within 30 s


@dataclass(frozen=True, slots=True)
class WindowTurn:
    """A call that arrives inside the window; kept_tokens + new_tokens is its input."""

    arrive_s: float  # [0, window_s), whole milliseconds
    kept_tokens: int  # of the sequence's context; less than it holds where history was cut or rewritten
    new_tokens: int
    output_tokens: int
    thinking: bool
    input_kind: str  # "user" | "tool_result" | "rewritten" (history sent anew in another form)
    stop: str  # "tool_use" | "end_turn" | "" (not recorded)


@dataclass(frozen=True, slots=True)
class WindowSession:
    """A sequence that is live at the window's start or has a turn in it."""

    id: str
    prefix_key: str  # equal keys may share their first prefix_tokens; "" is not shared
    prefix_tokens: int
    context_tokens_at_start: int  # input and output so far; 0 if its first turn is in the window
    running_output_tokens: int  # that the call in progress at the start has yet to generate; 0 if none is
    running_thinking: bool
    last_seen_s: (
        float | None
    )  # ≤ 0: when its last call ended, from the start; 0 if one runs, None before the first
    is_sub_agent: bool
    last_stop: str  # of the last call that began before the window
    turns: tuple[WindowTurn, ...]  # in order of arrival
    more_turns_after: bool


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a trace."""

    source: str  # the file's name
    server: int  # 0 if the trace was not dealt to several
    index: int  # start_s / window_s
    start_s: float  # on the horizon's clock
    window_s: float
    sessions: tuple[WindowSession, ...]


def cut_windows(
    path: str | Path,
    *,
    seed: int,
    window_s: float = 30.0,
    live: float = LIVE_SEQUENCES,
    live_s: float = LIVE_S,
    speedup: float = 1.0,
    limit: int | None = None,
) -> Iterator[Window]:
    """The windows of a trace file in random order, at most `limit`; the same for the same file and
    arguments.

    Raises TraceError for a file that cannot be read or names no blocks, ValueError for arguments
    out of range."""
    for name, value in (("window_s", window_s), ("live", live), ("live_s", live_s), ("speedup", speedup)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; give a positive number")
    if limit is not None and whole_number("limit", limit) < 0:
        raise ValueError(f"limit is {limit}; give 0 or more, or None for all windows")
    rng = random.Random(whole_number("seed", seed))
    overlay = read_overlay(path, rng, window_s=window_s, live=live, live_s=live_s, speedup=speedup)
    return _cut(Path(located(path)[0]).name, overlay, rng, window_s, live_s, limit)


def _cut(
    source: str, overlay: Overlay, rng: random.Random, window_s: float, live_s: float, limit: int | None
) -> Iterator[Window]:
    present = _present(overlay, window_s, live_s)
    order = sorted(present)
    rng.shuffle(order)
    for server, index in order[:limit]:
        sessions = tuple(
            _session(*overlay.servers[server][at], overlay.windows * lap + index, lap, window_s)
            for at, lap in sorted(present[server, index])
        )
        yield Window(source, server, index, index * window_s, window_s, sessions)


def _present(overlay: Overlay, window_s: float, live_s: float) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """(Server, window) → the (track, lap) pairs that are live at its start or have a turn in it."""
    present: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    for server, placed in enumerate(overlay.servers):
        for at, (track, offset_s) in enumerate(placed):
            for turn in track.turns:
                arrival = math.floor((offset_s + turn.start_s) / window_s)
                last = max(arrival, math.ceil((offset_s + turn.end_s + live_s) / window_s) - 1)
                for number in range(arrival, last + 1):
                    lap, index = divmod(number, overlay.windows)
                    if overlay.folded or (lap == 0 and index >= overlay.first):
                        present[server, index].add((at, lap))
    return present


def _session(track: Track, offset_s: float, number: int, lap: int, window_s: float) -> WindowSession:
    """The track as it looks from the window with this number (not folded)."""
    before: Turn | None = None
    inside: list[WindowTurn] = []
    more = False
    start_s = number * window_s
    for turn in track.turns:
        window = math.floor((offset_s + turn.start_s) / window_s)
        if window > number:
            more = True
            break
        if window == number:
            inside.append(_turn(turn, offset_s + turn.start_s - start_s, window_s))
        else:
            before = turn
    context, running, last_seen_s = 0, 0, None
    if before is not None:
        end_s = offset_s + before.end_s - start_s
        context = before.input_tokens + before.output_tokens
        last_seen_s = min(0, math.floor(end_s * 1000)) / 1000
        if end_s > 0:
            running = math.ceil(before.output_tokens * min(1.0, end_s / (before.end_s - before.start_s)))
    return WindowSession(
        id=f"{track.id}~{lap}" if lap else track.id,
        prefix_key=track.prefix_key,
        prefix_tokens=track.prefix_tokens,
        context_tokens_at_start=context - running,
        running_output_tokens=running,
        running_thinking=bool(running and before and before.thinking),
        last_seen_s=last_seen_s,
        is_sub_agent=track.is_sub_agent,
        last_stop=before.stop if before else "",
        turns=tuple(inside),
        more_turns_after=more,
    )


def _turn(turn: Turn, after_s: float, window_s: float) -> WindowTurn:
    last_ms = math.ceil(window_s * 1000) - 1
    return WindowTurn(
        arrive_s=max(0, min(math.floor(after_s * 1000), last_ms)) / 1000,
        kept_tokens=turn.kept_tokens,
        new_tokens=turn.input_tokens - turn.kept_tokens,
        output_tokens=turn.output_tokens,
        thinking=turn.thinking,
        input_kind=turn.input_kind,
        stop=turn.stop,
    )
