"""How many things run at a time: a gate with so many places, before which so many may wait."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from kv_cache_rl.adapters.http.errors import Problem

T = TypeVar("T")


class Gate:
    """So many at a time; more wait, and of those beyond `waiting` each is answered with 429."""

    def __init__(self, what: str, places: int, waiting: int, retry_after_s: float = 1.0) -> None:
        self.what, self.places, self.most, self.retry_after_s = what, places, waiting, retry_after_s
        self.running = self.waiting = 0
        self._free = asyncio.Semaphore(places)

    async def enter(self) -> None:
        """Takes a place. Raises Problem where too many wait for one already."""
        if self._free.locked() and self.waiting >= self.most:
            what = (
                f"{self.running} {self.what} run and {self.waiting} wait, which is all that this server takes"
            )
            raise Problem(429, f"{what}; try again", retry_after_s=self.retry_after_s)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1

    def leave(self) -> None:
        """Gives the place back."""
        self.running -= 1
        self._free.release()

    @asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """Holds a place while the block lasts."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()


class Threads:
    """Threads in which simulations run, so that no one of them holds up the answers to others."""

    def __init__(self, what: str, places: int, waiting: int) -> None:
        self.gate = Gate(what, places, waiting)
        self._pool: ThreadPoolExecutor | None = None

    async def __call__(self, work: Callable[..., T], *given: Any, **named: Any) -> T:
        """What `work` gives, done in one of the threads.

        A client that hangs up leaves its work running, and the place is free when the work is done.
        """
        await self.gate.enter()
        try:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.gate.places, thread_name_prefix=self.gate.what)
            done = asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *given, **named))
        except BaseException:
            self.gate.leave()
            raise
        done.add_done_callback(self._left)
        return await asyncio.shield(done)

    def _left(self, done: asyncio.Future) -> None:
        self.gate.leave()
        if not done.cancelled():
            done.exception()  # of work that no client waits for: asked, so that no warning is printed

    def close(self) -> None:
        """Ends the threads; work that is still wanted afterwards has new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)
