"""Which sequences of a trace are together on a server.

A sequence is *live* while one of its calls runs and for `live_s` seconds after.

* Claude Code sessions were not recorded on one server, so they are overlaid: every session gets a
  start drawn uniformly from a horizon, and the horizon is folded (time modulo its length), which
  keeps the load steady. Its length is the live seconds of all sequences over `live`, so that on
  average `live` sequences are live at once (never more than there are in the file). A session
  longer than the horizon appears in several laps, each a sequence of its own.
* A trace of single requests (Mooncake, Bailian) is one service on its own clock. Its tracks (not
  its requests) are dealt at random to as many servers as keep `live` of them live at once on
  average; the first `live_s` seconds, before which nothing was recorded, are not cut. `speedup`
  compresses the clock: users of a chat service come back after minutes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from pathlib import Path

from kv_cache_rl.traces.claude_code import distinct, read_sessions
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.formats import FORMATS, detect, requests_of
from kv_cache_rl.traces.tracks import Track, request_tracks, session_tracks

MOST_WINDOWS = 10**7


@dataclass(frozen=True, slots=True)
class Overlay:
    """Tracks placed on one clock."""

    servers: tuple[
        tuple[tuple[Track, float], ...], ...
    ]  # server → its tracks and the seconds added to their times
    windows: int  # the length of the horizon
    first: int  # the first window worth cutting
    folded: bool  # times beyond the horizon come round again; else they are not cut


def read_overlay(
    path: str | Path, rng: random.Random, *, window_s: float, live: float, live_s: float, speedup: float
) -> Overlay:
    """The sequences of a trace file, placed.

    Raises TraceError for a file that cannot be read, names no blocks, or spans more than ten
    million windows."""
    name = detect(path)
    groups: list[list[Track]] = []
    if name == "claude-code":
        sessions = distinct(read_sessions(path))
        groups = [[hastened(track, speedup) for track in session_tracks(session)] for session in sessions]
        tracks = [track for group in groups for track in group]
    else:
        tracks = [hastened(track, speedup) for track in _followed(path, name, rng)]
    if not tracks:
        raise place_of(path).error(
            "every session is an exact duplicate", "give a trace that holds the originals too"
        )
    span_s = max(track.turns[-1].start_s for track in tracks) if not groups else 0.0
    if max(span_s, sum(live_seconds(track, live_s) for track in tracks)) / window_s > MOST_WINDOWS:
        problem = f"it spans more than {MOST_WINDOWS:,} windows of {window_s:g} s"
        raise place_of(path).error(problem, "check the unit of its times, or cut longer windows")
    return (
        overlaid(groups, rng, window_s, live, live_s)
        if groups
        else dealt(tracks, rng, window_s, live, live_s)
    )


def overlaid(
    groups: list[list[Track]], rng: random.Random, window_s: float, live: float, live_s: float
) -> Overlay:
    """Groups of tracks (a session and its sub-agents), each at a random start on a folded horizon."""
    tracks = [track for group in groups for track in group]
    seconds = sum(live_seconds(track, live_s) for track in tracks)
    windows = max(1, round(seconds / min(live, len(tracks)) / window_s))
    starts = [rng.uniform(0, windows * window_s) for _ in groups]
    server = tuple((track, start_s) for group, start_s in zip(groups, starts, strict=True) for track in group)
    return Overlay((server,), windows, 0, folded=True)


def dealt(tracks: list[Track], rng: random.Random, window_s: float, live: float, live_s: float) -> Overlay:
    """Tracks on the trace's own clock, dealt to so many servers that each has `live` of them live
    at once.
    """
    windows = max(1, math.floor(max(track.turns[-1].start_s for track in tracks) / window_s))
    seconds = sum(live_seconds(track, live_s) for track in tracks)
    servers: list[list[tuple[Track, float]]] = [
        [] for _ in range(max(1, round(seconds / (windows * window_s) / live)))
    ]
    for track in tracks:
        servers[rng.randrange(len(servers))].append((track, 0.0))
    first = math.ceil(live_s / window_s)
    return Overlay(tuple(map(tuple, servers)), windows, first if first < windows else 0, folded=False)


def hastened(track: Track, speedup: float) -> Track:
    """The track with its starts brought together by `speedup`; calls last as long as before."""
    if speedup == 1.0:
        return track
    turns = [
        replace(
            turn, start_s=turn.start_s / speedup, end_s=turn.start_s / speedup + (turn.end_s - turn.start_s)
        )
        for turn in track.turns
    ]
    return replace(track, turns=tuple(turns))


def live_seconds(track: Track, live_s: float) -> float:
    """How long the track is live in all, overlaps counted once."""
    total, until = 0.0, -math.inf
    for turn in track.turns:
        end = turn.end_s + live_s
        total += max(0.0, end - max(turn.start_s, until))
        until = max(until, end)
    return total


def _followed(path: str | Path, name: str, rng: random.Random) -> list[Track]:
    """The tracks of a trace of single requests, its clock from the first one.

    Raises TraceError where neither blocks nor sessions say what continues what.
    """
    problem = f"a trace in {name} format names no blocks, so no sequence can be followed"
    refused = place_of(path).error(
        problem, "give a trace in one of these formats: claude-code, mooncake, bailian"
    )
    if FORMATS[name].requests is None:
        raise refused
    found = requests_of(path)
    rows = list(found.timed())
    if not any(row.ids or row.session for row in rows):
        raise refused
    first = min((row.time_s or 0.0 for row in rows), default=0.0)
    found.arrivals = (replace(row, time_s=(row.time_s or 0.0) - first) for row in rows)
    return request_tracks(found, rng)
