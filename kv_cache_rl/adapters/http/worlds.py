"""What sessions play: a server, action by action or under an agent; an eviction episode, by tool calls."""

from collections.abc import Sequence
from typing import Any

from kv_cache_rl.adapters.http import episodes
from kv_cache_rl.adapters.http.errors import Problem, no_such
from kv_cache_rl.adapters.http.metrics import Numbers, numbers_of
from kv_cache_rl.adapters.http.serving import outcome, view_of
from kv_cache_rl.adapters.playing import asked
from kv_cache_rl.agents import AGENTS, Agent, agent
from kv_cache_rl.experiments.serving.log import tick_of
from kv_cache_rl.sim.eviction import Call, Episode, Scenario, parse_call
from kv_cache_rl.sim.serving.dynamics import act, new_state
from kv_cache_rl.sim.serving.observe import look, new_view
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import Scenario as Service

EPISODE_BYTES = 256 * 1024
"""What an eviction episode takes at most, its time line included."""


class ServingWorld:
    """A server that a client plays."""

    kind = "serving"

    def __init__(self, scenario: Service, seed: int, asked: dict[str, Any] | None = None) -> None:
        self.asked = asked or {}
        """What the client asked for, of which a reset may change a part."""
        self.reset(scenario, seed)

    def reset(self, scenario: Service, seed: int) -> None:
        """The empty server of this scenario; the settings are the session's own."""
        self.scenario, self.seed = scenario, seed
        self.server = new_state(scenario, seed)
        self.seen, self.mask = new_view()
        self.total, self.agents = 0.0, dict[str, Agent]()
        look(*self.server.buffers, self.seen, self.mask)

    @property
    def nbytes(self) -> int:
        load = self.server.load
        return sum(a.nbytes for a in (*self.server.buffers, load.table, load.user, load.turn))

    def take(self, action: int) -> float:
        """Takes one action in an episode that is not over; its reward."""
        reward = float(act(*self.server.buffers, self.seen, self.mask, action))
        self.total += reward
        return reward

    def step(self, action: int) -> dict[str, Any]:
        """Takes one action. Raises Problem where the episode is over."""
        self._going()
        reward = self.take(action)
        return {"reward": reward, "actions": [action], **self.state()}

    def play(self, name: str, ticks: int) -> dict[str, Any]:
        """Lets an agent decide for so many ticks."""
        self._going()
        if name not in AGENTS:
            raise no_such("agent", name, AGENTS, "agent")
        if name not in self.agents:
            self.agents[name] = agent(name)
            self.agents[name].reset(agent_seed(self.seed))
        decide, book = asked(self.agents[name]), self.server.columns.book
        until, before, actions = int(book["ticks"]) + ticks, self.total, []
        while not self.server.done and book["ticks"] < until:
            actions.append(int(decide(self.seen, self.mask)))
            self.take(actions[-1])
        return {"reward": self.total - before, "actions": actions, **self.state()}

    def _going(self) -> None:
        if self.server.done:
            raise Problem(409, "the episode is over; reset the session, or open another", "id")

    def state(self) -> dict[str, Any]:
        """The view, what can be done, and the server as it stands; the report once it is over."""
        record = tick_of(self.server, (), 0.0).to_json()
        del record["actions"], record["reward"]
        return {
            "kind": self.kind,
            "task": self.scenario.task,
            "seed": self.seed,
            "done": self.server.done,
            "crashed": self.server.crashed,
            "total_reward": self.total,
            **view_of(self.seen, self.mask),
            "tick": record,
            "result": outcome("session", self.server) if self.server.done else None,
        }

    def numbers(self) -> Numbers:
        """What the metrics show."""
        return numbers_of(self.server)


class EvictionWorld:
    """An eviction episode that a client plays."""

    kind = "eviction"
    nbytes = EPISODE_BYTES

    def __init__(self, scenario: Scenario, view: str) -> None:
        self.reset(scenario, view)

    def reset(self, scenario: Scenario, view: str) -> None:
        """The scenario from its beginning."""
        self.scenario, self.view = scenario, view
        self.episode = Episode(scenario, view)

    def step(self, calls: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        """Plays one window: tools and their arguments, as a chat model writes them. What cannot be read or
        done is refused in its text and costs what the rules say. Raises Problem where the episode is over.
        """
        if self.episode.done:
            raise Problem(409, "the episode is over; reset the session, or open another", "id")
        texts = self.episode.step([parse_call(name, arguments) for name, arguments in calls])
        return {"results": texts, **self.state()}

    def state(self) -> dict[str, Any]:
        """The observation, a map of the memory, and every window so far; the report once it is over."""
        episode = self.episode
        return {
            "kind": self.kind,
            "scenario": episodes.facts(self.scenario),
            "view": self.view,
            "window": episode.t + 1,
            "done": episode.done,
            "observation": None if episode.done else episode.observation(),
            **episodes.memory_map(episode),
            "timeline": [self.shown(record) for record in episode.timeline],
            "log": episode.log if episode.done else None,
            "report": episodes.report_of(episode) if episode.done else None,
        }

    def shown(self, record: dict[str, Any]) -> dict[str, Any]:
        """A window's record with the ids that the session's view shows."""

        def name(id: str) -> str:
            return self.episode.named(Call("evict", id), shown=True).seq_id

        told = {key: [name(id) for id in record[key]] for key in ("arrivals", "admitted", "completions")}
        failures = [one | {"seq_id": name(one["seq_id"])} for one in record["failures"]]
        return {**record, **told, "failures": failures}
