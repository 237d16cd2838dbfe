"""Trace files as columns of requests on a clock that goes round: what `replay` cuts episodes from.

Claude Code sessions were not recorded on one server: each starts at an instant drawn once from eight hours,
and what is later is folded back (as in the hierarchy lab). Other traces keep their own clock; a coarse one is
jittered.
"""

import functools
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kv_cache_rl.traces.calls import continued
from kv_cache_rl.traces.claude_code import COPIES, Session, distinct, read_sessions
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.files import stamp
from kv_cache_rl.traces.formats import detect, requests_of
from kv_cache_rl.traces.reading import located
from kv_cache_rl.traces.requests import Requests
from kv_cache_rl.traces.tracks import Track, request_tracks, session_tracks

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
    """The requests in a file of any format that gives lengths; read once for each version of the file.

    Raises:
        TraceError: it cannot be read, or holds nothing to replay.
    """
    try:
        modified, size = stamp(located(path)[0])
    except (OSError, ValueError):
        detect(path)  # says what is wrong with it
        raise
    return _recorded(path, modified, size)


@functools.lru_cache(maxsize=8)
def _recorded(path: str, modified: int, size: int) -> Recorded:
    form = detect(path)
    groups, done = _claude_code(path) if form == "claude-code" else _requests(path)
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
    notes = (
        f"{Path(located(path)[0]).name} ({form}): {len(calls):,} requests of {len(sizes):,} sequences",
        *done,
    )
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
    rng, groups, sessions = random.Random(0), [], 0
    left_out: Counter[str] = Counter()

    def counted() -> Iterator[Session]:
        nonlocal sessions
        for session in read_sessions(path):
            sessions += 1
            yield session

    for session in distinct(counted(), left_out):
        start_s = rng.uniform(0, HORIZON_S)
        groups.append([_calls(track, start_s) for track in session_tracks(session) if track.turns])
    if not groups:
        raise place_of(path).error(
            "every session is an exact duplicate", "give a trace that holds the originals too"
        )
    dropped = f"{sessions - len(groups):,} sessions dropped as exact duplicates"
    dropped += f" ({left_out[COPIES]:,} requests)" if left_out else ""
    return groups, [f"{dropped}; the others start over {HORIZON_S / 3600:g} h, folded"]


def _requests(path: str) -> tuple[Groups, list[str]]:
    found = requests_of(path)
    if found.block_tokens:
        groups = [[_calls(track)] for track in request_tracks(found, random.Random(0))]
        said = "a request continues its session, else the sequence whose blocks it extends; "
        said += "a coarse clock is jittered inside its tick"
    else:
        groups = _by_session(found)
        said = "a request continues the session that it names; one that names none is a user of its own"
        if all(len(calls) == 1 for (calls,) in groups):
            said = "no user returns: it names none"
    left_out = [f"{count:,} left out: {reason}" for reason, count in found.left_out.items()]
    return groups, [said, *left_out, *found.notes]


def _by_session(found: Requests) -> Groups:
    groups: dict[str | int, list[list[Call]]] = {}
    for number, one in enumerate(found.timed()):
        (calls,) = groups.setdefault(one.session or number, [[]])
        kept = continued(calls[-1][1:3] if calls else None, one.input_tokens, one.held)
        calls.append((one.time_s or 0.0, one.input_tokens, one.output_tokens or 0, kept))
    return list(groups.values())
