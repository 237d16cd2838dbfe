"""A decider's calls as OpenAI chat completions, whole or in chunks, in the `openai` package's types."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.extras import need

need("writing chat completions", "openai")

from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from kv_cache_rl.adapters.dialogue import DialogueError, tool_call
from kv_cache_rl.sim.eviction import TOOLS

VERBS: tuple[str, ...] = tuple(tool["function"]["name"] for tool in TOOLS)
BYTES_PER_TOKEN = 4
"""Usage is estimated at four UTF-8 bytes per token: no tokenizer belongs to a policy."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One assistant turn before it is written down."""

    id: str
    model: str
    created: int
    calls: tuple[tuple[str, Mapping[str, Any]], ...]
    """Tool and arguments of each call."""
    names: Mapping[str, str]
    """Tool → what the client calls it."""
    prompt_bytes: int

    @property
    def finish_reason(self) -> str:
        return "tool_calls" if self.calls else "stop"

    @property
    def text(self) -> str | None:
        """Content of a turn without calls; the environment counts such a turn as keep."""
        return None if self.calls else "Nothing to change."

    def tool_calls(self) -> list[dict]:
        return [
            tool_call(f"call_{self.id[:16]}_{index}", self.names.get(tool, tool), arguments)
            for index, (tool, arguments) in enumerate(self.calls)
        ]

    def usage(self) -> CompletionUsage:
        reply = json.dumps(self.tool_calls()) if self.calls else self.text or ""
        prompt, completion = (
            -(-self.prompt_bytes // BYTES_PER_TOKEN),
            -(-len(reply.encode()) // BYTES_PER_TOKEN),
        )
        return CompletionUsage(
            prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
        )


def offered_names(tools: Sequence[Any], verbs: Sequence[str] = VERBS) -> dict[str, str]:
    """What the client calls each verb: its own name, or one with a prefix such as ``cache_evict``.

    Raises:
        DialogueError: a verb is missing, or fits several tools.
    """
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    offered = [str(function.get("name", "")) for function in functions if isinstance(function, dict)]
    names = {}
    for verb in verbs:
        fits = [name for name in offered if name == verb] or [
            name for name in offered if name.endswith(verb) and not name[-len(verb) - 1].isalnum()
        ]
        if len(fits) != 1:
            what = f"fits {len(fits)} of the tools" if fits else "is not among the tools"
            raise DialogueError(f"{verb!r} {what}; offer {', '.join(verbs)} once each")
        names[verb] = fits[0]
    return names


def completion(reply: Reply) -> str:
    """The JSON text of a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.calls:
        message["tool_calls"] = reply.tool_calls()
    choice = {"index": 0, "finish_reason": reply.finish_reason, "message": message, "logprobs": None}
    return ChatCompletion.model_validate(
        {
            "id": f"chatcmpl-{reply.id}",
            "object": "chat.completion",
            "created": reply.created,
            "model": reply.model,
            "choices": [choice],
            "usage": reply.usage(),
        }
    ).model_dump_json(exclude_unset=True)


def chunks(reply: Reply, include_usage: bool) -> Iterator[str]:
    """The server-sent events of a streamed completion: role, each call's name and arguments, the end."""

    def event(
        delta: dict | None, finish_reason: str | None = None, usage: CompletionUsage | None = None
    ) -> str:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        body: dict[str, Any] = {
            "id": f"chatcmpl-{reply.id}",
            "object": "chat.completion.chunk",
            "created": reply.created,
            "model": reply.model,
            "choices": choices,
        }
        if include_usage:
            body["usage"] = usage
        return f"data: {ChatCompletionChunk.model_validate(body).model_dump_json(exclude_unset=True)}\n\n"

    yield event({"role": "assistant", "content": reply.text})
    for index, call in enumerate(reply.tool_calls()):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        head = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        yield event({"tool_calls": [head]})
        yield event({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
    yield event({}, reply.finish_reason)
    if include_usage:
        yield event(None, usage=reply.usage())
    yield "data: [DONE]\n\n"
