"""The pool ledger: how full each tier is, and a check that the books balance.

The ledger is an integer array ``[tiers, 2]`` (capacity, used) in whatever unit its owner counts (blocks,
quarter pages, bytes). The functions are plain Python over numpy on purpose: simulators compile the same
functions into their loops."""

import numpy as np

CAPACITY, USED = 0, 1


class LedgerError(RuntimeError):
    """The books do not balance: a bug in the simulator, never the user's doing."""


def take(ledger, tier, units):
    """Books `units` in `tier`, even beyond its capacity: who may overflow, and what follows, is the
    simulator's rule.
    """
    ledger[tier, USED] += units


def give(ledger, tier, units):
    """Returns `units` of `tier`."""
    ledger[tier, USED] -= units


def free(ledger, tier):
    """Units of `tier` not in use; negative while it overflows."""
    return ledger[tier, CAPACITY] - ledger[tier, USED]


def check(ledger: np.ndarray, held: np.ndarray) -> None:
    """Compares the ledger with what its holders say they hold (`held`, units per tier).

    Raises:
        LedgerError: a tier's used units are negative or differ from the sum over its holders.
    """
    for tier, units in enumerate(held):
        if ledger[tier, USED] != units or units < 0:
            raise LedgerError(
                f"tier {tier}: the ledger books {int(ledger[tier, USED])} units in use, its holders hold {int(units)}"
            )
