"""What goes over the wire: an action, an observation, a state."""

from typing import Any

from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field


class KvCacheEvictionAction(Action):
    """The calls of one window."""

    calls: str | list[str] = Field(
        description="evict ID, compress ID, swap_to_cpu ID or keep; several with commas, or as a list"
    )


class KvCacheEvictionObservation(Observation):
    """What is seen before a window."""

    rules: str = Field("", description="the task and the rules, at the beginning of an episode alone")
    results: list[str] = Field([], description="what became of each call of the window before")
    window: int = Field(0, description="the window to decide, from 1 on")
    view: dict[str, Any] = Field(
        {}, description="the cache before the window, empty once the episode is over"
    )


class KvCacheEvictionState(State):
    """Where an episode stands; what it has earned is told at its end alone."""

    task: str | None = Field(None, description="the id of the scenario")
    split: str | None = None
    index: int | None = Field(None, description="the task's place in its split")
    view: str | None = Field(None, description="brief or full")
