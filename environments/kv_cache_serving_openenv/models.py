"""What goes over the wire: an action, an observation, a state."""

from typing import Annotated, Literal

from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field

from kv_cache_rl.agents.chat_text import MOST_REPEAT
from kv_cache_rl.sim.serving.actions import ACTIONS

Name = Literal[*ACTIONS]
Number = Annotated[int, Field(strict=True, ge=0, lt=len(ACTIONS))]


class KvCacheServingAction(Action):
    """One decision, or the same one in several ticks."""

    action: Name | Number = Field(description="one that is possible now; another costs a decision")
    repeat: int = Field(
        1, ge=1, le=MOST_REPEAT, description="once in each of so many ticks, where it is possible"
    )


class KvCacheServingObservation(Observation):
    """What is seen before a decision."""

    rules: str = Field("", description="the task and the rules, at the beginning of an episode alone")
    view: list[float] = Field(
        [], description="24 numbers, named in docs/worlds/serving.md; empty in the view text"
    )
    mask: list[int] = Field([], description="which of the 18 actions are possible; empty in the view text")
    text: str = Field("", description="the same for a chat model, in the view text alone")
    tick: int = Field(0, description="iterations of the engine so far")
    clock_s: float = Field(0.0, description="simulated seconds so far")
    decisions: int = Field(0, description="decisions so far")


class KvCacheServingState(State):
    """Where an episode stands."""

    task: str | None = Field(None, description="the id of the task")
    split: str | None = None
    index: int | None = Field(None, description="the task's place in its split")
    view: str | None = Field(None, description="numbers or text")
    ticks: int | None = Field(None, description="length of the episode, in nominal ticks")
