"""Messages and tools as one text, in the words of Qwen2.5's chat template (ChatML with Hermes' tool calls).

Source: `chat_template` of Qwen/Qwen2.5-7B-Instruct. Many models render tools so, and what a template adds
belongs to what a call costs."""

import json
from collections.abc import Sequence
from itertools import groupby

START, END = "<|im_start|>", "<|im_end|>\n"
TURN = f"{START}assistant\n"
"""Stands behind the messages when it is the model's turn."""
_BEFORE = (
    "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with function signatures within <tools></tools> XML tags:\n<tools>"
)
_BEHIND = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def turns(messages: Sequence[dict], tools: Sequence[dict]) -> list[str]:
    """The text of each turn, the system prompt with the tools first; results in a row are one turn.

    No token crosses the border between two turns, so tokens of turns add up.
    """
    found = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        if is_result:
            results = (f"\n<tool_response>\n{message['content']}\n</tool_response>" for message in group)
            found.append(f"{START}user{''.join(results)}{END}")
        else:
            found += [_turn(message, tools) for message in group]
    return found


def _turn(message: dict, tools: Sequence[dict]) -> str:
    text = message["content"]
    if message["role"] == "system" and tools:
        text += _BEFORE + "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools) + _BEHIND
    body = f"\n{text}" if text else ""
    for call in message.get("tool_calls") or []:
        function = call["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        body += f'\n<tool_call>\n{{"name": "{function["name"]}", "arguments": {arguments}}}\n</tool_call>'
    return f"{START}{message['role']}{body}{END}"
