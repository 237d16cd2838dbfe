"""A track: what one sequence of a server does over time, the same for all trace formats.

A Claude Code session is one track, and each of its sub-agents is another: each holds a KV cache of
its own. Traces of single requests (Mooncake, Bailian) name no sessions. There a request continues
the track with the longest chain of full blocks that it extends, and starts a new track if it
extends none.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

from kv_cache_rl.traces.bailian import BLOCK_TOKENS as BAILIAN_BLOCK_TOKENS
from kv_cache_rl.traces.bailian import BailianRequest
from kv_cache_rl.traces.claude_code import Request, Session, SubAgent, shared_blocks
from kv_cache_rl.traces.mooncake import BLOCK_TOKENS as MOONCAKE_BLOCK_TOKENS
from kv_cache_rl.traces.mooncake import MooncakeRequest

# Duration of a call without a recorded end. Source: least absolute log error over the 41,211 calls
# of the Claude Code sessions that record it.
FIRST_TOKEN_S = 2.0
DECODE_TOKENS_PER_S = 58.0

SLACK_BLOCKS = 2  # blocks at a prompt's end that may differ: it is rendered again at each turn
PREFIX_SHARERS = 3  # a leading block that so many tracks start with belongs to a shared prefix
COARSE_TICK_S = 1.0  # times on a clock with such ticks or longer ones are jittered inside the tick


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a sequence."""

    start_s: float
    end_s: float
    input_tokens: int
    kept_tokens: int  # leading input tokens left in the cache by the turn before; 0 at the first
    output_tokens: int
    thinking: bool
    input_kind: str  # "user" | "tool_result" | "rewritten" (history sent anew in another form)
    stop: str  # "tool_use" | "end_turn" | "" (not recorded)


@dataclass(frozen=True, slots=True)
class Track:
    """One sequence; `turns` in order of start, on the trace's clock."""

    id: str
    is_sub_agent: bool
    prefix_key: str  # tracks with equal keys may share their first prefix_tokens; "" shares none
    prefix_tokens: int
    turns: tuple[Turn, ...]


def session_tracks(session: Session) -> Iterator[Track]:
    """The session's track and those of its sub-agents, on the session's clock.

    Block ids are local to a session, so that sharing between sessions cannot be seen. Sessions with
    tool and system prompts of equal lengths get the same prefix key: an upper bound.
    """
    yield _agent_track(session.id, session, session.calls, session.block_size, 0.0, is_sub_agent=False)
    for agent in session.sub_agents:
        name = f"{session.id}/{agent.agent_id}"
        yield _agent_track(name, agent, agent.requests, session.block_size, agent.t_s, is_sub_agent=True)


def _agent_track(
    name: str,
    agent: Session | SubAgent,
    calls: Sequence[Request],
    block: int,
    offset_s: float,
    *,
    is_sub_agent: bool,
) -> Track:
    turns: list[Turn] = []
    before: Request | None = None
    for call in calls:
        start_s = offset_s + call.t_s
        kept = 0
        if before is not None:
            shared = shared_blocks(before.runs, call.runs)
            extends = shared >= before.input_tokens // block - SLACK_BLOCKS
            kept = kept_tokens(
                before.input_tokens, before.output_tokens, call.input_tokens, shared * block, extends
            )
        turns.append(
            Turn(
                start_s=start_s,
                end_s=start_s + (call.api_s or call_seconds(call.output_tokens)),
                input_tokens=call.input_tokens,
                kept_tokens=kept,
                output_tokens=call.output_tokens,
                thinking="thinking" in call.output_types,
                input_kind=INPUT_KINDS.get(call.input_types, "rewritten"),
                stop=call.stop,
            )
        )
        before = call
    prefix = min(
        agent.tool_tokens + agent.system_tokens, min((turn.input_tokens for turn in turns), default=0)
    )
    key = f"tools {agent.tool_tokens} + system {agent.system_tokens}" if prefix else ""
    return Track(name, is_sub_agent, key, prefix, tuple(turns))


def kept_tokens(before_input: int, before_output: int, tokens: int, shared: int, extends: bool) -> int:
    """How many leading tokens of an input the previous turn left in the cache.

    If the input extends the previous one: the previous input and output, or the input alone where
    the output was not carried over. If the context was cut or rewritten: the part that is still
    shared.
    """
    if not extends:
        return min(shared, tokens)
    whole = before_input + before_output
    return whole if whole <= tokens else min(before_input, tokens)


def call_seconds(output_tokens: int) -> float:
    """Seconds of a call without a recorded end."""
    return FIRST_TOKEN_S + output_tokens / DECODE_TOKENS_PER_S


@dataclass(frozen=True, slots=True)
class ChainedRequest:
    """A request of a trace of single requests, in any format."""

    start_s: float
    input_tokens: int
    output_tokens: int
    ids: tuple[int, ...]  # chained: equal ids mean equal prefixes


def mooncake_tracks(requests: Iterable[MooncakeRequest], rng: random.Random) -> list[Track]:
    """The tracks of a Mooncake trace; a coarse clock is jittered inside its tick."""
    rows = [
        ChainedRequest(r.timestamp_ms / 1000, r.input_length, r.output_length, r.hash_ids) for r in requests
    ]
    return chain_tracks(jittered(rows, rng), MOONCAKE_BLOCK_TOKENS)


def bailian_tracks(requests: Iterable[BailianRequest], rng: random.Random) -> list[Track]:
    """The tracks of a Qwen-Bailian trace; a coarse clock is jittered inside its tick."""
    rows = [ChainedRequest(r.timestamp_s, r.input_length, r.output_length, r.chain_ids) for r in requests]
    return chain_tracks(jittered(rows, rng), BAILIAN_BLOCK_TOKENS)


def jittered(requests: Sequence[ChainedRequest], rng: random.Random) -> list[ChainedRequest]:
    """The requests; those with equal times are spread over their tick, in the same order.

    Only where the clock is coarse, with a median distance of distinct times of at least
    COARSE_TICK_S.
    """
    ticks = [
        (start_s, list(group)) for start_s, group in groupby(requests, key=lambda request: request.start_s)
    ]
    distances = [later - earlier for (earlier, _), (later, _) in pairwise(ticks)]
    crowded = len(requests) > len(ticks)
    if not distances or not crowded or median(distances) < COARSE_TICK_S:
        return list(requests)
    tick_s = median(distances)
    spread: list[ChainedRequest] = []
    for (start_s, group), distance in zip(ticks, [*distances, tick_s], strict=True):
        offsets = sorted(rng.random() * min(tick_s, distance) for _ in group)
        spread += [
            ChainedRequest(start_s + offset, request.input_tokens, request.output_tokens, request.ids)
            for offset, request in zip(offsets, group, strict=True)
        ]
    return spread


def chain_tracks(requests: Sequence[ChainedRequest], block: int) -> list[Track]:
    """Tracks of requests: each continues the longest open chain of full blocks that it extends."""
    chains = _gather(requests, block)
    sharers = Counter(unit for chain in chains for unit in _full(chain[0], block))
    return [_chain_track(f"chain-{at:05d}", chain, block, sharers) for at, chain in enumerate(chains)]


def _full(request: ChainedRequest, block: int) -> tuple[int, ...]:
    return request.ids[: request.input_tokens // block]


def _gather(requests: Sequence[ChainedRequest], block: int) -> list[list[ChainedRequest]]:
    chains: list[list[ChainedRequest]] = []
    for request, at in zip(requests, chain_of(_full(request, block) for request in requests), strict=True):
        if at == len(chains):
            chains.append([])
        chains[at].append(request)
    return chains


def chain_of(paths: Iterable[tuple[int, ...]]) -> Iterator[int]:
    """For each path of full blocks, the number of the chain that it continues, or of a new one.

    It continues the longest open chain that it extends. Chains are numbered from 0 as they appear.
    """
    chains = 0
    first_in: dict[int, int] = {}  # block id → the chain that wrote it first
    tips: dict[int, int] = {}  # last full block of a chain's last request → the chain
    for full in paths:
        tip = next((unit for unit in reversed(full) if unit in tips), None)
        if tip is None:
            at, chains = chains, chains + 1
        else:
            at = tips.pop(tip)
        for unit in full:
            first_in.setdefault(unit, at)
        # Otherwise only a shared prefix fills whole blocks, and no request could continue the
        # chain.
        if full and first_in[full[-1]] == at:
            tips[full[-1]] = at
        yield at


def _chain_track(name: str, chain: list[ChainedRequest], block: int, sharers: Counter[int]) -> Track:
    turns: list[Turn] = []
    before: ChainedRequest | None = None
    for request in chain:
        kept = 0
        if before is not None:
            kept = kept_tokens(
                before.input_tokens, before.output_tokens, request.input_tokens, 0, extends=True
            )
        end_s = request.start_s + call_seconds(request.output_tokens)
        turns.append(
            Turn(request.start_s, end_s, request.input_tokens, kept, request.output_tokens, False, "user", "")
        )
        before = request
    prefix = [unit for unit in _full(chain[0], block) if sharers[unit] >= PREFIX_SHARERS]
    key = f"block {prefix[-1]}" if prefix else ""
    return Track(name, False, key, len(prefix) * block, tuple(turns))


INPUT_KINDS: dict[tuple[str, ...], str] = {("text",): "user", ("tool_result",): "tool_result"}
