"""A trace of users that serving commands play."""

import pytest


@pytest.fixture
def users(write):
    """Writes a small trace of Mooncake's form under a name."""
    lines = [
        {
            "timestamp": 400 * k,
            "input_length": 700 + k % 90,
            "output_length": 90,
            "hash_ids": [2 * k, 2 * k + 1],
        }
        for k in range(300)
    ]
    return lambda name: write(lines, name)
