"""What is asked of a model and cannot be done; importing it needs no torch."""

from kv_cache_rl.core.errors import Refused


class RequestError(Refused):
    """A prompt, a text or a way to decode that the model or a measurement cannot take: says what, and what to
    give instead.
    """
