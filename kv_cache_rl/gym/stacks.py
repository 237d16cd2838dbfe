"""Servers in stacked buffers: one row each, stepped by compiled code on several threads."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import BOOK, BOOK_WORDS, columns_of, fixed_size, live_size
from kv_cache_rl.sim.serving.dynamics import step
from kv_cache_rl.sim.serving.observe import RICH, look
from kv_cache_rl.sim.serving.spec import ServingError
from kv_cache_rl.sim.serving.state import State

WORTH_A_THREAD = 128
"""Servers below which handing a share to another thread takes longer than stepping it. Measured: 128 servers
go 1.5 times faster on one thread than on two, 256 go 1.35 times faster on two."""


class Stacks:
    """`count` servers, each with its view, mask and latest reward; rows widen with the longest episode."""

    def __init__(self, count: int, threads: int) -> None:
        self.count, self.threads = count, threads
        self.observed = np.zeros((count, len(RICH)), np.float32)
        self.masks = np.zeros((count, len(ACTIONS)), np.int8)
        self.rewards = np.zeros(count)
        self.states: list[State | None] = [None] * count
        """What never changes of each server; its buffers are those it began with."""
        # Requests that a row has room for.
        self._room = 0
        self._fixed = self._live = np.zeros((count, 0), np.int64)
        self._pool: ThreadPoolExecutor | None = None

    @property
    def books(self) -> np.ndarray:
        """The books of all servers as they stand, `columns.BOOK` ``[count]``."""
        return self._live[:, :BOOK_WORDS].view(BOOK)[:, 0]

    def state(self, index: int) -> State:
        """Server `index` as it stands: a view, valid until the next `put` or `step`.

        Raises:
            ServingError: it has not begun.
        """
        state = self.states[index]
        if state is None:
            raise ServingError("no episode is under way; call reset() first")
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

    def step(self, actions: np.ndarray, skip: np.ndarray) -> None:
        """One decision of every server that is not to be skipped."""
        workers = max(1, min(self.threads, self.count // WORTH_A_THREAD))
        bounds = [self.count * k // workers for k in range(workers + 1)]
        views = self.observed, self.masks
        arguments = self._fixed, self._live, *views, self.rewards, actions, skip
        if workers == 1:
            step_some(*arguments, 0, self.count)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1)
        others = [
            self._pool.submit(step_some, *arguments, bounds[k], bounds[k + 1]) for k in range(1, workers)
        ]
        step_some(*arguments, bounds[0], bounds[1])
        for other in others:
            other.result()

    def close(self) -> None:
        """Ends the threads; `step` makes them anew."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _make_room(self, requests: int) -> None:
        """Widens the rows where an episode has more requests than all before."""
        if requests < self._room:
            return
        # A quarter more, so that episodes of about the same length do not all widen it.
        self._room = requests + requests // 4 + 1
        for name, size in (("_fixed", fixed_size(self._room)), ("_live", live_size(self._room))):
            old, new = getattr(self, name), np.zeros((self.count, size), np.int64)
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def __getstate__(self) -> dict[str, Any]:
        # Threads are made anew where they are needed.
        return self.__dict__ | {"_pool": None}


@uncounted(nogil=True)
def step_some(fixed, live, observed, masks, rewards, actions, skip, first, last):
    """One decision of servers `first` to `last` - 1 that are not to be skipped."""
    for e in range(first, last):
        if skip[e]:
            rewards[e] = 0.0
        else:
            c = columns_of(fixed[e], live[e])
            rewards[e] = step(c, observed[e], masks[e], actions[e])
