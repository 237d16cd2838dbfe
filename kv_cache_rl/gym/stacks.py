"""Servers in stacked buffers: one row each, stepped by compiled code on several threads."""

import numpy as np

from kv_cache_rl.gym.rows import Rows, unbegun
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import BOOK, BOOK_WORDS, Crash, columns_of, fixed_size, live_size
from kv_cache_rl.sim.serving.dynamics import step
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.spec import ServingError
from kv_cache_rl.sim.serving.state import State

WORTH_A_THREAD = 256
"""Servers below which handing a share to another thread takes longer than stepping it. Measured: 256 servers
go 1.1 times faster on one thread than on two, 512 go 1.3 times faster on two."""


class Stacks(Rows):
    """`count` servers; rows widen with the longest episode."""

    def __init__(self, count: int, threads: int) -> None:
        super().__init__(count, threads, len(RICH), len(ACTIONS))
        self.states: list[State | None] = [None] * count
        """What never changes of each server; its buffers are those it began with."""
        # Requests that a row has room for.
        self._room = 0
        self._fixed = self._live = np.zeros((count, 0), np.int64)
        self.ended, self.crashed = np.zeros(count, bool), np.zeros(count, bool)
        """Which episodes are over, and which of them ended early."""

    def begun(self, index: int) -> bool:
        return self.states[index] is not None

    @property
    def books(self) -> np.ndarray:
        """The books of all servers as they stand, `columns.BOOK` ``[count]``."""
        return self._live[:, :BOOK_WORDS].view(BOOK)[:, 0]

    def state(self, index: int) -> State:
        state = self.states[index]
        if state is None:
            raise unbegun(ServingError)
        fixed, live = self._fixed[index, : len(state.fixed)], self._live[index, : len(state.live)]
        return State(state.scenario, state.seed, state.load, fixed, live)

    def put(self, index: int, state: State) -> None:
        """Puts a copy of a server in place of server `index`."""
        self._make_room(len(state.load.table))
        self._fixed[index, : len(state.fixed)] = state.fixed
        self._live[index, : len(state.live)] = state.live
        self.states[index] = state
        look(*self.state(index).buffers, self.observed[index], self.masks[index])
        self.rewards[index] = 0.0
        self.ended[index], self.crashed[index] = state.done, bool(state.crashed)

    def step(self, actions: np.ndarray, skip: np.ndarray) -> None:
        buffers = self._fixed, self._live, self.observed, self.masks, self.rewards
        flags = self.ended, self.crashed
        self.spread(step_some, *buffers, *flags, actions, skip, worth=WORTH_A_THREAD)

    def _make_room(self, requests: int) -> None:
        """Widens the rows where an episode has more requests than all before."""
        if requests < self._room:
            return
        # A quarter more, so that episodes of about the same length do not all widen it.
        self._room = requests + requests // 4 + 1
        self.widen("_fixed", fixed_size(self._room))
        self.widen("_live", live_size(self._room))


@uncounted(nogil=True)
def step_some(fixed, live, observed, masks, rewards, ended, crashed, actions, skip, first, last):
    """One decision of servers `first` to `last` - 1 that are not to be skipped."""
    for e in range(first, last):
        if skip[e]:
            rewards[e] = 0.0
        else:
            c = columns_of(fixed[e], live[e])
            rewards[e] = step(c, observed[e], masks[e], actions[e])
            ended[e], crashed[e] = not c.book.alive, c.book.crash != Crash.NO
