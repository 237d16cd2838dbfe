"""Text as token ids: bytes for the shipped model, the `tokenizers` library for a tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kv_cache_rl.extras import need
from kv_cache_rl.paged.checkpoint import CheckpointError


class Tokenizer(Protocol):
    """What a decoder needs to read and write text."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


class ByteTokenizer:
    """A token is a byte of UTF-8.

    >>> ByteTokenizer().decode(ByteTokenizer().encode("mühle"))
    'mühle'
    """

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


class FileTokenizer:
    """A checkpoint's own tokenizer; it adds no special tokens around the text."""

    def __init__(self, path: Path) -> None:
        need(f"reading {path}", "tokenizers")
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_file(str(path))
        except Exception as wrong:  # the library raises nothing narrower
            raise CheckpointError(f"{path}: {wrong}; download the tokenizer again") from wrong

    def encode(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._library.decode(list(tokens))


def tokenizer_in(folder: str | Path) -> Tokenizer:
    """The folder's tokenizer.json if it has one, else bytes."""
    path = Path(folder) / "tokenizer.json"
    return FileTokenizer(path) if path.is_file() else ByteTokenizer()
