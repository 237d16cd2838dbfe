"""What a trace asks of a server, in any format: arrivals, lengths, repeated prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from kv_cache_rl.traces.bailian import BLOCK_TOKENS as BAILIAN_TOKENS
from kv_cache_rl.traces.claude_code import Request, Session, shared_blocks
from kv_cache_rl.traces.errors import place_of
from kv_cache_rl.traces.formats import detect, read
from kv_cache_rl.traces.mooncake import BLOCK_TOKENS as MOONCAKE_TOKENS


@dataclass(slots=True)
class Demand:
    """One entry per request in each column."""

    format: str
    arrivals_s: list[float] = field(default_factory=list)
    """Seconds on the clock of the trace; empty where every session has a clock of its own."""
    prompts: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    histories: list[int] = field(default_factory=list)
    """Leading tokens that an earlier prompt had too; empty where the format does not say."""
    session_s: float = 0.0
    """Durations of all sessions, added up, where every session has a clock of its own."""
    failed: int = 0
    """Calls without an answer; they are left out."""

    @property
    def requests(self) -> int:
        return len(self.prompts)

    @property
    def rate(self) -> float | None:
        """Requests per second over the trace; None where all arrive in one instant.

        Where every session has a clock of its own: the rate of one session at a time.
        """
        if self.session_s > 0:
            return self.requests / self.session_s
        span = self.arrivals_s[-1] - self.arrivals_s[0] if self.arrivals_s else 0.0
        return (self.requests - 1) / span if span > 0 else None

    def peak_rate(self, window_s: float) -> float | None:
        """Requests per second in the busiest `window_s` seconds.

        None where the trace is shorter or has no common clock.
        """
        if not self.arrivals_s or self.arrivals_s[-1] - self.arrivals_s[0] < window_s:
            return None
        most = start = 0
        for end, now in enumerate(self.arrivals_s):
            while now - self.arrivals_s[start] >= window_s:
                start += 1
            most = max(most, end - start + 1)
        return most / window_s


def demand_of(path: str | Path) -> Demand:
    """The demand of a trace file in any known format.

    Raises:
        TraceError: the file cannot be read, or holds no request with an answer.
    """
    name = detect(path)
    demand = Demand(name)
    COLLECT[name](demand, read(path))
    if not demand.prompts:
        raise place_of(path).error(
            "no request in it got an answer", "give a trace with at least one that did"
        )
    return demand


def _sessions(demand: Demand, sessions: Iterable[Session]) -> None:
    for session in sessions:
        chains = [session.calls, *(agent.requests for agent in session.sub_agents)]
        for calls in filter(None, chains):
            demand.prompts += [call.input_tokens for call in calls]
            demand.outputs += [call.output_tokens for call in calls]
            shared = [shared_blocks(before.runs, after.runs) for before, after in pairwise(calls)]
            demand.histories += [0, *(blocks * session.block_size for blocks in shared)]
        demand.session_s += _duration(session)


def _duration(session: Session) -> float:
    """Seconds from the first start to the last known end."""
    ends = [_end(call) for call in session.calls]
    ends += [agent.t_s + _end(call) for agent in session.sub_agents for call in agent.requests]
    return max(ends) - session.requests[0].t_s


def _end(call: Request) -> float:
    return call.t_s + (call.api_s or 0.0)


def _chained(
    block_tokens: int, ids: str, seconds: Callable[[Any], float]
) -> Callable[[Demand, Iterable[Any]], None]:
    def collect(demand: Demand, requests: Iterable[Any]) -> None:
        seen: set[int] = set()
        for request in requests:
            blocks = getattr(request, ids)
            found = next((at for at, block in enumerate(blocks) if block not in seen), len(blocks))
            seen.update(blocks)
            _add(demand, seconds(request), request.input_length, request.output_length)
            demand.histories.append(min(found * block_tokens, request.input_length))

    return collect


def _azure(demand: Demand, requests: Iterable[Any]) -> None:
    for request in requests:
        _add(demand, request.timestamp_ns / 1e9, request.context_tokens, request.generated_tokens)


def _burstgpt(demand: Demand, requests: Iterable[Any]) -> None:
    for request in requests:
        if request.response_tokens:
            _add(demand, request.timestamp_s, request.request_tokens, request.response_tokens)
        else:
            demand.failed += 1


def _add(demand: Demand, arrival_s: float, prompt: int, output: int) -> None:
    demand.arrivals_s.append(arrival_s)
    demand.prompts.append(prompt)
    demand.outputs.append(output)


COLLECT: dict[str, Callable[[Demand, Iterable[Any]], None]] = {
    "claude-code": _sessions,
    "mooncake": _chained(MOONCAKE_TOKENS, "hash_ids", lambda request: request.timestamp_ms / 1e3),
    "bailian": _chained(BAILIAN_TOKENS, "chain_ids", lambda request: request.timestamp_s),
    "azure": _azure,
    "burstgpt": _burstgpt,
}
"""Format → the function that adds its records to a demand; the same keys as FORMATS."""
