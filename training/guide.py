"""Decoding that is held to the wording: of every token, those that may stand in its place.

What vLLM calls structured output. A token that is alone in its place is no choice of the model: it is written
for it when it answers, and left out of the loss when it learns."""

from collections.abc import Sequence
from typing import Any

from training.wording import END, Line


class Guide:
    """An answer to an observation in the making, in tokens."""

    def __init__(self, tokenizer: Any, observation: dict) -> None:
        self._tokenizer, self._line = tokenizer, Line(observation)
        self._words: dict[int, str] = {}
        self._forced: list[int] = []
        """What is left of a word that is several tokens, such as a count."""
        self.allowed: list[int] = []
        """The tokens that may come next; none once the answer has ended."""
        self._look()

    def write(self, token: int) -> None:
        """Goes on with one of `allowed`."""
        if not self._forced:
            word = self._words[token]
            self._line.write(word)
            self._forced = self.encode(word)
        self._forced = self._forced[1:]
        self._look()

    def encode(self, word: str) -> list[int]:
        end = [self._tokenizer.eos_token_id]
        return end if word == END else self._tokenizer.encode(word, add_special_tokens=False)

    def _look(self) -> None:
        if self._forced:
            self.allowed = self._forced[:1]
            return
        self._words = {self.encode(word)[0]: word for word in self._line.words}
        self.allowed = list(self._words)


def told(tokenizer: Any, said: Sequence[str], observation: dict) -> tuple[list[int], list[list[int]]]:
    """The tokens of an answer's words, and what may stand in the place of each."""
    guide = Guide(tokenizer, observation)
    tokens, allowed = [], []
    for token in (token for word in said for token in guide.encode(word)):
        tokens.append(token)
        allowed.append(guide.allowed)
        guide.write(token)
    return tokens, allowed
