"""The error of a request that the model cannot serve; importing it needs no torch."""


class RequestError(ValueError):
    """A prompt, text or way to decode that cannot be used; the text says what to give instead."""
