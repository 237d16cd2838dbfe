"""A dialogue as an episode: what an assistant message decides, and what the episode answers."""

from collections.abc import Iterable

import verifiers.v1 as vf

from kv_cache_rl.adapters.wire import calls_left_out, not_read
from kv_cache_rl.sim.eviction import (
    MAX_CALLS_PER_STEP,
    Call,
    Episode,
    Scenario,
    parse_call,
    text_only_reply,
    tool_messages,
)

LATE = "only the first"
"""How the reason begins of a call that came too late in its message."""


def decided(message: vf.AssistantMessage, most: int = MAX_CALLS_PER_STEP) -> list[Call]:
    """The calls of one message, one step. Those past the first `most` are refused, the last of them perhaps
    for many that were left out."""
    calls = [read_call(call.name, call.arguments, most) for call in message.tool_calls or []]
    if most >= MAX_CALLS_PER_STEP:
        return calls
    late = Call("?", error=f"{LATE} {most} calls of a message count; choose the {most} that matter most")
    return calls[:most] + [call if call.error.startswith(LATE) else late for call in calls[most:]]


def read_call(name: str, arguments: str, most: int = MAX_CALLS_PER_STEP) -> Call:
    """The call, or one with the reason why it was not read (see `wire.bounded`)."""
    left_out = not_read(arguments)
    if left_out is None:
        return parse_call(name, arguments)
    if left_out.endswith(" calls"):
        after = "after them" if most == MAX_CALLS_PER_STEP else f"after {MAX_CALLS_PER_STEP}"
        return Call("?", error=f"{LATE} {most} calls of a message count; {left_out} {after} were not read")
    why = f'{name[:40]}: arguments of {left_out} were not read; send {{"seq_id": "..."}}'
    return Call("?", error=why)


def left_out(messages: Iterable[vf.AssistantMessage]) -> int:
    """How many calls of these messages stand in no action log, for they were not read at all."""
    return sum(
        calls_left_out(call.arguments) for message in messages for call in (message.tool_calls or [])[-1:]
    )


def results(episode: Episode, calls: list[Call]) -> list[str]:
    """Plays one step. One text per call: what became of it."""
    told = zip(episode.step(calls), calls, strict=True)
    return [f"refused: {call.error}" if call.error.startswith(LATE) else text for text, call in told]


def answers(episode: Episode, calls: list[Call]) -> list[str]:
    """Plays one step. One text per call, the next observation at the end of the last; without calls
    the one text of the user message that carries the next observation, or nothing once the episode
    is over."""
    texts = results(episode, calls)
    prompt = None if episode.done else episode.prompt()
    if calls:
        return tool_messages(texts, prompt)
    return [] if prompt is None else [text_only_reply(prompt)]


def played(
    scenario: Scenario, messages: Iterable[vf.AssistantMessage], most: int, view: str = "full"
) -> Episode:
    """The episode after these assistant messages; those past its last step decide nothing."""
    episode = Episode(scenario, view)
    for message in messages:
        if episode.done:
            break
        episode.step(decided(message, most))
    return episode
