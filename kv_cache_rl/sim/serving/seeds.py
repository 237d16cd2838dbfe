"""Which seeds are for training, for selection and for reports, and which seed an agent gets to see."""

from hashlib import blake2b

SEEDS = {"train": range(10_000, 20_000), "select": range(20_000, 20_100), "test": range(30_000, 30_100)}
"""Split → its seeds, apart from one another. Parameters and weights come from `train`, the choice between
finished agents (and when to stop) from `select`, and every published number from `test`, its first 20 or
more."""


def agent_seed(seed: int) -> int:
    """What an agent is given to draw from in the episode of this seed, 0 to 2**64 - 1.

    A hash, since the episode's own seed determines its traffic.
    """
    return int.from_bytes(blake2b(f"{seed} agent".encode(), digest_size=8).digest(), "little")
