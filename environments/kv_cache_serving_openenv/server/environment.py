"""The environment that each session has: one episode of the serving world after the other."""

from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata

from kv_cache_rl import __version__
from kv_cache_rl.adapters.http.serving import view_of
from kv_cache_rl.adapters.http.worlds import ServingWorld
from kv_cache_rl.adapters.openenv.episodes import Episodes
from kv_cache_rl.adapters.openenv.tasks import SERVING, episode_name, of_serving, refuse_others
from kv_cache_rl.agents.chat_text import MOST_REPEAT, SYSTEM_PROMPT, state_text
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING
from kv_cache_serving_openenv.models import (
    KvCacheServingAction,
    KvCacheServingObservation,
    KvCacheServingState,
)
from kv_cache_serving_openenv.server import drawing

NAME = "kv_cache_serving_openenv"
VIEWS = ("numbers", "text")
HOW = f"""Here act is your answer: the name or the number of an action, or {{"action": NAME, "repeat": N}} \
to take it once in each of the next N ticks, up to {MOST_REPEAT}, where it is possible."""
RESET = ("seed", "episode_id", "split", "index", "task", "view", "ticks")


class KvCacheServingEnvironment(
    Episodes[ServingWorld, KvCacheServingState],
    Environment[KvCacheServingAction, KvCacheServingObservation, KvCacheServingState],
):
    """One step is one decision, or the same one in several ticks. Rewards are dense: their sum is the return.
    The last observation's metadata holds the score and the report.
    """

    def __init__(self) -> None:
        super().__init__(SERVING, KvCacheServingState())
        self._decisions = 0

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        task: str | None = None,
        view: str = "numbers",
        ticks: int | None = None,
        **others: Any,
    ) -> KvCacheServingObservation:
        """An empty server at second 0.

        Args:
            seed: picks a task of the split, as its remainder; an index goes before it.
            split: train, select or test.
            index: of the task in its split.
            task: the id of a task, in place of split and index.
            view: numbers, or text for a chat model.
            ticks: length of the episode, at most that of the task.

        Raises:
            Refused: a value that is none; the episode before goes on.
        """
        refuse_others(others, RESET)
        chosen = self.tasks.asked(split, index, seed, task, self.begun)
        if view not in VIEWS:
            raise Refused(unknown("view", view, VIEWS))
        name = episode_name(episode_id, chosen)
        scenario, traffic = of_serving(chosen, ticks)
        self._decisions = 0
        world = self.begin(
            ServingWorld(scenario, traffic),
            KvCacheServingState(
                episode_id=name,
                task=chosen.id,
                split=chosen.split,
                index=chosen.index,
                view=view,
                ticks=scenario.ticks,
            ),
        )
        return self._seen(world, rules=f"{SYSTEM_PROMPT}\n\n{HOW}")

    def step(
        self, action: KvCacheServingAction, timeout_s: float | None = None, **others: Any
    ) -> KvCacheServingObservation:
        """Takes a decision, `repeat` times with a tick between them.

        Raises:
            Refused: no episode is under way.
        """
        world = self.played()
        if world.server.done:
            raise Refused("the episode is over; send a reset for another")
        number = ACTIONS.index(action.action) if isinstance(action.action, str) else action.action
        reward, last = 0.0, NOTHING
        for time in range(action.repeat):
            if last != NOTHING:  # lets the tick pass
                reward += self._act(world, NOTHING)
            last = number if time == 0 or world.mask[number] else NOTHING
            reward += self._act(world, last)
        self._state.step_count += 1
        return self._seen(world, reward=reward)

    def _act(self, world: ServingWorld, number: int) -> float:
        if world.server.done:
            return 0.0
        self._decisions += 1
        return world.take(number)

    def _seen(self, world: ServingWorld, **fields: Any) -> KvCacheServingObservation:
        server = world.server
        if self._state.view == "text":
            fields["text"] = state_text(world.seen, world.mask)
        else:
            shown = view_of(world.seen, world.mask)
            fields |= {"view": shown["observation"], "mask": shown["mask"]}
        if server.done:
            report = world.state()["result"]["report"]
            fields |= {"done": True, "metadata": {"score": report["score"], "report": report}}
        return KvCacheServingObservation(
            tick=int(server.columns.book["ticks"]),
            clock_s=server.seconds,
            decisions=self._decisions,
            **fields,
        )

    def get_metadata(self) -> EnvironmentMetadata:
        about = "An agent, a model or a person runs the memory of an LLM server under load."
        return EnvironmentMetadata(name=NAME, description=about, version=__version__)

    def render_web(self, observation: dict[str, Any]) -> str | None:
        """The server, and at the end the report, as HTML."""
        return drawing.page(self.world) if self.world else None

    def web_actions(self, observation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """What is possible now, and what agents of the project would do."""
        return drawing.choices(self.world) if self.world else []
