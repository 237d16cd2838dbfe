"""Which seeds learn, which choose between what was learned, and which are only ever reported."""

SEEDS = {"train": range(10_000, 20_000), "select": range(20_000, 20_100), "test": range(30_000, 30_100)}
"""Split → its seeds, apart from one another. Parameters and weights come from `train`, the choice between finished agents (and
when to stop) from `select`, and every published number from `test`, its first 20 or more."""
