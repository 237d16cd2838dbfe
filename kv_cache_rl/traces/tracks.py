"""A track: what one sequence of a server does over time, whatever trace format it was read from.

A Claude Code session is one track and each of its sub-agents another, since each holds a KV cache
of its own. In traces of single requests a track is what the file calls one session. Where it names
none, a request continues the track whose chain of full blocks it extends, the longest one if there
are several; what extends no track starts one, and so does every request without blocks."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from statistics import median

from kv_cache_rl.traces.calls import call_seconds, continued, kept_tokens
from kv_cache_rl.traces.claude_code import Request, Session, SubAgent, shared_blocks
from kv_cache_rl.traces.requests import Requests

SLACK_BLOCKS = 2  # the end of a prompt is rendered anew each turn: up to two lost blocks are no lost context
PREFIX_SHARERS = 3  # a leading block that this many tracks start with belongs to a shared prefix
COARSE_TICK_S = 1.0  # clocks that tick no finer than this are jittered inside the tick


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a sequence."""

    start_s: float
    end_s: float
    input_tokens: int
    kept_tokens: int  # leading input tokens the sequence's previous turn left behind; 0 at the first
    output_tokens: int
    thinking: bool
    input_kind: str  # "user" | "tool_result" | "rewritten" (history sent anew in another form)
    stop: str  # "tool_use" | "end_turn" | "" (not recorded)


@dataclass(frozen=True, slots=True)
class Track:
    """One sequence; `turns` in order of start, on the trace's clock."""

    id: str
    is_sub_agent: bool
    prefix_key: str  # tracks with equal keys may share their first prefix_tokens; "" is not shared
    prefix_tokens: int
    turns: tuple[Turn, ...]


def session_tracks(session: Session) -> Iterator[Track]:
    """The session's track and those of its sub-agents, on the session's clock.

    Block ids are local to a session, so sharing between sessions cannot be seen: sessions whose
    tool and system prompts have equal lengths get the same prefix key, which is an upper bound."""
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


@dataclass(frozen=True, slots=True)
class ChainedRequest:
    """A request as any trace of single requests gives it."""

    start_s: float
    input_tokens: int
    output_tokens: int
    ids: Sequence[int]  # chained: equal ids mean equal prefixes; () where none are named
    session: str = ""  # of the track that it belongs to, where the file names one
    held: int | None = None  # leading tokens that the track held already, where the file says it


def request_tracks(found: Requests, rng: random.Random) -> list[Track]:
    """The tracks of a trace of single requests; a coarse clock is jittered inside its tick where
    blocks tell what continues what."""
    rows = [
        ChainedRequest(
            *(one.time_s or 0.0, one.input_tokens, one.output_tokens or 0, one.ids or ()),
            *(one.session, one.held),
        )
        for one in found.timed()
    ]
    chained = any(row.ids for row in rows)
    return chain_tracks(jittered(rows, rng) if chained else rows, max(1, found.block_tokens))


def jittered(requests: Sequence[ChainedRequest], rng: random.Random) -> list[ChainedRequest]:
    """The requests with equal times spread over the tick they stand for, their order unchanged.

    Only where the clock is coarse (median distance of distinct times at least COARSE_TICK_S); else
    as they are."""
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
            replace(request, start_s=start_s + offset) for offset, request in zip(offsets, group, strict=True)
        ]
    return spread


def chain_tracks(requests: Sequence[ChainedRequest], block: int) -> list[Track]:
    """Requests gathered into tracks: each continues its session, else the longest open chain of
    full blocks that it extends."""
    chains = _gather(requests, block)
    sharers = Counter(unit for chain in chains for unit in _full(chain[0], block))
    return [_chain_track(f"chain-{at:05d}", chain, block, sharers) for at, chain in enumerate(chains)]


def _full(request: ChainedRequest, block: int) -> Sequence[int]:
    return request.ids[: request.input_tokens // block]


def _gather(requests: Sequence[ChainedRequest], block: int) -> list[list[ChainedRequest]]:
    chains: dict[str | int, list[ChainedRequest]] = {}
    found = chain_of(_full(request, block) for request in requests if not request.session)
    for request in requests:
        chains.setdefault(request.session or next(found), []).append(request)
    return list(chains.values())


def chain_of(paths: Iterable[Sequence[int]]) -> Iterator[int]:
    """The chain, numbered from 0 as they appear, that each path of full blocks continues: the
    longest open one it extends."""
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
        if (
            full and first_in[full[-1]] == at
        ):  # else only a shared prefix fills whole blocks: there is nothing to continue
            tips[full[-1]] = at
        yield at


def _chain_track(name: str, chain: list[ChainedRequest], block: int, sharers: Counter[int]) -> Track:
    turns: list[Turn] = []
    before: ChainedRequest | None = None
    for request in chain:
        kept = 0
        if before is not None:
            left = before.input_tokens, before.output_tokens
            if request.held is None:
                kept = kept_tokens(*left, request.input_tokens, *_continues(before, request, block))
            else:
                kept = continued(left, request.input_tokens, request.held)
        end_s = request.start_s + call_seconds(request.output_tokens)
        turns.append(
            Turn(request.start_s, end_s, request.input_tokens, kept, request.output_tokens, False, "user", "")
        )
        before = request
    prefix = [unit for unit in _full(chain[0], block) if sharers[unit] >= PREFIX_SHARERS]
    key = f"block {prefix[-1]}" if prefix else ""
    return Track(name, False, key, len(prefix) * block, tuple(turns))


def _continues(before: ChainedRequest, request: ChainedRequest, block: int) -> tuple[int, bool]:
    """Leading tokens that two turns share, and whether the later extends the earlier.

    Blocks tell where both have some (a chain without a session was found by them); else the lengths
    do."""
    if not request.session:
        return 0, True
    if not (before.ids and request.ids):
        return 0, request.input_tokens >= before.input_tokens  # as calls.continued
    full = _full(before, block)
    pairs = enumerate(zip(full, request.ids, strict=False))
    shared = next((at for at, (left, right) in pairs if left != right), min(len(full), len(request.ids)))
    return shared * block, shared >= len(full) - SLACK_BLOCKS


INPUT_KINDS: dict[tuple[str, ...], str] = {("text",): "user", ("tool_result",): "tool_result"}
