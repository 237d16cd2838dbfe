"""The theory's one error."""


class StabilityError(ValueError):
    """A rate, length or size that the theory cannot take; the text says which and what to give."""
