"""The theory's one error."""

from kv_cache_rl.core.errors import Refused


class StabilityError(Refused):
    """A rate, length or size that the theory cannot take; the text says which and what to give."""
