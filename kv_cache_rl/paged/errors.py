"""The error of a request that the model cannot serve; importing it needs no torch."""

from kv_cache_rl.core.errors import Refused


class RequestError(Refused):
    """A prompt, text or way to decode that cannot be used; the text says what to give instead."""
