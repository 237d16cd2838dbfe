"""What a chat server's refusal means, by its status and its words: one answer for the client that waits, for
the score, and for the hint that is printed.

overflow  the dialogue no longer fits the model's context
limited   one request is larger than what the account may send at all
spent     the account has no credit or quota left
garbled   the server could not read what its own model wrote
single calls  the model's chat template takes one call a turn
alternating  the template takes turns of a user and of the model alone, so none of tools
busy      429, 503, 529: the server asks to come back
broken    408, 5xx and the like: it failed, and may do better next time
final     anything else (a wrong key, name or address)
"""

import re

BUSY_STATUS = (429, 503, 529)
BROKEN_STATUS = (408, 409, 425, *range(500, 600))

OVERFLOW = re.compile(
    "|".join(
        (
            r"maximum context length",  # OpenAI, vLLM, Mistral, SGLang
            r"longer than the maximum model length|max_tokens must be at least 1, got -",  # vLLM
            r"context_length_exceeded|exceeds? the configured limit of",  # OpenAI
            r"exceed_context_size|available context size|context size has been exceeded",  # llama.cpp
            r"greater than the context length",  # LM Studio
            r"model'?s context length|context window|ContextWindowExceeded",  # SGLang, OpenAI, LiteLLM
            r"exceed(s|ed)? (the )?(max(imum)? )?context (length|limit|size)",  # Ollama, Anthropic
            r"exceed(s|ed)? (the )?(model )?token limit",  # Moonshot
            r"exceed(s|ed)? (the )?max(imum)? (input )?length",  # Zhipu, TensorRT-LLM
            r"maximum prompt length is|input length should be",  # xAI, DashScope
            r"inputs?`? (tokens \+ `?max_new_tokens|must have less than)",  # TGI
            r"(prompt|input) (is )?too long",  # Anthropic, Bedrock, Ollama
            r"too many tokens",  # Cohere
            r"reduce (the length of )?(the|your) (messages|prompt|input)",  # Groq, OpenAI
            r"input token count .{0,40}exceeds",  # Gemini
        )
    ),
    re.IGNORECASE,
)
"""Wordings of "the dialogue does not fit", by who writes them."""
GARBLED = re.compile(
    r"does not match the expected \S* ?format"  # llama.cpp: its parser of the chat template
    r"|failed to parse (the )?(tool call|model|input at pos)"  # llama.cpp
    r"|tool_use_failed|failed to call a function",  # Groq
    re.IGNORECASE,
)
SPENT = re.compile(
    r"insufficient[_ ](quota|credits?|balance|funds)|exceeded[_ ](your[_ ])?current[_ ]quota|billing"
    r"|(key|credit|quota|usage|spending) limit (is |was )?(exceeded|reached)|credit balance is too low",
    re.IGNORECASE,
)
"""An account without credit, which some servers call a 400, a 403 or a 429: no waiting ends it."""
SINGLE = re.compile(
    r"(only supports?|supports? only) (single|one) tool[- ]calls?|multiple tool[- ]calls are not supported",
    re.IGNORECASE,
)
"""The templates of Llama 3.1 and its kin."""
ALTERNATING = re.compile(r"roles? must alternate", re.IGNORECASE)
"""The templates of Gemma, of the first Mistral and of their kin."""
UNREAD, BROKE_OFF = (
    ("malformed upstream response", "the server answered with"),
    "the server broke its reply off",
)
"""How the client's own words begin for an answer that is no reply, and for half a one
(`adapters.wire` and the clients)."""
DAMAGED = ("while decompressing data", "illegal chunk header", "without sending complete message body")
"""Words of httpx for an answer that began and is none as HTTP has it."""
LIMITED = re.compile(r"rate_limit|(tokens|requests) per (minute|hour|day)", re.IGNORECASE)
"""Of a 413: Groq refuses so what is larger than the tokens that a minute allows."""


HINTED = ("limited", "spent", "alternating")
"""Kinds that a hint tells apart; for a client, which repeats none of them, they are `final`."""


def to_a_client(kind: str) -> str:
    """The kind of a refusal, as far as a client that waits tells them apart."""
    return "final" if kind in HINTED else kind


def meaning_of(status: int | None, text: str) -> str:
    """The kind of a refusal, as the head of this module names them; None is no status at all.

    >>> meaning_of(400, "input length and `max_tokens` exceed context limit: 8190 + 500 > 8192")
    'overflow'
    """
    if status == 413:
        return "limited" if LIMITED.search(text) else "overflow"
    if status in (400, 422, 500) and SINGLE.search(text):
        return "single calls"
    if status in (400, 422, 500) and ALTERNATING.search(text):
        return "alternating"
    if status in (400, 422, 500) and OVERFLOW.search(text):
        return "overflow"
    if status in (400, 500) and GARBLED.search(text):
        return "garbled"
    if status == 402 or (status in (400, 403, *BUSY_STATUS) and SPENT.search(text)):
        return "spent"
    if status in BUSY_STATUS:
        return "busy"
    return "broken" if status in BROKEN_STATUS else "final"
