"""Makes the modules beside the tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest


@pytest.fixture(scope="session")
def shipped():
    """The shipped decoder."""
    from kv_cache_rl.paged.model import Decoder

    return Decoder.load()
