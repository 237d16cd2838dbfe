"""The shipped decoder."""

import pytest


@pytest.fixture(scope="session")
def shipped():
    """The shipped decoder."""
    from kv_cache_rl.paged.model import Decoder

    return Decoder.load()
