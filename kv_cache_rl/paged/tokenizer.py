"""Text as token ids: bytes for the shipped model, the `tokenizers` library for a tokenizer.json.

A checkpoint's format may put special tokens before a text (BOS) and behind it. Without BOS, the
first token of a text becomes the one that attention falls back on, and every measured number moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kv_cache_rl.extras import need
from kv_cache_rl.paged.config_files import CheckpointError, field, read_object
from kv_cache_rl.paged.errors import RequestError, whole


class Tokenizer(Protocol):
    """What a decoder needs to read and write text."""

    opening: list[int]
    """Special tokens that a text begins with."""

    def encode(self, text: str) -> list[int]:
        """A text as the checkpoint takes it, special tokens included."""
        ...

    def plain(self, text: str) -> list[int]:
        """The text alone."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        ...


def checked_text(text: str) -> str:
    """The text itself. Raises RequestError unless it is one that UTF-8 can hold."""
    if not isinstance(text, str):
        raise RequestError(f"{text!r:.60} is no text; give a str")
    try:
        text.encode()
    except UnicodeEncodeError as wrong:
        raise RequestError(
            f"the text holds {text[wrong.start]!r} at {wrong.start}, which is no character; read the file as "
            "UTF-8, or replace it"
        ) from None
    return text


def ids_below(most: int, tokens: Sequence[int]) -> list[int]:
    """The tokens as a list. Raises RequestError unless each is a whole number from 0 to `most` - 1."""
    if all(type(token) is int and 0 <= token < most for token in tokens):
        return list(tokens)
    ids = [whole(token, f"a token {token!r:.60}") for token in tokens]
    if wrong := [token for token in ids if not 0 <= token < most]:
        raise RequestError(f"a token {wrong[0]} to decode; give whole numbers from 0 to {most - 1}")
    return ids


class ByteTokenizer:
    """A token is a byte of UTF-8; there are no special tokens.

    >>> ByteTokenizer().decode(ByteTokenizer().encode("mühle"))
    'mühle'
    """

    def __init__(self) -> None:
        self.opening: list[int] = []

    def encode(self, text: str) -> list[int]:
        return list(checked_text(text).encode())

    plain = encode

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(ids_below(256, tokens)).decode(errors="replace")


class FileTokenizer:
    """A checkpoint's own tokenizer, with the special tokens that its files prescribe.

    The post-processor in tokenizer.json prescribes them. Where tokenizer_config.json says
    `add_bos_token` or `add_eos_token`, true or false, that decides instead. Source: the fast
    tokenizers of transformers 4, and llama.cpp's conversion.
    """

    def __init__(self, path: Path) -> None:
        need(f"reading {path}", "tokenizers")
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except Exception as wrong:  # the library raises nothing narrower
            raise CheckpointError(f"{path}: {wrong}; download the tokenizer again") from wrong
        self.opening, self.closing = self._prescribed()
        beside = path.with_name("tokenizer_config.json")
        if beside.is_file():
            config = read_object(beside)
            self.opening = self._decided(beside, config, "bos", self.opening)
            self.closing = self._decided(beside, config, "eos", self.closing)

    def encode(self, text: str) -> list[int]:
        return [*self.opening, *self.plain(text), *self.closing]

    def plain(self, text: str) -> list[int]:
        return self._library.encode(checked_text(text), add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._library.decode(ids_below(2**32, tokens))

    def _prescribed(self) -> tuple[list[int], list[int]]:
        """The special tokens that the post-processor puts before and behind a text."""
        around = self._library.encode("a")
        inside = [at for at, special in enumerate(around.special_tokens_mask) if not special]
        first, last = (inside[0], inside[-1] + 1) if inside else (len(around.ids), len(around.ids))
        return around.ids[:first], around.ids[last:]

    def _decided(self, path: Path, config: Mapping[str, Any], name: str, prescribed: list[int]) -> list[int]:
        """The special tokens on one side, after `add_bos_token` or `add_eos_token`."""
        wanted = field(path, config, f"add_{name}_token", bool, None)
        if wanted is None or (wanted and prescribed):
            return prescribed
        if not wanted:
            return []
        token = config.get(f"{name}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        number = self._library.token_to_id(text) if isinstance(text, str) else None
        if number is None:
            raise CheckpointError(
                f"{path}: add_{name}_token is true and {name}_token is {token!r:.80}, no token of "
                "tokenizer.json; correct one of them"
            )
        return [number]


def tokenizer_in(folder: str | Path) -> Tokenizer:
    """The folder's tokenizer.json if it has one, else bytes."""
    path = Path(folder) / "tokenizer.json"
    return FileTokenizer(path) if path.is_file() else ByteTokenizer()
