"""The books of a pool, recounted: references, free lists and ledger say the same."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence as Many

import numpy as np

from kv_cache_rl.core import pool as ledger
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.storage import EXACT, FORMATS, STORE


def check_books(references: Many[int], blocks: int, free: Many[dict[int, None]], counted: np.ndarray) -> None:
    """Raises LedgerError unless they agree.

    Args:
        references: of each block; those from number `blocks` on are the store's.
        blocks: exact blocks.
        free: the free blocks of each format.
        counted: the ledger, [2 formats, capacity and used].
    """
    used = [0, 0]
    for block, count in enumerate(references):
        form = EXACT if block < blocks else STORE
        used[form] += count != 0
        if count < 0 or (count == 0) != (block in free[form]):
            listed = "on" if count else "not on"
            raise ledger.LedgerError(f"block {block} has {count} references and is {listed} the free list")
    ledger.check(counted, np.array(used))
    for form in (EXACT, STORE):
        if ledger.free(counted, form) != len(free[form]):
            raise ledger.LedgerError(
                f"{len(free[form])} {FORMATS[form]} blocks are listed free, the ledger differs"
            )


def check_holders(references: Many[int], holders: Iterable[Sequence]) -> None:
    """Raises LedgerError unless the references are exactly the table entries of `holders`."""
    entries = Counter(block for sequence in holders for block in sequence.blocks)
    for block, count in enumerate(references):
        if entries[block] != count:
            raise ledger.LedgerError(
                f"block {block} has {count} references, tables hold it {entries[block]} times"
            )
