"""A window as several decisions with numbered actions: one call at a time, and `STOP`.

    action = 3 row + 0, 1, 2      evict, compress or swap what stands in this row of the view
    action = STOP                 nothing more: the window is played

    an action that its entry does not allow is refused, and counts as a call that failed
    after `MAX_CALLS_PER_STEP` calls the window is played by itself
    a window that is stopped without a call is a `keep`
    reward = by how much the return that the episode would end with now has grown; 0 within a window

Rows stay where they stand until the window is played: what is freed leaves its row empty. Rewards so sum
to the return of the episode, and the calls are an action log that `replay` plays again."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.numbers import numbered, shown
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.compiled import free
from kv_cache_rl.sim.eviction.actions import LOWEST, Verb
from kv_cache_rl.sim.eviction.calls import VERBS as TOOL_VERBS
from kv_cache_rl.sim.eviction.calls import named_calls
from kv_cache_rl.sim.eviction.columns import (
    CALL,
    EVENT,
    Counter,
    Place,
    Slot,
    Tier,
    cells,
    columns_of,
    constants_of,
    record,
)
from kv_cache_rl.sim.eviction.dynamics import begin_window, call, end_window, link_left
from kv_cache_rl.sim.eviction.entries import units_of
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.numbers import write_row, write_totals
from kv_cache_rl.sim.eviction.observe import HEAD, MAX_ROWS, ROW, look, look_again
from kv_cache_rl.sim.eviction.score import REWARDS, weighted_return
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP
from kv_cache_rl.sim.views import records


class DecisionError(Refused):
    """An action, a seed or a setting of an environment cannot be used; names it, and the remedy."""


VERBS = {name: verb for name, verb in TOOL_VERBS.items() if verb != Verb.KEEP}
"""What can be done to a row, in the order of its actions."""
_EACH, _TERMS = len(VERBS), len(REWARDS)
STOP = MAX_ROWS * _EACH
ACTIONS = STOP + 1
"""How many actions there are."""

DESK = record("made")  # calls of the window so far


class Seat(NamedTuple):
    """What an agent has before it: views of one int64 buffer, ``[seat_size(steps)]``."""

    desk: np.record
    """`DESK`"""
    head: np.record
    """`HEAD` of the view"""
    rows: np.ndarray
    """`ROW` ``[32]``"""
    calls: np.ndarray
    """`CALL` ``[steps * 16]``: the calls of each window, then `Verb.KEEP`"""


_HEAD_AT = cells(DESK)
_ROWS_AT = _HEAD_AT + cells(HEAD)
_CALLS_AT = _ROWS_AT + MAX_ROWS * cells(ROW)


class Room(NamedTuple):
    """What a decision takes to work in."""

    lists: np.ndarray
    """For `end_window`"""
    slots: np.ndarray
    """For `look`"""
    events: np.ndarray
    terms: np.ndarray


def seat_size(steps: int) -> int:
    """Cells of the buffer that goes with an episode of so many windows."""
    return _CALLS_AT + steps * MAX_CALLS_PER_STEP * cells(CALL)


def action_of(verb: str, row: int) -> int:
    """The number of the action that does this to a row of the view.

    >>> action_of("compress", 2)
    7
    """
    return row * _EACH + tuple(VERBS).index(verb)


def checked(action: object) -> int:
    """The action as Python's own integer (`core.numbers.numbered`).

    Raises:
        DecisionError: it is no whole number from 0 to 96.
    """
    number = numbered(action)
    if not 0 <= number < ACTIONS:
        raise DecisionError(f"action is {shown(action)}; give a whole number from 0 to {STOP}, which stops")
    return number


def calls_made(seat: np.ndarray, names: list[str], steps: int, windows: int) -> ActionLog:
    """The calls of the first `windows` windows as an action log; `names` are the ids by slot."""
    packed = seat[_CALLS_AT : seat_size(steps)].reshape(steps, MAX_CALLS_PER_STEP, -1)
    return [named_calls(names, window) for window in packed[:windows].tolist()]


@njit(inline="always")
def seat_of(buffer):
    """The views of a `Seat`."""
    return Seat(
        records(buffer[:_HEAD_AT], DESK)[0],
        records(buffer[_HEAD_AT:_ROWS_AT], HEAD)[0],
        records(buffer[_ROWS_AT:_CALLS_AT], ROW),
        records(buffer[_CALLS_AT:], CALL),
    )


@njit(inline="always")
def new_room(sessions, slots):
    """Room for the decisions of all episodes that have no more sessions and slots."""
    lists, order = np.empty((2, sessions + 1), np.int64), np.empty((2, slots + 1), np.int64)
    return Room(lists, order, np.empty(0, EVENT), np.empty(_TERMS))


@njit(inline="always")
def room_of(scn):
    """Room for the decisions of one episode."""
    return new_room(constants_of(scn).sessions, constants_of(scn).slots)


@uncounted
def sit(scn, live, seat, observed, mask, room):
    """Shows the window that begins."""
    s, c = seat_of(seat), columns_of(scn, live)
    s.desk.made = 0
    look(scn, live, s.rows, s.head, room.slots, True)
    observed[:] = 0.0
    _show(c, s, 0, s.head.rows, observed, mask, room)


@uncounted
def _show(c, s, first, last, observed, mask, room):
    """Writes what an agent sees, of the rows `first` to `last` - 1, and which actions are not refused."""
    made = s.desk.made
    write_totals(c, s.head, made, room.slots[0], room.slots[1], observed)
    for k in range(first, last):
        write_row(c, s.rows[k], k, observed)
    over = c.counters[Counter.WINDOW] >= c.constants.steps
    linked = c.counters[Counter.LINK_USED] if made else link_left(c)
    cpu_free = free(c.ledger, Tier.CPU)
    mask[:] = 0
    mask[STOP] = 1
    for k in range(0 if over else s.head.rows):
        i = s.rows[k].slot
        if c.dyn[Slot.PLACE, i] == Place.NOWHERE:
            continue
        mask[_EACH * k] = 1
        units = units_of(c.dyn, i)
        if c.dyn[Slot.PLACE, i] == Place.GPU and units > 0:
            mask[_EACH * k + 1] = c.dyn[Slot.LEVEL, i] < LOWEST
            mask[_EACH * k + 2] = units <= cpu_free and linked < c.constants.step_us


@uncounted
def _make(c, s, action, made):
    """Makes the call that an action means, `STOP` a `keep`, and keeps it for the log; returns its row."""
    row, verb, slot = action // _EACH, Verb.KEEP + 0, -1
    if action != STOP:
        verb = Verb.EVICT + action % _EACH
        slot = s.rows[row].slot if row < s.head.rows else -1
    call(c, verb, slot, made)
    kept = s.calls[c.counters[Counter.WINDOW] * MAX_CALLS_PER_STEP + made]
    kept.verb, kept.entry = verb, slot
    s.desk.made = made + 1
    return row


@uncounted
def decide(scn, live, seat, observed, mask, earned, action, room):
    """Takes one decision and shows what follows; returns its reward.

    Args:
        seat: int64 ``[seat_size(steps)]``, as `sit` or the decision before left it.
        observed, mask: float32 ``[NUMBERS]`` and int8 ``[ACTIONS]``, are written.
        earned: float64 ``[1]``, the return so far, of which the rewards are the steps.
    """
    s, c = seat_of(seat), columns_of(scn, live)
    made = s.desk.made
    if made == 0:
        begin_window(c)
    first = _make(c, s, action, made) if action != STOP or made == 0 else 0
    if action != STOP and made + 1 < MAX_CALLS_PER_STEP:
        last = min(first + 1, s.head.rows)
        if action % _EACH + Verb.EVICT == Verb.EVICT:
            # A shared prefix has one holder less.
            first, last = 0, s.head.rows
        look_again(scn, live, s.rows, s.head, first, last)
        _show(c, s, first, last, observed, mask, room)
        return 0.0
    end_window(c, room.events, room.lists)
    sit(scn, live, seat, observed, mask, room)
    before = earned[0]
    earned[0] = weighted_return(scn, live, room.terms)
    return earned[0] - before
