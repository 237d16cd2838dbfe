"""What lists of calls earn in futures, with the weighing playing on: compiled."""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.search.eviction.imagining import imagine
from kv_cache_rl.search.eviction.proposals import new_desk
from kv_cache_rl.search.eviction.rollout import weigh_to_the_end
from kv_cache_rl.sim.eviction.actions import ALL_VERBS
from kv_cache_rl.sim.eviction.columns import CALL, calls_of, constants_of
from kv_cache_rl.sim.eviction.constants import CONSTANTS
from kv_cache_rl.sim.eviction.deciders import MAX_OUT
from kv_cache_rl.sim.eviction.dynamics import advance
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, head_of, rows_of
from kv_cache_rl.sim.eviction.tuned import choose_tuned
from kv_cache_rl.sim.eviction.weighing import LEVELS, PRICED


@njit(nogil=True)
def in_state(scn, live, places, calls, counts, weights, which, values):
    """Writes the return of each list of calls in one state into `values` ``[C]``.

    Args:
        places: int64 ``[rows]``, the slot of each row; negative ones count from the last slot.
        calls: int64 ``[C, MAX_OUT, 2]``, verb and row; counts: int64 ``[C]``, how many of them count.
        weights: float64 ``[W, D]``, constants of the weighing; which: int64 ``[C]``, those that play on.
    """
    desk, trial, slots = new_desk(scn), np.empty_like(live), constants_of(scn).slots
    steps = constants_of(scn).steps
    log, logged, first = np.empty((steps, MAX_OUT), CALL), np.empty(steps, np.int64), np.empty(MAX_OUT, CALL)
    for k in range(len(counts)):
        for j in range(counts[k]):
            place = places[calls[k, j, 1]]
            first[j].verb, first[j].entry = calls[k, j, 0], place if place >= 0 else slots + place
        trial[:] = live
        advance(scn, trial, first[: counts[k]], desk.results, desk.events, desk.lists)
        plan = (weights[which[k]], ALL_VERBS, False, 0)
        values[k] = weigh_to_the_end(scn, trial, desk, plan, log, logged)


@njit(nogil=True)
def in_futures(rng, known, calls, counts, weights, which, values):
    """`in_state` in as many futures as `values` ``[futures, C]`` has rows, drawn from what is `known`."""
    for f in range(len(values)):
        scn, live = imagine(rng, known)
        in_state(scn, live, known.places, calls, counts, weights, which, values[f])


@njit
def weighed(rows, head, weights, out):
    """The calls of the weighing with any constants on a view, as `decide_view` writes them; how many."""
    n, room = head_of(head).rows, calls_of(out)
    chance, loss, usual = np.empty(MAX_ROWS), np.empty((MAX_ROWS, LEVELS)), np.ones((MAX_ROWS, PRICED))
    costs, notes = np.empty(MAX_ROWS), np.empty((2, MAX_ROWS), np.int64)
    return choose_tuned(
        rows_of(rows), n, head_of(head), weights.view(CONSTANTS)[0], ALL_VERBS, chance, loss, usual, room,
        costs, notes,
    )  # fmt: skip
