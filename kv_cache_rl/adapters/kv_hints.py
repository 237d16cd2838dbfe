"""Decisions of the eviction environment as hints to an engine: vLLM's KvHintsEnvelope, as JSON.

    evict, and no turn needs it any more           release  {"target", "at_s"}
    evict, and one does                            demote   {"target", "at_s", "tier": "storage"}
    swap_to_cpu                                    demote   {"target", "at_s", "tier": "cpu"}
    kept until a turn that comes soon              retain   {"target", "at_s", "ttl_s", "priority"}
    compress, and calls that were refused          nothing: engines have no such hint

The target is {"session": id}; the dead part of a session, such as its reasoning, has an id of its own. A
session counts as kept where its turn ended, its next comes within so many windows, and no call moved it
before. That is known of an episode that is over: who decides while it runs gives a forecast as the TTL.
There is an envelope for every window with hints in it; it goes with the next request.

Source: vLLM 0.32, v1/kv_hints/protocol.py, which leaves payloads to whatever implements an action; the
vocabulary is the one discussed there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kv_cache_rl.sim.eviction import ActionLog, Scenario, replay

VERSION = "1"
"""Of the envelope, and of each action."""
RELEASE, DEMOTE, RETAIN = "release", "demote", "retain"
SOON = 3
"""Windows within which a turn comes soon, where nothing else is said."""


@dataclass(slots=True)
class Hints:
    """The hints of one episode."""

    envelopes: list[dict[str, Any]] = field(default_factory=list)
    """As msgspec writes a KvHintsEnvelope."""
    actions: Counter[str] = field(default_factory=Counter)
    """Type of an action → how many."""
    untold: Counter[str] = field(default_factory=Counter)
    """What no hint says → calls."""


def hints_of(scenario: Scenario, log: ActionLog, player: str, soon: int = SOON) -> Hints:
    """The hints that a logged episode amounts to.

    Args:
        player: what decided, for the names of the messages.
        soon: windows within which a turn comes soon.

    Raises:
        LogError: the log is none of this scenario.
    """
    timeline = replay(scenario, log, cut_short=True).timeline
    found, step_s = Hints(), scenario.step_ms / 1000
    for window in timeline:
        step = window["step"]
        actions = [*_moved(scenario, timeline, step, found), *_kept(scenario, timeline, step, soon)]
        if not actions:
            continue
        name = f"{scenario.id}/{player}/{step}"
        found.envelopes.append(
            {
                "protocol_version": VERSION,
                "message_id": name,
                "actions": [
                    {
                        "action_id": f"{name}/{at}",
                        "action_type": kind,
                        "action_version": VERSION,
                        "payload": {"target": {"session": target}, "at_s": step * step_s, **more},
                    }
                    for at, (kind, target, more) in enumerate(actions)
                ],
            }
        )
        found.actions.update(kind for kind, _, _ in actions)
    return found


Action = tuple[str, str, dict[str, Any]]
"""Type, target, and the rest of the payload."""
Timeline = Sequence[Mapping[str, Any]]


def _moved(scenario: Scenario, timeline: Timeline, step: int, found: Hints) -> Iterator[Action]:
    """What the calls of a window amount to."""
    for call in timeline[step]["calls"]:
        verb, target = call["verb"], call["seq_id"]
        if verb == "keep":
            continue
        if not call["ok"]:
            found.untold["refused"] += 1
        elif verb == "evict":
            if _next_turn(scenario, target, step) is None and not _unanswered(timeline, target, step):
                yield RELEASE, target, {}
            else:
                yield DEMOTE, target, {"tier": "storage"}
        elif verb == "swap_to_cpu":
            yield DEMOTE, target, {"tier": "cpu"}
        else:
            found.untold[verb] += 1


def _kept(scenario: Scenario, timeline: Timeline, step: int, soon: int) -> Iterator[Action]:
    """Sessions whose turn ended in a window, and which were kept until the next."""
    for target in timeline[step]["completions"]:
        arrive = _next_turn(scenario, target, step)
        if arrive is None or arrive - step > soon:
            continue
        touched = {
            call["seq_id"]
            for window in timeline[step : arrive + 1]
            for call in window["calls"]
            if _moves(call)
        }
        if target not in touched:
            session = next(one for one in scenario.sessions if one.seq_id == target)
            # To the end of the window in which it is asked for.
            ttl_s = (arrive - step + 1) * scenario.step_ms / 1000
            yield RETAIN, target, {"ttl_s": ttl_s, "priority": session.priority / 1000}


def _moves(call: Mapping[str, Any]) -> bool:
    return call["ok"] and call["verb"] in ("evict", "swap_to_cpu")


def _unanswered(timeline: Timeline, target: str, step: int) -> bool:
    """Whether a turn of the session has arrived that ends, well or not, in this window or later."""
    ends = (
        {*window["completions"], *(failure["seq_id"] for failure in window["failures"])}
        for window in timeline[step:]
    )
    return any(target in ended for ended in ends)


def _next_turn(scenario: Scenario, target: str, step: int) -> int | None:
    """The window in which the session's next turn arrives; None: there is none, or no such session."""
    for session in scenario.sessions:
        if session.seq_id == target:
            return next((turn.arrive for turn in session.turns if turn.arrive > step), None)
    return None
