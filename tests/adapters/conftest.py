"""A server with every decider, and scenarios to play through it."""

import pytest

from kv_cache_rl.adapters.endpoint import serving
from kv_cache_rl.sim.eviction import load_scenarios


@pytest.fixture(scope="package")
def base_url():
    with serving() as url:
        yield url


@pytest.fixture(scope="session")
def scenarios():
    return load_scenarios(num_examples=6)
