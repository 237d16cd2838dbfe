"""What a chat model is told after a step: what became of its calls, and the next observation.

With history `full` the dialogue grows: one tool message per call. With `window` each model call starts
anew, and one user message holds both."""

from collections.abc import Sequence

from kv_cache_rl.sim.eviction.calls import Call


def tool_messages(texts: list[str], prompt: str | None) -> list[str]:
    """Contents of a step's tool messages: what each call did; the next observation stands at the end of the
    last.
    """
    if prompt is None or not texts:
        return list(texts)
    return [*texts[:-1], f"{texts[-1]}\n{prompt}"]


def result_lines(calls: Sequence[Call], texts: Sequence[str]) -> list[str]:
    """What became of each call, with its words; one that could not be read is told by its reason alone."""
    told = zip(calls, texts, strict=True)
    return [
        text if call.error else f"{call.verb} {call.seq_id}".rstrip() + f": {text}" for call, text in told
    ]


def text_only_reply(prompt: str) -> str:
    """User message that answers a reply without tool calls."""
    return f"No tool was called, so nothing changed in that window.\n{prompt}"


def window_message(calls: Sequence[Call], texts: Sequence[str], prompt: str) -> str:
    """The only user message of a window without history.

    The calls of the last window with what became of them, those with the same result on one line; then the
    observation. A call that could not be read is told by its reason alone.
    """
    if not calls:
        return text_only_reply(prompt)
    by_text: dict[str, dict[str, list[str]]] = {}
    for call, text in zip(calls, texts, strict=True):
        by_verb = by_text.setdefault(text, {})
        if not call.error:
            by_verb.setdefault(call.verb, []).append(call.seq_id)
    lines = []
    for text, by_verb in by_text.items():
        named = ", ".join(" ".join([verb, *ids]).rstrip() for verb, ids in by_verb.items())
        lines.append(f"{named}: {text}" if named else text)
    return "\n".join([*lines, prompt])
