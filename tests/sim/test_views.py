"""The views that compiled code makes of a packed buffer are those that numpy makes."""

import numpy as np
import pytest

from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.views import records, table

PAIR = np.dtype((np.record, np.dtype([("left", np.int64), ("right", np.int64)], align=True)))


@uncounted
def swapped(buffer):
    """Exchanges both fields of every record, and returns the sum of the second ones."""
    pairs, total = records(buffer, PAIR), 0
    for k in range(len(pairs)):
        pairs[k].left, pairs[k].right = pairs[k].right, pairs[k].left
        total += pairs[k].right
    return total


@njit
def counted(buffer, rows):
    """A table that outlives the function which made it, and its records."""
    return table(buffer, rows, len(buffer) // rows), records(buffer, PAIR)


@pytest.mark.parametrize("shape", [(8,), (4, 2), (2, 2, 2), (0,), (0, 2)])
def test_records_lie_in_the_buffers_own_memory(shape):
    buffer = np.arange(np.prod(shape)).reshape(shape)
    before = records(buffer.copy(), PAIR)
    assert swapped(buffer) == before["left"].sum()
    after = records(buffer, PAIR)
    assert after["left"].tolist() == before["right"].tolist()
    assert np.shares_memory(after, buffer) or not buffer.size


def test_a_table_and_records_that_leave_compiled_code_keep_their_memory_alive():
    rows, pairs = counted(np.arange(12), 3)
    assert np.array_equal(rows, np.arange(12).reshape(3, 4)) and rows.flags.c_contiguous
    assert pairs["right"].tolist() == [1, 3, 5, 7, 9, 11]
    rows[2, 3] = -1
    assert pairs["right"][5] == -1


def test_a_buffer_that_must_not_change_gives_a_view_that_must_not():
    frozen = np.frombuffer(np.arange(4).tobytes(), np.int64)
    rows, _ = counted(frozen, 2)
    assert rows.tolist() == [[0, 1], [2, 3]] and not rows.flags.writeable
