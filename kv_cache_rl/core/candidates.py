"""Candidate columns: what a ranking policy may know about an entry that could be evicted.

They are the same at every level. A candidate row is float64 ``[CANDIDATE_COLS]``, a table of candidates
``[n, CANDIDATE_COLS]``. Simulators fill them; policies read them and nothing else. A simulator leaves what it
does not know at 0.
"""

from enum import IntEnum


class Column(IntEnum):
    """Index of a column in a candidate row; compiled code indexes with it as fast as with a plain number."""

    SIZE = 0
    """Units of memory that the entry would free."""
    TOKENS = 1
    """Tokens it holds."""
    IDLE = 2
    """Time since its last access."""
    AGE = 3
    """Time since it was inserted."""
    USES = 4
    """Accesses since it was inserted."""
    KIND = 5
    """Index of its block type."""
    PRIORITY = 6
    """Priority of its owner, 0 to 1."""
    PROGRESS = 7
    """How far its owner's task is done, 0 to 1."""
    BITS = 8
    """Bits per element at its present precision."""
    RELOAD_S = 9
    """Seconds to recompute it."""
    SHARERS = 10
    """Sequences that share its prefix."""
    VALUE = 11
    """Value of keeping it, 0 (worst to lose) to 1."""
    INSERTED = 12
    """Order of insertion; breaks ties."""
    LAST = 13
    """Clock at its last access."""
    NOW = 14
    """Clock at the decision."""
    FREQUENCY = 15
    """Accesses ever, evictions notwithstanding."""
    RECENT_USES = 16
    """Accesses among the last few of all entries."""
    REGRET = 17
    """Weighted sum of its past evictions after which it soon came back."""
    RETURNS = 18
    """Estimated accesses per unit of time that it would go on to occupy memory."""
    DRAW = 19
    """A uniform random number of this decision."""


CANDIDATE_COLS = len(Column)
