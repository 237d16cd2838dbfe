"""The brief view: short, read back as it was written, and naming whatever lies in the cache."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import (
    DECIDERS,
    DIFFICULTIES,
    SYSTEM_PROMPTS,
    TOOLS,
    Call,
    Episode,
    play,
    replay,
)
from kv_cache_rl.sim.eviction.brief import SHOWN, aliases, brief, read_brief
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place, Slot
from kv_cache_rl.sim.eviction.observe import BITS, Head, Row, Status, new_view
from kv_cache_rl.sim.eviction.text import CLASSES, TYPES

FIELDS = ["left", "used", "cpu_free", "link", "backlog_s", "queued", "need", "queue", "rows", "rest"]
SECRET = re.compile(r"reward|score|toleran|penalt|regret|floor|\bbest\b|failur|future|turns", re.IGNORECASE)
WHOLE = 1_000 * UNITS_PER_PAGE
"""A budget of which a page is a thousandth."""

ROWS = st.lists(
    st.builds(
        dict,
        kind=st.sampled_from([kind for kind in range(len(TYPES)) if kind != Kind.SYSTEM]),
        work_class=st.integers(0, len(CLASSES) - 1),
        status=st.sampled_from(list(map(int, Status))),
        pages=st.integers(0, 999),
        level=st.integers(0, len(BITS) - 1),
        place=st.sampled_from([int(Place.GPU), int(Place.CPU)]),
        priority=st.integers(0, 100),
        value=st.integers(0, 100),
        idle=st.integers(0, 14),
        reload=st.integers(0, 400),
    ),
    max_size=SHOWN,
)


def viewed(made: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """A view of these rows, with numbers in its head that a page divides."""
    rows, head = new_view()
    zero = dict.fromkeys(Row._fields, 0)
    for k, row in enumerate(made):
        rows[k] = Row(**{**zero, "slot": k, "prefix": -1, **row})
    told = {"rows": len(made), "left": 9, "budget": WHOLE, "used": WHOLE // 2, "cpu": WHOLE}
    told |= {"cpu_used": WHOLE // 4, "queued": 1, "need": 40 * UNITS_PER_PAGE, "backlog_ms": 1_400}
    head[:] = Head(**dict.fromkeys(Head._fields, 0) | told)
    return rows, head


@given(ROWS)
def test_what_is_written_is_read_back(made):
    rows, head = viewed(made)
    queue = [["zz", 40, 1.5]]
    values = json.loads(json.dumps(brief(rows, head, aliases(len(made)), queue)))
    read, read_head, ids = read_brief(values)
    assert brief(read, read_head, ids, queue) == values
    back = Head._make(read_head.tolist())
    assert (back.used, back.cpu - back.cpu_used) == (WHOLE // 2, WHOLE * 3 // 4)
    assert (back.need_first, back.wait_first, back.backlog_ms) == (40 * UNITS_PER_PAGE, 15, 1_000)
    for k, name in enumerate(ids):
        was, now = made[aliases(len(made)).index(name)], Row._make(read[k].tolist())
        for column in ("kind", "work_class", "level", "place", "value", "idle"):
            assert getattr(now, column) == was[column], column
        assert 0 <= was["priority"] - now.priority < 10  # what is risky at 50 and 70 stays so
        assert abs(was["reload"] - now.reload) <= 9 and (now.reload > 0) == (was["reload"] > 0)
        assert abs((was["pages"] - now.pages) >> now.level) <= 1
        assert now.status == was["status"]


def test_the_rows_are_those_that_can_give_memory_the_largest_first():
    code, reasoning = CLASSES.index("code"), CLASSES.index("reason")
    told = [
        ("b", {"kind": Kind.EPHEMERAL, "pages": 5}),
        ("a", {"kind": Kind.REASONING, "pages": 4}),
        ("j", {"status": Status.DECODE, "level": 1, "pages": 120, "work_class": code}),
        ("c", {"status": Status.IDLE, "level": 2, "pages": 200}),
        ("d", {"status": Status.DECODE, "level": 0, "pages": 45, "work_class": reasoning}),
        ("e", {"status": Status.REASONING, "level": 1, "pages": 900, "work_class": reasoning}),
        ("f", {"status": Status.DECODE, "level": 2, "pages": 999, "work_class": code}),
        ("g", {"place": Place.CPU, "pages": 999}),
    ]
    made = [{"kind": Kind.CONTEXT, "place": Place.GPU, **row} for _, row in told]
    rows, head = viewed(made)
    shown = brief(rows, head, [name for name, _ in told], [])["rows"]
    assert [text.split()[0] for text in shown] == ["b", "a", "j", "c", "d", "e", "f", "g"]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_every_prompt_is_short_has_its_fields_in_order_and_tells_no_secret(kit, difficulty):
    for name in ("weigh_value", "keep", "swap_all"):
        episode, decide = Episode(kit.generate(difficulty, 1), "brief"), DECIDERS[name]()
        while not episode.done:
            text = episode.prompt()
            values = json.loads(text)
            assert len(text) <= 1_000 and len(values["rows"]) <= SHOWN
            assert list(values) == FIELDS and not SECRET.search(text)
            episode.step(decide(values))


@pytest.mark.parametrize("name", DECIDERS)
def test_a_log_holds_the_scenarios_own_ids_whatever_was_shown(kit, name):
    scenario = kit.generate("hard", 2)
    episode = play(Episode(scenario, "brief"), DECIDERS[name]())
    assert replay(scenario, episode.log).total == episode.report().total
    shown = {alias for alias in episode.shown if alias}
    assert not shown & {words[-1] for window in episode.log for words in window}


def test_an_id_that_is_not_shown_can_still_be_named(kit):
    episode = Episode(kit.generate("hard", 3), "brief")
    dyn = episode._columns.dyn
    hidden: list[int] = []
    while len(hidden) < 2:
        episode.step([Call("keep")])
        seen = {row.split()[0] for row in episode.observation()["rows"]}
        there = np.flatnonzero((dyn[Slot.PLACE] == Place.CPU) & (dyn[Slot.PAGES] > 0)).tolist()
        hidden = [slot for slot in there if episode.shown[slot] not in seen]
    by_alias, by_own_id = episode.shown[hidden[0]], episode.names[hidden[1]]
    assert episode.step([Call("evict", by_alias), Call("evict", by_own_id)]) == ["ok", "ok"]
    assert episode.log[-1] == [["evict", episode.names[slot]] for slot in hidden[:2]]


def test_an_id_is_given_when_its_entry_comes_and_tells_nothing_of_those_to_come(kit):
    episode = Episode(kit.generate("easy", 4), "brief")
    first = [name for name in episode.shown if name]
    assert sorted(first, key=lambda name: (len(name), name)) == aliases(len(first))
    assert len(first) < len(episode.names)
    unborn = episode.shown.index("")
    assert episode.step([Call("evict", aliases(len(episode.names))[-1])])[0].startswith("refused: no entry")
    assert episode.shown[unborn] == "" or episode.shown[unborn] not in first


def test_a_view_that_does_not_exist_is_refused_by_name(kit):
    with pytest.raises(Refused, match=r"breif.*full, brief|breif.*full.*brief"):
        Episode(kit.generate("easy", 1), "breif")


@pytest.mark.parametrize(
    "junk", [{}, [], None, {"rows": []}, {"cpu_free": 1, "rows": ["a b c"]}, {"cpu_free": 1, "rows": [7]}]
)
def test_what_is_no_brief_observation_is_named_so(junk):
    with pytest.raises(ValueError, match="not a brief observation of the eviction environment"):
        read_brief(junk)


def test_the_brief_prompt_and_the_tools_hold_every_rule_number():
    told = SYSTEM_PROMPTS["brief"] + json.dumps(TOOLS)
    for fact in ("15 windows", "up to 16", "more than 5 windows", "800", "950", "4 bits", "8"):
        assert fact in told, fact
    for word in ("code", "reason", "think", "ephemeral", "context", "tool", "gen"):
        assert word in told, word
