"""The theory's one error."""

from kv_cache_rl.core.errors import Refused


class StabilityError(Refused):
    """A rate, a length or a size that the theory cannot take; the text says which and what to give instead."""
