"""What is asked of a model and cannot be done; importing it needs no torch."""


class RequestError(ValueError):
    """A prompt, a text or a way to decode that the model or a measurement cannot take: says what, and what to
    give instead.
    """
