"""The golden results of kv-hierarchy-lab and the published traces where they are at hand; its sweep and ablation run once."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the oracle in block_replay.py

from kv_cache_rl.sim.hierarchy.ablation import ablation_rows
from kv_cache_rl.sim.hierarchy.load import load_trace
from kv_cache_rl.sim.hierarchy.reproduce import sweep_rows

GOLDEN = Path(__file__).parents[2] / "../shared/golden/hierarchy"


@pytest.fixture(scope="session")
def golden():
    """golden(name) → the content of a golden file, or a skipped test that says where it was looked for."""

    def read(name):
        path = GOLDEN / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"the golden results {name}.json are not under {GOLDEN.resolve()}: ../shared is absent")
        return json.loads(path.read_text())

    return read


@pytest.fixture(scope="session")
def sweep():
    """The 210 rows of the peer's default sweep as this project computes them."""
    return sweep_rows()


@pytest.fixture(scope="session")
def ablation():
    """The 198 rows of the peer's regret ablation as this project computes them."""
    return ablation_rows()


@pytest.fixture(scope="session")
def published(real):
    """published(name, **options) → a published trace, loaded once, or a skipped test that says where it was looked for."""
    loaded = {}

    def find(name, **options):
        key = (name, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = load_trace(real(name), **options)
        return loaded[key]

    return find
