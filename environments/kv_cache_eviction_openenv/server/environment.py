"""The environment that each session has: one episode of the eviction world after the other."""

from typing import Any

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import EnvironmentMetadata

from kv_cache_eviction_openenv.models import (
    KvCacheEvictionAction,
    KvCacheEvictionObservation,
    KvCacheEvictionState,
)
from kv_cache_eviction_openenv.server import drawing
from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.adapters.http.episodes import facts, report_of, scenario_named
from kv_cache_rl.adapters.http.worlds import EvictionWorld
from kv_cache_rl.adapters.openenv.episodes import Episodes
from kv_cache_rl.adapters.openenv.tasks import EVICTION, episode_name, refuse_others
from kv_cache_rl.adapters.openenv.words import read_words
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import SYSTEM_PROMPTS, VIEWS, Episode
from kv_cache_rl.sim.eviction.messages import result_lines
from kv_cache_rl.sim.eviction.spec import one_of

NAME = "kv_cache_eviction_openenv"
HOW = """Answer with calls, such as: evict a, compress b. The calls: evict ID; compress ID (half the memory, \
to 8, then 4 bits); swap_to_cpu ID (over the shared link); keep (change nothing)."""
RESET = ("seed", "episode_id", "split", "index", "task", "view")


class KvCacheEvictionEnvironment(
    Episodes[EvictionWorld, KvCacheEvictionState],
    Environment[KvCacheEvictionAction, KvCacheEvictionObservation, KvCacheEvictionState],
):
    """One step is one window. The reward is 0 until the last, then the normalised score: 0 at the best fixed
    rule, 1 at the best known. The last observation's metadata holds the report and the action log.
    """

    def __init__(self) -> None:
        super().__init__(EVICTION, KvCacheEvictionState())

    def reset(
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        task: str | None = None,
        view: str = "brief",
        **others: Any,
    ) -> KvCacheEvictionObservation:
        """A scenario from its beginning.

        Args:
            seed: picks a task of the split, as its remainder; an index goes before it.
            split: train, eval or test.
            index: of the task in its split.
            task: the id of a scenario, in place of split and index.
            view: brief, or full.

        Raises:
            Refused: a value that is none; the episode before goes on.
        """
        refuse_others(others, RESET)
        chosen = self.tasks.asked(split, index, seed, task, self.begun)
        one_of("view", view, VIEWS)
        name = episode_name(episode_id, chosen)
        world = self.begin(
            EvictionWorld(scenario_named(chosen.id), view),
            KvCacheEvictionState(
                episode_id=name, task=chosen.id, split=chosen.split, index=chosen.index, view=view
            ),
        )
        return self._seen(world.episode, rules=f"{SYSTEM_PROMPTS[view]}\n\n{HOW}")

    def step(
        self, action: KvCacheEvictionAction, timeout_s: float | None = None, **others: Any
    ) -> KvCacheEvictionObservation:
        """Plays one window. Calls that cannot be read or done are refused in `results`, and change nothing.

        Raises:
            Refused: no episode is under way.
        """
        episode = self.played().episode
        if episode.done:
            raise Refused(f"the episode is over after {episode.t} windows; send a reset for another")
        calls = read_words(action.calls)
        texts = episode.step(calls)
        self._state.step_count = episode.t
        return self._seen(episode, results=result_lines(calls, texts), reward=0.0)

    def _seen(self, episode: Episode, **fields: Any) -> KvCacheEvictionObservation:
        if episode.done:
            report = report_of(episode)
            told = {"report": report, "scenario": facts(episode.scenario), "log": episode.log}
            fields |= {"done": True, "reward": report["normalized"], "metadata": told}
        else:
            fields["view"] = episode.observation()
        return KvCacheEvictionObservation(window=episode.t + (not episode.done), **fields)

    def get_metadata(self) -> EnvironmentMetadata:
        about = "A model or a person manages the KV cache of an LLM server for fifteen windows."
        return EnvironmentMetadata(name=NAME, description=about, version=ENVIRONMENT_VERSION)

    def render_web(self, observation: dict[str, Any]) -> str | None:
        """The cache, the window before, and at the end the report, as HTML."""
        return drawing.page(self.world) if self.world else None

    def web_actions(self, observation: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """What deciders of the project would do, each as one choice."""
        return drawing.choices(self.world.episode) if self.world else []
