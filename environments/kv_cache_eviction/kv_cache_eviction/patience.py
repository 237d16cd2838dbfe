"""What an error of verifiers' client means, and how long it is waited for: `adapters.patience`."""

from collections.abc import Mapping

from verifiers.v1.errors import ProviderError

from kv_cache_rl.adapters import patience
from kv_cache_rl.adapters.patience import RESETS, GivenUp, Patience, next_pause
from kv_cache_rl.adapters.refusals import meaning_of, to_a_client

__all__ = ["RESETS", "Patience", "asked_to_wait", "meaning", "pause_after"]


def meaning(error: ProviderError) -> str:
    """busy, broken, overflow, garbled, single calls or final; see the head of this module."""
    kind = meaning_of(error.status_code, str(error))
    if kind in ("busy", "spent") and not from_the_server(error):
        return "broken"
    return to_a_client(kind)


def from_the_server(error: ProviderError) -> bool:
    """Whether the status is the server's own; verifiers gives one to lost connections too."""
    return str(error).startswith("upstream ") or getattr(error.__cause__, "response", None) is not None


def asked_to_wait(error: ProviderError, now: float | None = None) -> float | None:
    """The seconds that the server's answer asks to wait (`patience.asked_to_wait`)."""
    headers: Mapping[str, str] = getattr(getattr(error.__cause__, "response", None), "headers", None) or {}
    return patience.asked_to_wait(headers, now)


def pause_after(error: ProviderError, tries: int, waited: float, limits: Patience, proven: bool) -> float:
    """The seconds to wait before the next try; `tries` counts those that failed.

    Raises:
        ProviderError: it is not worth waiting; the text says how long it was tried.
    """
    try:
        return next_pause(meaning(error), asked_to_wait(error), tries, waited, limits, proven)
    except GivenUp as why:
        if not str(why):
            raise error from error.__cause__
        raise given_up(error, str(why)) from error.__cause__


def given_up(error: ProviderError, why: str) -> ProviderError:
    said = ProviderError(f"{error}; {why}" if why else str(error), status_code=error.status_code)
    said.__cause__ = error.__cause__
    return said
