"""The records of a replay: names that Python reads too, and sizes that the caches of a processor like."""

import numpy as np
import pytest
from stepping import page_trace, rng_of, tiers_for

from kv_cache_rl.sim.hierarchy import state as declared
from kv_cache_rl.sim.hierarchy.dynamics import new_state
from kv_cache_rl.sim.hierarchy.state import NONE, PAGE, TIER, records

RECORDS = {name: kind for name, kind in vars(declared).items() if isinstance(kind, np.dtype)}


@pytest.mark.parametrize("name", RECORDS)
def test_no_field_hides_behind_an_attribute_of_numpy(name):
    hidden = [field for field in RECORDS[name].names if hasattr(np.record, field)]
    assert hidden == [] and all(not hasattr(np.recarray, field) for field in RECORDS[name].names)


@pytest.mark.parametrize("name", RECORDS)
def test_a_field_is_read_and_written_by_name_in_python_as_in_compiled_code(name):
    rows = records(RECORDS[name], 2)
    for number, field in enumerate(RECORDS[name].names, 1):
        setattr(rows[1], field, number)
    for number, field in enumerate(RECORDS[name].names, 1):
        assert np.all(getattr(rows[1], field) == number) and not np.any(rows[field][0])


def test_a_page_is_two_cache_lines_and_the_ledger_the_head_of_a_tier():
    assert PAGE.itemsize == 128
    assert TIER.names[:2] == ("capacity", "used")
    state = new_state(page_trace(rng_of(1)), tiers_for(rng_of(2), 3, 40, 90), "arc")
    state.tiers[1].used = 7
    assert state.ledger[1, 1] == 7 and np.shares_memory(state.ledger, state.tiers)
    assert state.ledger[:, 0].tolist() == state.tiers["capacity"].tolist()
    assert (state.page["tier"] == NONE).all()
