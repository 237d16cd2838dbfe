"""Block arithmetic and chained prefix hashes."""

import hashlib
from collections.abc import Sequence


def blocks_for(tokens: int, block_tokens: int) -> int:
    """How many blocks hold `tokens` tokens; the last one may be partly full.

    >>> blocks_for(0, 16), blocks_for(1, 16), blocks_for(32, 16), blocks_for(33, 16)
    (0, 1, 2, 3)
    """
    return -(-tokens // block_tokens)


def chained_hash(parent: int, tokens: Sequence[int]) -> int:
    """64-bit id of a block from its parent's id and its own tokens: equal ids mean equal prefixes.

    Source: vLLM, automatic prefix caching (the key covers a block's tokens and all tokens before).

    >>> chained_hash(0, [1, 2]) == chained_hash(0, [1, 2]) != chained_hash(1, [1, 2])
    True
    """
    digest = hashlib.blake2b(parent.to_bytes(8, "little"), digest_size=8)
    for token in tokens:
        digest.update(int(token).to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")


def prefix_hashes(tokens: Sequence[int], block_tokens: int) -> list[int]:
    """Chained ids of the full blocks of `tokens`, root first."""
    ids, parent = [], 0
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        parent = chained_hash(parent, tokens[start : start + block_tokens])
        ids.append(parent)
    return ids
