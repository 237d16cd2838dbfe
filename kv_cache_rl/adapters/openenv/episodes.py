"""What the environments share: one episode after the other, and the tasks of a world by split and index."""

from dataclasses import asdict
from typing import Any, Generic, TypeVar

from kv_cache_rl.adapters.openenv.tasks import Tasks
from kv_cache_rl.core.errors import Refused

World = TypeVar("World")
State = TypeVar("State")


class Episodes(Generic[World, State]):
    """One session. A package's environment is this and OpenEnv's `Environment`, which nothing here imports.

    Args:
        tasks: those of its world.
        state: before the first reset.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, tasks: Tasks, state: State) -> None:
        super().__init__()
        self.tasks = tasks
        self.world: World | None = None
        self.begun = 0
        """Episodes so far."""
        self._state = state

    @property
    def state(self) -> State:
        return self._state

    def begin(self, world: World, state: State) -> World:
        """The next episode, in place of the one before."""
        self.world, self._state = world, state
        self.begun += 1
        return world

    def played(self) -> World:
        """The world of the last episode. Raises Refused before the first."""
        if self.world is None:
            raise Refused(
                "no episode has begun in this session; send a reset over the WebSocket at /ws first "
                "(a POST to /step has a session of its own, which ends with its answer)"
            )
        return self.world

    # OpenEnv's task provider, by structure.

    def list_splits(self) -> list[dict[str, str]]:
        return self.tasks.listed_splits()

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        return self.tasks.listed(split)

    def num_tasks(self, split: str) -> int:
        return len(self.tasks.of(split))

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        return asdict(self.tasks.task(split, index))

    def get_task_range(
        self, split: str, start: int | None = None, stop: int | None = None
    ) -> list[dict[str, Any]]:
        return self.tasks.listed(split, start, stop)
