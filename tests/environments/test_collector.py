"""An evaluation leaves the interpreter as it found it."""

import gc

import pytest
from kv_cache_eviction.runs import rarely_collected


def test_the_collector_is_as_before_after_an_evaluation_even_one_that_failed():
    before = gc.get_threshold()
    with pytest.raises(RuntimeError), rarely_collected():
        assert gc.get_threshold()[0] > before[0] and gc.get_freeze_count() > 0
        raise RuntimeError
    assert gc.get_threshold() == before and gc.get_freeze_count() == 0
