"""The columns of a server: every word of its buffers has one name, and names lead to the buffers."""

import json

import numpy as np
import pytest
from driving import Face, bytes_of, serve_all

from kv_cache_rl.sim.serving import columns as s
from kv_cache_rl.sim.serving.dynamics import act, new_state
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH, SIGNED, new_view
from kv_cache_rl.sim.serving.score import METRICS, TERM_WEIGHTS, WEIGHTS, report
from kv_cache_rl.sim.serving.spec import task
from kv_cache_rl.sim.views import cells

RECORDS = {
    name: getattr(s, name)
    for name in ("REQUEST", "ROW", "LIMITS", "SETTINGS", "TERMS", "LIST", "LANE", "BOOK")
}


def played(decisions=200):
    """A server under load."""
    face = Face(new_state(task("medium", ticks=300, gpu_blocks=900, rho=1.5, rho_peak=2.0), 4))
    for _ in range(decisions):
        face.act(serve_all(face.mask))
    return face.state


@pytest.mark.parametrize("name", RECORDS)
def test_every_word_of_a_record_has_exactly_one_name(name):
    record, named = RECORDS[name], []
    for field, start in record.fields.values():
        named += range(start // 8, (start + field.itemsize) // 8)
    assert named == list(range(cells(record)))


def test_every_word_of_the_buffers_is_in_one_column():
    state = played()
    for buffer, names in (
        (state.fixed, ("settings", "requests")),
        (state.live, ("book", "rows", "running", "plan")),
    ):
        before, views = buffer.copy(), [np.asarray(getattr(state.columns, name)) for name in names]
        assert sum(view.nbytes for view in views) == buffer.nbytes
        assert b"".join(view.tobytes() for view in views) == before.tobytes()
        assert all(np.shares_memory(getattr(state.columns, name), buffer) for name in names if name[0] in "r")


def test_terms_are_the_units_of_now_by_name():
    state = played()
    assert list(state.columns.terms.tolist()) == state.columns.book["units"][s.NOW].tolist()
    assert tuple(TERM_WEIGHTS) == s.TERMS.names and tuple(TERM_WEIGHTS.values()) == WEIGHTS
    state.columns.terms["dropped"] += 5
    assert (
        state.columns.book["units"][s.NOW, s.TERMS.names.index("dropped")]
        == state.columns.terms["dropped"]
        >= 5
    )


def test_spare_room_behind_the_columns_changes_nothing():
    tight, wide = played(), played()
    fixed, live = (np.concatenate([buffer, np.full(99, -7)]) for buffer in wide.buffers)
    (seen, mask), (seen_wide, mask_wide) = new_view(), new_view()
    for action in (8, 9, 2, 17, 4, 17, 17):
        rewards = act(*tight.buffers, seen, mask, action), act(fixed, live, seen_wide, mask_wide, action)
        assert rewards[0] == rewards[1]
    assert bytes_of(tight) == [fixed[:-99].tobytes(), live[:-99].tobytes()]
    assert (live[-99:] == -7).all() and seen.tobytes() == seen_wide.tobytes()


def test_forced_preemptions_count_the_tokens_they_threw_away():
    state = new_state(task("hard", ticks=800, gpu_blocks=700), 2)
    face, lost = Face(state), 0
    while not state.done:
        tokens, forced = state.columns.rows["tokens"].copy(), int(state.columns.terms["forced_preemption"])
        face.act(8 + face.ticks % 2 if face.mask[8 + face.ticks % 2] else 17)
        if state.columns.terms["forced_preemption"] > forced:
            gone = (state.columns.rows["status"] == s.QUEUED) & (state.columns.rows["tokens"] == 0)
            lost += int(tokens[gone].sum())
    assert int(state.columns.book["tokens_preempted"]) >= lost > 0


def test_metrics_and_views_name_what_there_is():
    found = report(played())
    assert set(METRICS) == set(json.loads(json.dumps(found.to_json()))) - {"task", "seed", "total_reward"}
    assert len(RICH) == 24 and len(OBSERVATION) == 20 and set(SIGNED) < set(RICH)
