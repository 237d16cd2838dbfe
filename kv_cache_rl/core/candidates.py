"""Candidate columns: what a ranking policy may know about an entry that could give way, the same at every level.

A candidate table is float64 ``[n, CANDIDATE_COLS]``. Simulators fill it; policies read it and nothing else.
"""

(SIZE, TOKENS, IDLE, AGE, USES, KIND, PRIORITY, PROGRESS, BITS, RELOAD_S, SHARERS, VALUE, INSERTED) = range(13)
CANDIDATE_COLS = 13
"""size: units of memory it would free · tokens · idle, age: time since last access and since insertion · uses: accesses so
far · kind: index of the block type · priority, progress: 0-1 · bits · reload: seconds to recompute it · sharers: how many
use its prefix · value: 0 (worst to lose) to 1 · inserted: order of insertion, the tie-break."""
