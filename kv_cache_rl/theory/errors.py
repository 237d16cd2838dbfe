"""The theory's one error."""


class StabilityError(ValueError):
    """A rate, a length or a size that the theory cannot take; the text says which and what to give instead."""
