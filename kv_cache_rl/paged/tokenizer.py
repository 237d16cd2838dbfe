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


class ByteTokenizer:
    """A token is a byte of UTF-8; there are no special tokens.

    >>> ByteTokenizer().decode(ByteTokenizer().encode("mühle"))
    'mühle'
    """

    def __init__(self) -> None:
        self.opening: list[int] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    plain = encode

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode(errors="replace")


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
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self._library.decode(list(tokens))

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
