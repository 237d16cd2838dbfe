"""What a chat server's refusal means, by its status and its words: one answer for the client that waits, for
the score, and for the hint that is printed.

overflow  the dialogue no longer fits the model's context
limited   one request is larger than what the account may send at all
spent     the account has no credit or quota left
garbled   the server could not read what its own model wrote
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
            r"context_length_exceeded",  # OpenAI's code
            r"exceed_context_size|available context size",  # llama.cpp
            r"model'?s context length|context window",  # SGLang, OpenAI's Responses
            r"exceeds? (the )?(maximum )?context (length|limit|size)",  # Ollama, Anthropic
            r"inputs?`? (tokens \+ `?max_new_tokens|must have less than)",  # TGI
            r"(prompt|input) is too long",  # Anthropic, Bedrock
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
SPENT = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)
"""A 429 that no waiting ends."""
LIMITED = re.compile(r"rate_limit|(tokens|requests) per (minute|hour|day)", re.IGNORECASE)
"""Of a 413: Groq refuses so what is larger than the tokens that a minute allows."""


def meaning_of(status: int | None, text: str) -> str:
    """The kind of a refusal, as the head of this module names them; None is no status at all.

    >>> meaning_of(400, "input length and `max_tokens` exceed context limit: 8190 + 500 > 8192")
    'overflow'
    """
    if status == 413:
        return "limited" if LIMITED.search(text) else "overflow"
    if status in (400, 422, 500) and OVERFLOW.search(text):
        return "overflow"
    if status in (400, 500) and GARBLED.search(text):
        return "garbled"
    if status == 402 or (status in BUSY_STATUS and SPENT.search(text)):
        return "spent"
    if status in BUSY_STATUS:
        return "busy"
    return "broken" if status in BROKEN_STATUS else "final"
