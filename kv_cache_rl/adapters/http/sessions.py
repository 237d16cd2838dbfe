"""Sessions: a server or an episode that a client plays step by step, for as long as it is not left alone.

    POST /api/sessions            step, reset, state                DELETE, or left alone for `idle_s`
nothing ----------------> open ---------------------> open --------------------------------------> gone
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.limits import Limits


class World(Protocol):
    """What a session plays."""

    kind: str
    """serving or eviction."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes, roughly."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that a client may know of it."""
        ...


@dataclass(slots=True)
class Session:
    """One client's world."""

    id: str
    world: Any
    used: float
    """When it was last asked, by the store's clock."""
    held: int = 0
    """Memory that is counted for it."""
    busy: bool = False
    slot: int = 0
    """Its number among all that play now, which metrics name it by: the id is a secret."""
    told: Any = field(default=None)
    """Its numbers as the metrics show them."""


class Sessions:
    """The sessions of a server.

    Args:
        clock: seconds.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        self.sweep()
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._open.values()))

    @property
    def nbytes(self) -> int:
        return sum(one.held for one in self._open.values())

    def sweep(self) -> None:
        """Forgets what was left alone."""
        before = self.clock() - self.limits.idle_s
        for one in self:
            if one.used < before and not one.busy:
                del self._open[one.id]

    def room(self, bytes: int = 0) -> None:
        """Raises Problem where no more session, or no more memory, is given away."""
        self.sweep()
        most, memory = self.limits.sessions, self.limits.session_bytes
        oldest = min((one.used for one in self), default=self.clock())
        wait = min(max(oldest + self.limits.idle_s - self.clock(), 1.0), 60.0)
        if len(self._open) >= most:
            what = f"{len(self._open)} sessions are open, which is all that this server keeps"
            raise Problem(429, f"{what}; delete one of yours, or try again", retry_after_s=wait)
        if self.nbytes + bytes > memory:
            what = f"the sessions hold {self.nbytes:,} bytes of {memory:,}, and this one takes {bytes:,}"
            raise Problem(429, f"{what}; delete one of yours, or ask for fewer ticks", retry_after_s=wait)

    def add(self, world: World, id: str | None = None) -> Session:
        """A new session. Raises Problem where there is no room for it."""
        self.room(world.nbytes)
        numbers = {one.slot for one in self}
        slot = next(k for k in range(len(numbers) + 1) if k not in numbers)
        one = Session(id or secrets.token_urlsafe(16), world, self.clock(), world.nbytes, slot=slot)
        self._open[one.id] = one
        return one

    def has(self, id: str) -> bool:
        """Whether a session of that id is open."""
        self.sweep()
        return id in self._open

    def room_for(self, one: Session, bytes: int) -> None:
        """Raises Problem where a session may not grow to this size."""
        more = self.nbytes - one.held + bytes
        if more > self.limits.session_bytes:
            what = f"the sessions would hold {more:,} bytes of {self.limits.session_bytes:,}"
            raise Problem(429, f"{what}; ask for fewer ticks, or try again", None, None, 60.0)

    def find(self, id: str) -> Session:
        """The session of that id, which counts as asked. Raises Problem for one that is not open."""
        self.sweep()
        one = self._open.get(id)
        if one is None:
            what = f"there is no session {id[:40]!r}"
            idle = f"it was deleted, or left alone for {self.limits.idle_s:g} s"
            raise Problem(404, f"{what}: perhaps {idle}; open one with POST /api/sessions", "id")
        one.used = self.clock()
        return one

    @asynccontextmanager
    async def using(self, id: str) -> AsyncIterator[Session]:
        """The session, for this request alone. Raises Problem where another request uses it now."""
        one = self.find(id)
        if one.busy:
            what = "another request uses this session now"
            raise Problem(409, f"{what}; send one after the other", "id", None, 1.0)
        one.busy = True
        try:
            yield one
        finally:
            one.busy, one.used, one.held = False, self.clock(), one.world.nbytes

    def remove(self, id: str) -> None:
        """Ends a session. Raises Problem for one that is not open, or is used now."""
        if self.find(id).busy:
            raise Problem(409, "another request uses this session now; delete it later", "id", None, 1.0)
        del self._open[id]
