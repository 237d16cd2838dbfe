"""What a reader of a score has to know besides: an episode cut short, and replies that say nothing about the
model."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import verifiers.v1 as vf

from kv_cache_eviction.served import CONTEXT_OVERFLOW, WITHHELD
from kv_cache_rl.adapters.wire import ODD
from kv_cache_rl.sim.eviction import CONTEXT_TOKENS, TOOLS

if TYPE_CHECKING:
    from kv_cache_eviction.task import EvictionData

VERBS = "|".join(tool["function"]["name"] for tool in TOOLS)
CALL_AS_TEXT = re.compile(
    rf"<tool_call>|<\|?tool_calls?|<function=|<\|python_tag\|>|\[TOOL_CALLS\]|to=functions\."
    rf'|"(name|function|tool)"\s*:\s*"({VERBS})"|\b({VERBS})\(seq_id\s*=',
    re.IGNORECASE,
)
"""How calls look that a server left in the text: of Hermes, Qwen, Llama, Mistral, gpt-oss, or as JSON."""
STALLED_CALLS, LEAST_TOKENS = 3, 1_000
"""Calls in a row whose dialogue grew while its count did not, and what a count must be to be one."""


def notes_on(trace: vf.Trace, data: "EvictionData", steps: int) -> list[str]:
    """The notes on an episode that has ended; what the client had left for them in `trace.info` goes."""
    played_steps, found = trace.num_turns, []
    said = trace.info.pop("server_said", None)
    if played_steps < steps:
        kept = f"after {played_steps} of {steps} model calls; the rest counts as keep"
        if trace.stop_condition == CONTEXT_OVERFLOW:
            found.append(
                f"the dialogue outgrew the model's context {kept}. Serve it with "
                f"{CONTEXT_TOKENS[data.view, data.history]:,} tokens of context for view "
                f"{data.view} and history {data.history}. The server said: {said}"
            )
        elif trace.stop_condition is not None:
            found.append(f"the limit {trace.stop_condition} ended the episode {kept}")
    if odd := trace.info.pop(ODD, None):
        found.append(f"the server counts tokens that cannot be ({odd}); such counts are taken as 0")
    if cut := cut_replies(trace):
        found.append(
            f"{cut} of {played_steps} replies were cut at a length limit (finish_reason 'length'); "
            "raise --max-tokens, or the context of the server"
        )
    if kept_back := trace.info.pop(WITHHELD, None):
        found.append(
            f"{kept_back} of {played_steps} replies were withheld by the server's filter (finish_reason "
            "'content_filter') or refused by the model; each counts as keep"
        )
    if texts := calls_as_text(trace):
        found.append(
            f"{len(texts)} of {played_steps} replies hold a call as text that the server did not parse "
            f"({texts[0]!r}); each counts as keep. Check its parser of tool calls"
        )
    made = [call for call in trace.calls if call.node is not None]
    if 0 < (silent := sum(call.usage is None for call in made)) < len(made):
        found.append(
            f"{silent} of {len(made)} replies came without counts of tokens; the tokens and the money are of "
            "the others"
        )
    counts = [call.usage.input_tokens for call in made if call.usage]
    if data.history == "full" and (stalled := stalled_at(counts)):
        tokens, call = stalled
        found.append(
            f"the server counts {tokens:,} tokens of prompt from call {call} on, while the dialogue grows: "
            f"is its context cut? Serve {CONTEXT_TOKENS[data.view, data.history]:,} tokens of context"
        )
    return found


def cut_replies(trace: vf.Trace) -> int:
    """How many replies ended at a length limit."""
    return sum(call.finish_reason == "length" and call.node is not None for call in trace.calls)


def calls_as_text(trace: vf.Trace) -> list[str]:
    """How the calls begin that replies without a call hold as text."""
    silent = [message.content or "" for message in trace.assistant_messages if not message.tool_calls]
    found = [(text, CALL_AS_TEXT.search(text)) for text in silent]
    return [text[match.start() :][:60] for text, match in found if match]


def stalled_at(counts: Sequence[int]) -> tuple[int, int] | None:
    """The count of prompt tokens that later calls never exceed, and the call that reached it first, from 1;
    None where the counts grow to the end.

    >>> stalled_at([900, 1_500, 2_048, 2_048, 2_040, 2_048])
    (2048, 3)
    """
    if not counts:
        return None
    most = max(counts)
    first = counts.index(most)
    later = counts[first + 1 :]
    if len(later) < STALLED_CALLS or most < LEAST_TOKENS or min(later) < 0.7 * most:
        return None
    return most, first + 1
