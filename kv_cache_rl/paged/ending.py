"""Where a continuation ends: behind one of some tokens, or once its text holds one of some texts.

A stop token is the last token of the output, but not part of its text. A stop text ends the output
with the token that completes it; the text is cut before it. The checkpoint's own end tokens stop
it as well, unless they are to be ignored. Source: the sampling parameters of vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass

from kv_cache_rl.paged.errors import RequestError, whole
from kv_cache_rl.paged.model import Decoder

Stop = int | Iterable[int] | None
"""One token id or several."""
StopText = str | Iterable[str] | None
"""One text or several."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends an output."""

    tokens: frozenset[int]
    texts: tuple[str, ...]
    decode: Callable[[Many[int]], str]
    """Text of tokens."""

    def reached(self, output: Many[int]) -> bool:
        """Whether the output ends with its last token."""
        if output[-1] in self.tokens:
            return True
        return bool(self.texts) and any(map(self.decode(output).__contains__, self.texts))

    def text(self, output: Many[int]) -> str:
        """The output's text, without the token or the text that ended it."""
        kept = output[:-1] if output and output[-1] in self.tokens else output
        text = self.decode(kept)
        return text[: min((at for stop in self.texts if (at := text.find(stop)) >= 0), default=len(text))]


def ending_of(
    model: Decoder, stop: Stop = None, stop_text: StopText = None, ignore_eos: bool = False
) -> Ending:
    """The ending of a request.

    Args:
        model: its end tokens count.
        stop: token ids, one or several.
        stop_text: texts, one or several.
        ignore_eos: go on behind the model's own end tokens.

    Raises:
        RequestError: a stop is of another kind, lies outside the vocabulary, or is an empty text.
    """
    own = frozenset() if ignore_eos else model.eos
    return Ending(own | _tokens(stop, model.geometry.vocab), _texts(stop_text), model.tokenizer.decode)


def _tokens(stop: Stop, vocab: int) -> frozenset[int]:
    if stop is None:
        return frozenset()
    if isinstance(stop, str | bytes | Mapping):
        raise RequestError(f"stop {stop!r:.60}; give token ids, one or several, or a text as stop_text")
    # A tensor of one number without a dimension calls itself iterable.
    several = stop if isinstance(stop, Iterable) and getattr(stop, "ndim", 1) else (stop,)
    given = [whole(token, f"stop {token!r:.60} among the stop tokens") for token in several]
    for token in given:
        if not 0 <= token < vocab:
            raise RequestError(f"stop {token} is no token; give ids from 0 to {vocab - 1}")
    return frozenset(given)


def _texts(stop: StopText) -> tuple[str, ...]:
    if stop is None:
        return ()
    given = [stop] if isinstance(stop, str) or not isinstance(stop, Iterable) else list(stop)
    for text in given:
        if not isinstance(text, str) or not text:
            raise RequestError(f"stop text {text!r:.60}; give texts of at least one character")
    return tuple(given)
