"""What a trace asks of a server: arrivals, lengths, and how much of each prompt had been sent
before.

Any format that holds requests with lengths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import tee
from pathlib import Path

from kv_cache_rl.traces.answers import Kept, Turns
from kv_cache_rl.traces.calls import continued
from kv_cache_rl.traces.claude_code import Session, distinct, read_sessions
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.formats import FORMATS, detect, requests_of
from kv_cache_rl.traces.reading import Reading, located
from kv_cache_rl.traces.requests import FAILED, Requests
from kv_cache_rl.traces.runs import runs_of
from kv_cache_rl.traces.tracks import chain_of


@dataclass(slots=True)
class Demand:
    """One entry per request in each column."""

    format: str
    arrivals_s: list[float] = field(default_factory=list)
    """Seconds on the clock of the trace; empty where every session has one of its own, and where
    none is known.
    """
    prompts: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    histories: list[int] = field(default_factory=list)
    """Leading tokens of the prompt that an earlier prompt began with, or that decoding wrote behind
    one; empty where the format does not say.
    """
    session_s: float = 0.0
    """Where every session has a clock of its own: their durations, added up."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → requests that are in the file and not counted here."""
    notes: list[str] = field(default_factory=list)
    """What was assumed while reading, in sentences."""

    @property
    def requests(self) -> int:
        return len(self.prompts)

    @property
    def rate(self) -> float | None:
        """Requests per second over the trace; of one session at a time where each has its own
        clock;

        None for an instant, and where no times are known.
        """
        if self.session_s > 0:
            return self.requests / self.session_s
        span = self.arrivals_s[-1] - self.arrivals_s[0] if self.arrivals_s else 0.0
        return (self.requests - 1) / span if span > 0 else None

    @property
    def failed(self) -> int:
        """Calls that got no answer, left out."""
        return self.left_out[FAILED]

    def peak_rate(self, window_s: float) -> float | None:
        """Requests per second in the busiest `window_s` seconds, None where the trace is shorter or
        has no common clock."""
        if not self.arrivals_s or self.arrivals_s[-1] - self.arrivals_s[0] < window_s:
            return None
        most = start = 0
        for end, now in enumerate(self.arrivals_s):
            while now - self.arrivals_s[start] >= window_s:
                start += 1
            most = max(most, end - start + 1)
        return most / window_s

    def fitting(self, memory_tokens: int) -> Demand:
        """The requests that so many tokens of memory can hold, with the times at which those
        arrive.

        A rate of all and lengths of some would plan for a load that is neither. The durations of
        sessions stay: their users are as slow as before."""
        keep = [
            prompt + output <= memory_tokens
            for prompt, output in zip(self.prompts, self.outputs, strict=True)
        ]

        def kept(column: list) -> list:
            return [value for value, wanted in zip(column, keep, strict=True) if wanted] if column else []

        return Demand(
            self.format,
            kept(self.arrivals_s),
            kept(self.prompts),
            kept(self.outputs),
            kept(self.histories),
            self.session_s,
            self.left_out,
            self.notes,
        )


def demand_of(path: str | Path, reading: Reading | None = None) -> Demand:
    """The demand of a trace file of any format that gives lengths.

    Raises:
        TraceError: the file cannot be read, or holds no request with an answer.
    """
    name, how = located(path, reading)
    format = detect(how.named(name))
    demand = Demand(format)
    if format == "claude-code":
        _sessions(demand, distinct(read_sessions(how.named(name)), demand.left_out))
    elif FORMATS[format].requests is None:
        raise place_of(name).error(
            f"a trace in {format} format holds page accesses, no requests",
            "give one with lengths, or replay this one in the lab (kv-cache-rl hierarchy replay)",
        )
    else:
        found = requests_of(name, how)
        _requests(demand, found)
        demand.left_out, demand.notes = found.left_out, found.notes
    if not demand.prompts:
        raise place_of(name).error(
            "no request in it got an answer", "give a trace with at least one that did"
        )
    return demand


def _sessions(demand: Demand, sessions: Iterator[Session]) -> None:
    common: Kept | None = None
    for session in sessions:
        if session.is_global:
            common = common or Kept(session.block_size)
        demand.prompts += [call.input_tokens for call in session.all_calls]
        demand.outputs += [call.output_tokens for call in session.all_calls]
        demand.histories += _histories(session, common if session.is_global else None)
        demand.session_s += _duration(session)


def _histories(session: Session, common: Kept | None) -> list[int]:
    """Leading tokens of each call that calls of its session left in the cache, or of all sessions
    whose ids mean the same.
    """
    kept = common or Kept(session.block_size)
    times, calls, turns = session.starts, session.all_calls, Turns()
    order = sorted(range(len(calls)), key=times.__getitem__)
    for at in order:
        turns.add(session.id, calls[at].runs, calls[at].input_tokens, calls[at].output_tokens)
    found = dict(zip(order, kept.found(turns), strict=True))
    return [found[at] for at in range(len(calls))]


def _duration(session: Session) -> float:
    """Seconds from the first start to the last known end."""
    started = zip(session.starts, session.all_calls, strict=True)
    return max(start + (call.api_s or 0.0) for start, call in started) - session.requests[0].t_s


def _requests(demand: Demand, found: Requests) -> None:
    """The requests one by one; histories are what a cache that keeps everything has of their blocks,
    else what their sessions had been sent before.
    """
    size = max(1, found.block_tokens)
    turns, before = Turns(), dict[str, tuple[int, int]]()
    arrivals, ahead = tee(map(found.answered, found.arrivals))
    chains = chain_of((one.ids or ())[: one.input_tokens // size] for one in ahead if not one.session)
    named: list[int] = []
    for one in arrivals:
        sequence, history = one.session or next(chains), 0
        if one.ids is not None:
            named.append(len(demand.histories))
            turns.add(sequence, runs_of(one.ids), one.input_tokens, one.output_tokens or 0)
        else:
            history = continued(before.get(one.session), one.input_tokens, one.held)
        if one.session:
            before[one.session] = one.input_tokens, one.output_tokens or 0
        if one.time_s is not None:
            demand.arrivals_s.append(one.time_s)
        demand.prompts.append(one.input_tokens)
        demand.outputs.append(one.output_tokens or 0)
        demand.histories.append(history)
    for at, found_tokens in zip(named, Kept(size).found(turns), strict=True):
        demand.histories[at] = found_tokens
    if not named and not before:
        demand.histories.clear()
    if len(demand.arrivals_s) < len(demand.prompts):
        demand.arrivals_s.clear()
