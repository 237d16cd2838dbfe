"""How long a call takes and what it leaves behind, where a trace does not record it."""

from __future__ import annotations

# Duration of a call whose end was not recorded. Source: least absolute log error over the 41,211
# calls of the
# Claude Code sessions that record it.
FIRST_TOKEN_S = 2.0
DECODE_TOKENS_PER_S = 58.0


def call_seconds(output_tokens: int) -> float:
    """How long a call takes whose end the trace does not record."""
    return FIRST_TOKEN_S + output_tokens / DECODE_TOKENS_PER_S


def kept_tokens(before_input: int, before_output: int, tokens: int, shared: int, extends: bool) -> int:
    """How many leading tokens of an input the previous turn left in the cache.

    If the input extends the previous one, that is its input and output (its input alone where the
    output was not carried over); if the context was cut or rewritten, the part that is still
    shared."""
    if not extends:
        return min(shared, tokens)
    whole = before_input + before_output
    return whole if whole <= tokens else min(before_input, tokens)


def continued(before: tuple[int, int] | None, tokens: int, held: int | None = None) -> int:
    """Leading tokens of a prompt that the turn before in its session, of (input, output) tokens,
    left behind.

    0 where there is none, or where the prompt is shorter than that turn's: its context was
    rewritten. Where the file says how many were `held`, so many, and never more than that turn left."""
    if before is None:
        return 0
    if held is not None:
        return min(held, sum(before), tokens)
    return kept_tokens(*before, tokens, 0, extends=True) if tokens >= before[0] else 0
