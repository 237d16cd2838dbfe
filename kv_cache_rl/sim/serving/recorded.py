"""Trace files as columns of requests on a clock that goes round: what `replay` cuts episodes from.

Claude Code sessions were not recorded on one server: each starts at an instant drawn once from eight hours,
and what is later is folded back (as in the hierarchy lab). Other traces keep their own clock; a coarse one is
jittered.
"""

import functools
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from kv_cache_rl.traces.bailian import read_bailian
from kv_cache_rl.traces.claude_code import read_sessions
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.formats import detect
from kv_cache_rl.traces.mooncake import read_mooncake
from kv_cache_rl.traces.tables import read_azure, read_burstgpt
from kv_cache_rl.traces.tracks import Track, bailian_tracks, mooncake_tracks, session_tracks

HORIZON_S = 8 * 3600.0
"""Claude Code sessions start uniformly over it."""

Call = tuple[float, int, int, int]
"""Start in seconds, prompt, output, leading tokens of the prompt that the turn before left."""
Groups = list[list[list[Call]]]
"""Calls of the sequences of each owner."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The requests of a trace, columns ``[n]`` in order of time within a period of `period_s`."""

    notes: tuple[str, ...]
    """What was read and what was done to it, in sentences."""
    period_s: float
    """After it the clock begins anew, with new users."""
    time_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    kept: np.ndarray
    """Leading tokens of the prompt that the turn before left."""
    sequence: np.ndarray
    """Number of the KV cache that it extends; sub-agents have their own."""
    owner: np.ndarray
    """The session that the sequence belongs to."""
    turn: np.ndarray
    before: np.ndarray
    """Position of the sequence's turn before; -1 at its first."""
    lap: np.ndarray
    """How often the clock had gone round since the owner began."""


def recorded(path: str) -> Recorded:
    """The requests in a file of any format that names lengths; read once for each version of the file.

    Raises:
        TraceError: it cannot be read, or holds nothing to replay.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        detect(path)  # says what is wrong with it
        raise
    return _recorded(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _recorded(path: str, modified: int, size: int) -> Recorded:
    form = detect(path)
    groups, done = READERS[form](path)
    if not any(call[2] for group in groups for calls in group for call in calls):
        raise place_of(path).error(
            "no request has output tokens", "give a trace with the lengths of prompts and outputs"
        )
    calls = [call for group in groups for sequence in group for call in sequence]
    absolute = np.array([call[0] for call in calls])
    period_s = HORIZON_S
    if form != "claude-code":
        absolute -= absolute.min()
        # The last request is followed by the first at a mean distance.
        period_s = float(absolute.max()) * len(calls) / max(1, len(calls) - 1)
    if period_s <= 0:
        problem = f"all requests ({len(calls):,}) come at one instant"
        raise place_of(path).error(problem, "give a trace of requests at two instants at least")
    sizes = [(owner, len(sequence)) for owner, group in enumerate(groups) for sequence in group]
    notes = f"{Path(path).name} ({form}): {len(calls):,} requests of {len(sizes):,} sequences", *done
    return _ordered(
        notes, period_s, absolute, np.array(sizes), np.array([call[1:] for call in calls], dtype=np.int64)
    )


def _ordered(
    notes: tuple[str, ...], period_s: float, absolute: np.ndarray, sizes: np.ndarray, lengths: np.ndarray
) -> Recorded:
    """Calls, sequence after sequence, put in order of time; `sizes` are owner and calls of each sequence."""
    lap, time_s = np.divmod(absolute, period_s)
    order = np.argsort(time_s, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    owner, calls = sizes.T
    turn = np.arange(len(order)) - np.repeat(np.cumsum(calls) - calls, calls)
    before = np.where(turn > 0, np.roll(place, 1), -1)
    return Recorded(
        notes=notes,
        period_s=period_s,
        time_s=time_s[order],
        prompt=lengths[order, 0],
        output=lengths[order, 1],
        kept=lengths[order, 2],
        sequence=np.repeat(np.arange(len(sizes)), calls)[order],
        owner=np.repeat(owner, calls)[order],
        turn=turn[order],
        before=before[order],
        lap=lap[order].astype(np.int64),
    )


def _calls(track: Track, offset_s: float = 0.0) -> list[Call]:
    return [
        (offset_s + turn.start_s, turn.input_tokens, turn.output_tokens, turn.kept_tokens)
        for turn in track.turns
    ]


def _claude_code(path: str) -> tuple[Groups, list[str]]:
    rng, contents, groups, copies = random.Random(0), set(), [], 0
    for session in read_sessions(path):
        content = blake2b(repr(session.requests).encode()).digest()
        if session.exact_duplicate or content in contents:
            copies += 1
            continue
        contents.add(content)
        start_s = rng.uniform(0, HORIZON_S)
        groups.append([_calls(track, start_s) for track in session_tracks(session) if track.turns])
    if not groups:
        raise place_of(path).error(
            "every session is an exact duplicate", "give a trace that holds the originals too"
        )
    return groups, [
        f"{copies:,} sessions dropped as exact duplicates; "
        f"the others start over {HORIZON_S / 3600:g} h, folded"
    ]


def _chained(tracks: Callable, read: Callable) -> Callable[[str], tuple[Groups, list[str]]]:
    def chained(path: str) -> tuple[Groups, list[str]]:
        found = [[_calls(track)] for track in tracks(read(path), random.Random(0))]
        return found, [
            "a request continues the sequence whose blocks it extends; "
            "a coarse clock is jittered inside its tick"
        ]

    return chained


def _azure(path: str) -> tuple[Groups, list[str]]:
    rows = [(row.timestamp_ns, row.context_tokens, row.generated_tokens) for row in read_azure(path)]
    return [[[((at - rows[0][0]) / 1e9, prompt, output, 0)]] for at, prompt, output in rows], [
        "nobody returns: it names no users"
    ]


def _burstgpt(path: str) -> tuple[Groups, list[str]]:
    rows = list(read_burstgpt(path))
    calls = [
        (row.timestamp_s, row.request_tokens, row.response_tokens, 0) for row in rows if row.response_tokens
    ]
    return [[[call]] for call in calls], [
        f"nobody returns; {len(rows) - len(calls):,} failed requests dropped"
    ]


READERS: dict[str, Callable[[str], tuple[Groups, list[str]]]] = {
    "claude-code": _claude_code,
    "mooncake": _chained(mooncake_tracks, read_mooncake),
    "bailian": _chained(bailian_tracks, read_bailian),
    "azure": _azure,
    "burstgpt": _burstgpt,
}
