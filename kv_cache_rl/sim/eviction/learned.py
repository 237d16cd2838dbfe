"""`learned`: the weighing of `tuned`, with a small network's factors on what every pair costs.

    e[k] = relu(W x[k] + b)                 what one entry says, from its row of the view
    p    = max over k of e[k]               what all of them say together
    c    = relu(W [g, p] + b)               what the head of the view says, and all entries
    z[k] = relu(W [e[k], c] + b)            one entry in this situation
    f[k] = factor(W z[k] + b)               on its return, its losses at 8 and 4 bits, its swap, its recompute
    f    = factor(W c + b)                  on what is wished free, on what is cheap; and what must be free
    weigh every (entry, action) pair with these costs

The maximum does not depend on the order of the entries, so neither do the calls. A factor is 1 where
the last layers are zero: there `learned` is `tuned`. No exponential, no logarithm: every machine rounds
alike."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core.precision import WORK_CLASSES
from kv_cache_rl.jit import njit, uncounted
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, LOWEST
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.network import ENTRY, HEAD, HIDDEN, NETWORK, Factor, Situation
from kv_cache_rl.sim.eviction.numbers import over
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, Status
from kv_cache_rl.sim.eviction.trained import LEARNED
from kv_cache_rl.sim.eviction.tuned import expect, wanted
from kv_cache_rl.sim.eviction.weighing import LEVELS, PRICED, Priced, choose

_COMMITTED = LEARNED.weights.view(NETWORK)
_KINDS, _STATES, _CLASSES, _FACTORS = len(Kind), len(Status), len(WORK_CLASSES), len(Factor)
_ENTRY, _HEAD = len(ENTRY), len(HEAD)
_FROM_STATE, _FROM_CLASS = _KINDS, _KINDS + _STATES
_FROM_NUMBER = _FROM_CLASS + _CLASSES


class Room(NamedTuple):
    """What the network works in."""

    x: np.ndarray
    """``[ENTRY]``: one entry's features"""
    g: np.ndarray
    """``[HEAD]``: the head's"""
    e: np.ndarray
    """``[MAX_ROWS, HIDDEN]``"""
    pooled: np.ndarray
    context: np.ndarray
    shared: np.ndarray
    """``[HIDDEN]``; the last is what the context adds to every entry"""


@njit(inline="always")
def new_room():
    return Room(
        np.empty(_ENTRY),
        np.empty(_HEAD),
        np.empty((MAX_ROWS, HIDDEN)),
        np.empty(HIDDEN),
        np.empty(HIDDEN),
        np.empty(HIDDEN),
    )


@uncounted
def factor(x):
    """A positive factor: 1 at 0, 1 + x above, 1 / (1 - x) below."""
    return 1.0 + x if x >= 0.0 else 1.0 / (1.0 - x)


@uncounted
def write_entry(row, head, x):
    """Writes the features of a row, in the order of `ENTRY`."""
    for k in range(_FROM_NUMBER):
        x[k] = 0.0
    x[row.kind] = 1.0
    x[_FROM_STATE + row.status] = 1.0
    x[_FROM_CLASS + row.work_class] = 1.0
    size = row.pages * (UNITS_PER_PAGE >> row.level)
    a = _FROM_NUMBER
    x[a] = 1.0 if row.place == Place.CPU else 0.0
    x[a + 1] = row.level / LOWEST
    x[a + 2] = over(size, 0.05 * head.budget)
    x[a + 3] = over(size, head.link_units + 1.0)
    x[a + 4] = row.priority / 100.0
    x[a + 5] = row.value / 100.0
    x[a + 6] = over(row.idle, 4.0)
    x[a + 7] = over(row.reload, 10.0)


@uncounted
def write_head(head, g):
    """Writes the features of a head, in the order of `HEAD`."""
    budget = head.budget * 1.0
    g[0] = (head.budget - head.used) / budget
    g[1] = over(head.need, budget)
    g[2] = over(head.need_first, budget)
    g[3] = over(head.queued, 4.0)
    g[4] = over(head.wait_first, 10.0)
    g[5] = over(head.backlog_ms, 4000.0)
    g[6] = over(max(head.cpu - head.cpu_used, 0), budget)
    g[7] = over(head.link_units, budget)
    g[8] = over(head.left, 8.0)


@uncounted
def _summed(weights, k, x, total):
    """`total` and the row `k` of a layer times its input."""
    for j in range(len(x)):
        total += weights[k, j] * x[j]
    return total


@uncounted
def _read(rows, n, head, net, room):
    """Fills the room: what each entry says, and what they and the head add to every entry."""
    for j in range(HIDDEN):
        room.pooled[j] = 0.0
    for k in range(n):
        write_entry(rows[k], head, room.x)
        for j in range(HIDDEN):
            room.e[k, j] = max(_summed(net.entry, j, room.x, net.entry_bias[j]), 0.0)
            room.pooled[j] = max(room.pooled[j], room.e[k, j])
    write_head(head, room.g)
    for j in range(HIDDEN):
        said = _summed(net.head, j, room.g, net.context_bias[j])
        room.context[j] = max(_summed(net.pooled, j, room.pooled, said), 0.0)
    for j in range(HIDDEN):
        room.shared[j] = _summed(net.shared, j, room.context, net.pair_bias[j])


@uncounted
def _price(k, net, room, chance, loss, priced):
    """Multiplies what is expected of entry `k` by its factors. What is never read stays so."""
    z, found = room.pooled, room.x  # both have been used
    for j in range(HIDDEN):
        z[j] = max(_summed(net.pair, j, room.e[k], room.shared[j]), 0.0)
    for j in range(_FACTORS):
        found[j] = factor(_summed(net.factors, j, z, net.factors_bias[j]))
    chance[k] *= found[Factor.RETURN]
    eight, four = loss[k, 1], loss[k, 2] - loss[k, 1]
    loss[k, 1] = eight * found[Factor.INT8]
    loss[k, 2] = loss[k, 1] + four * found[Factor.INT4]
    priced[k, Priced.SWAP] = found[Factor.SWAP]
    priced[k, Priced.RECOMPUTE] = found[Factor.RECOMPUTE]


@uncounted
def choose_learned(rows, n, head, net, allowed, chance, loss, priced, room, out, costs, notes):
    """Writes the calls of the weighing with a `NETWORK` record into `out`, of the `allowed` verbs; returns
    how many. The rest is room."""
    w = net.constants
    expect(rows, n, head, w, chance, loss)
    _read(rows, n, head, net, room)
    for k in range(n):
        _price(k, net, room, chance, loss, priced)
    must = w.must + 100.0 * _summed(
        net.situation, Situation.MUST, room.context, net.situation_bias[Situation.MUST]
    )
    wish = w.wish * factor(
        _summed(net.situation, Situation.WISH, room.context, net.situation_bias[Situation.WISH])
    )
    cheap = w.cheap * factor(
        _summed(net.situation, Situation.CHEAP, room.context, net.situation_bias[Situation.CHEAP])
    )
    must, wish = wanted(head, must, w), wanted(head, wish, w)
    return choose(rows, n, head, chance, loss, priced, must, wish, cheap, w, allowed, out, costs, notes)


@njit
def learned(rows, head, out):
    """The decider with the committed network."""
    n = head.rows
    chance, loss, priced, costs = np.empty(n), np.empty((n, LEVELS)), np.empty((n, PRICED)), np.empty(n)
    notes, net = np.empty((2, n), np.int64), _COMMITTED[0]
    return choose_learned(rows, n, head, net, ALL_VERBS, chance, loss, priced, new_room(), out, costs, notes)
