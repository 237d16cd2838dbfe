"""Environments as rows of stacked buffers, which compiled code steps on several threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kv_cache_rl.core.errors import Refused


class Rows:
    """`count` environments, each with what it shows, its mask and its latest reward."""

    def __init__(self, count: int, threads: int, numbers: int, actions: int) -> None:
        self.count, self.threads = count, threads
        self.observed = np.zeros((count, numbers), np.float32)
        self.masks = np.zeros((count, actions), np.int8)
        self.rewards = np.zeros(count)
        self._pool: ThreadPoolExecutor | None = None

    def begun(self, index: int) -> bool:
        """Whether an episode stands in this row."""
        raise NotImplementedError

    def state(self, index: int) -> Any:
        """Environment `index` as it stands: a view, valid until the next episode or decision in this row.

        Raises:
            Refused: it has not begun.
        """
        raise NotImplementedError

    def step(self, actions: np.ndarray, skip: np.ndarray) -> None:
        """One decision of every environment that is not to be skipped."""
        raise NotImplementedError

    def spread(self, work: Callable, *arguments: Any, worth: int) -> None:
        """Does ``work(*arguments, first, last)`` for all rows, on as many threads as pay.

        Args:
            worth: rows below which handing a share to another thread takes longer than doing it.
        """
        workers = max(1, min(self.threads, self.count // worth))
        bounds = [self.count * k // workers for k in range(workers + 1)]
        if workers == 1:
            work(*arguments, 0, self.count)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads - 1)
        others = [self._pool.submit(work, *arguments, bounds[k], bounds[k + 1]) for k in range(1, workers)]
        work(*arguments, bounds[0], bounds[1])
        for other in others:
            other.result()

    def widen(self, name: str, cells: int) -> None:
        """Makes the rows of a buffer, int64, at least so long."""
        old = getattr(self, name)
        if old.shape[1] < cells:
            new = np.zeros((self.count, cells), np.int64)
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def close(self) -> None:
        """Ends the threads; `step` makes them anew."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def __getstate__(self) -> dict[str, Any]:
        # Threads are made anew where they are needed.
        return self.__dict__ | {"_pool": None}


def unbegun(error: type[Refused]) -> Refused:
    """What is said where no episode is under way."""
    return error("no episode is under way; call reset() first")
