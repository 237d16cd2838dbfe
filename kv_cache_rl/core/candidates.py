"""Candidate columns: what a ranking policy may know about an entry that could give way, the same at every
level.

A candidate table is float64 ``[n, CANDIDATE_COLS]``. Simulators fill it; policies read it and nothing else.
"""

(SIZE, TOKENS, IDLE, AGE, USES, KIND, PRIORITY, PROGRESS, BITS, RELOAD_S, SHARERS, VALUE, INSERTED) = range(
    13
)
(LAST, NOW, FREQUENCY, RECENT_USES, REGRET, RETURNS, DRAW) = range(13, 20)
CANDIDATE_COLS = 20
"""size: units of memory it would free · tokens · idle, age: time since last access and since insertion ·
uses: accesses since it was inserted · kind: index of the block type · priority, progress: 0-1 · bits ·
reload: seconds to recompute it · sharers: how many use its prefix · value: 0 (worst to lose) to 1 · inserted:
order of insertion, the tie-break · last, now: the clock at its last access and at the decision · frequency:
accesses ever, evictions notwithstanding · recent uses: among the last few accesses of all · regret: weighted
sum of past evictions that came back soon · returns: estimated accesses per unit of time it would yet occupy
memory · draw: a uniform random number of this decision. A simulator leaves what it does not know at 0."""
