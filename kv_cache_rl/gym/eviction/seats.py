"""Caches in stacked buffers: one row each, stepped by compiled code on several threads."""

import numpy as np

from kv_cache_rl.gym.eviction.sources import Start
from kv_cache_rl.gym.rows import Rows, unbegun
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.columns import Counter, columns_of, constants_of
from kv_cache_rl.sim.eviction.decisions import ACTIONS, DecisionError, decide, new_room, seat_size, sit
from kv_cache_rl.sim.eviction.numbers import NUMBERS
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import State
from kv_cache_rl.sim.views import cells, record

WORTH_A_THREAD = 64
"""Caches below which handing a share to another thread takes longer than stepping it."""

PLAYED = record("window", "failures", "steps")
"""How far an episode is: windows played, requests failed, windows in all."""


class Seats(Rows):
    """`count` caches; rows widen with the largest scenario."""

    def __init__(self, count: int, threads: int) -> None:
        super().__init__(count, threads, NUMBERS, ACTIONS)
        self.playing: list[Scenario | None] = [None] * count
        self.episode_seeds = np.zeros(count, np.uint64)
        self.earned = np.zeros((count, 1))
        self._played = np.zeros((count, cells(PLAYED)), np.int64)
        self._scns = self._lives = self._seats = np.zeros((count, 0), np.int64)
        self._sizes = np.zeros((count, 3), np.int64)
        """Cells of each row's buffers that count"""

    @property
    def played(self) -> np.ndarray:
        """`PLAYED` ``[count]``"""
        return self._played.view(PLAYED)[:, 0]

    def begun(self, index: int) -> bool:
        return self.playing[index] is not None

    def state(self, index: int) -> State:
        if self.playing[index] is None:
            raise unbegun(DecisionError)
        scn, live, _ = self._sizes[index].tolist()
        return State(self._scns[index, :scn], self._lives[index, :live])

    def seat(self, index: int) -> np.ndarray:
        """The view and the calls of row `index`, as `decisions.decide` keeps them."""
        return self._seats[index, : self._sizes[index, 2]]

    def put(self, index: int, start: Start, seed: int) -> None:
        """Begins an episode in row `index`."""
        scenario, first = start
        sizes = len(first.scn), len(first.live), seat_size(scenario.steps)
        for name, size in zip(("_scns", "_lives", "_seats"), sizes, strict=True):
            self.widen(name, size)
        self._sizes[index] = sizes
        self._scns[index, : sizes[0]], self._lives[index, : sizes[1]] = first
        self._seats[index] = 0
        self.playing[index], self.episode_seeds[index] = scenario, seed
        self.earned[index] = self.rewards[index] = 0.0
        sit_one(*self._buffers(), self._played, index)

    def step(self, actions: np.ndarray, skip: np.ndarray) -> None:
        buffers = *self._buffers(), self.earned, self.rewards, self._played
        self.spread(decide_some, *buffers, actions, skip, worth=WORTH_A_THREAD)

    def _buffers(self) -> tuple[np.ndarray, ...]:
        return self._scns, self._lives, self._seats, self.observed, self.masks


@njit
def sit_one(scns, lives, seats, observed, masks, played, e):
    """Shows the first window of row `e`."""
    sit(scns[e], lives[e], seats[e], observed[e], masks[e], _room_for(scns, e, e + 1))
    _record(scns[e], lives[e], played[e])


@njit(nogil=True)
def decide_some(scns, lives, seats, observed, masks, earned, rewards, played, actions, skip, first, last):
    """One decision of rows `first` to `last` - 1 that are not to be skipped."""
    room = _room_for(scns, first, last)
    for e in range(first, last):
        if skip[e]:
            rewards[e] = 0.0
        else:
            now = scns[e], lives[e], seats[e], observed[e], masks[e]
            rewards[e] = decide(*now, earned[e], actions[e], room)
            _record(scns[e], lives[e], played[e])


@njit
def _room_for(scns, first, last):
    """Room for the decisions of all these rows, one after the other."""
    sessions = slots = 0
    for e in range(first, last):
        sessions = max(sessions, constants_of(scns[e]).sessions)
        slots = max(slots, constants_of(scns[e]).slots)
    return new_room(sessions, slots)


@njit
def _record(scn, live, played):
    c = columns_of(scn, live)
    played[0], played[1] = c.counters[Counter.WINDOW], c.counters[Counter.FAILURES]
    played[2] = c.constants.steps
