"""Scenarios of the tiers, generated once."""

import functools

import pytest

from kv_cache_rl.sim.eviction.generate import generate


@pytest.fixture(scope="session")
def made():
    """made(difficulty, index) → an unselected scenario that no committed set holds."""
    return functools.cache(lambda difficulty, index: generate(difficulty, 4_242, "train", index))
