"""The pool ledger: how full each tier is, and a check that the books balance.

The ledger is an integer array ``[tiers, 2]`` (capacity, used). Its owner chooses the unit: blocks,
quarter pages or bytes. The functions are plain Python over numpy on purpose, because the simulators
compile the same functions into their loops.
"""

import numpy as np

CAPACITY, USED = 0, 1


class LedgerError(RuntimeError):
    """The books do not balance: a bug in the simulator, never the user's doing."""


def take(ledger, tier, units):
    """Adds `units` to those used in `tier`, even beyond its capacity.

    Which tier may overflow, and what follows, is the simulator's rule.
    """
    ledger[tier, USED] += units


def give(ledger, tier, units):
    """Takes `units` off those used in `tier`."""
    ledger[tier, USED] -= units


def free(ledger, tier):
    """Units of `tier` that are not in use; negative while the tier overflows."""
    return ledger[tier, CAPACITY] - ledger[tier, USED]


def check(ledger: np.ndarray, held: np.ndarray) -> None:
    """Compares the ledger with `held` [tiers]: the units of each tier, summed over its holders.

    Raises:
        LedgerError: a tier's used units are negative or differ from that sum.
    """
    for tier, units in enumerate(held):
        if ledger[tier, USED] != units or units < 0:
            used = int(ledger[tier, USED])
            raise LedgerError(
                f"tier {tier}: the ledger books {used} units in use, its holders hold {int(units)}"
            )
