"""One model, one episode: in process by default, over tools with any other harness."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self, cast

import verifiers.v1 as vf
from pydantic import model_validator
from verifiers.v1.mcp import SharedToolServer

from kv_cache_eviction.harness import EvictionHarnessConfig
from kv_cache_eviction.patience import Patience
from kv_cache_eviction.served import ServedInterception, Watch
from kv_cache_eviction.task import ONLY_HERE, EvictionTask, decided_by_dialogue


class EvictionEnvConfig(vf.SingleAgentEnvConfig):
    # Constructed unchecked, since the check would import this package, which is being imported
    # right now.
    agent: vf.AgentConfig = vf.AgentConfig.model_construct(
        harness=EvictionHarnessConfig(), runtime=vf.SubprocessConfig()
    )
    """The model. Nothing that it does runs code, so it needs no sandbox."""

    @model_validator(mode="after")
    def a_window_alone_is_played_here(self) -> Self:
        """Refuses history `window` with a harness that sends the whole dialogue."""
        history = getattr(self.taskset, "history", "full")
        if history != "full" and not isinstance(self.agent.harness, EvictionHarnessConfig):
            raise ValueError(ONLY_HERE)
        return self


# pyrefly: ignore [invalid-inheritance]  verifiers finds an env's config type by its parameter
class EvictionEnv(vf.SingleAgentEnv, vf.Env[EvictionEnvConfig]):
    watch: Watch = Watch()
    """Hears of replies and waits while the env serves."""

    @property
    def in_process(self) -> bool:
        return isinstance(self.config.agent_harnesses()["agent"], EvictionHarnessConfig)

    @property
    def patience(self) -> Patience:
        """The limits of one model call: those of the default harness, which others do not have."""
        harness = self.config.agent_harnesses()["agent"]
        if not isinstance(harness, EvictionHarnessConfig):
            return Patience()
        return Patience(harness.max_retries, harness.patience, harness.request_timeout)

    def complete(self, episode: vf.Episode) -> bool:
        """Whether a resumed run keeps a rollout: one that ended well, and whose log its dialogue decided.

        Scores come from the log alone, and a hand may have changed the file.
        """
        return super().complete(episode) and all(decided_by_dialogue(trace) for trace in episode.traces)

    async def start(self) -> None:
        """Puts the project's model client before every rollout. The attribute is verifiers' own: 0.4 has no
        hook for it."""
        if self._interception is not None:
            self._interception = ServedInterception(self._interception, self.patience, self.watch)

    async def stop(self) -> None:
        if isinstance(self._interception, ServedInterception):
            await self._interception.stop()

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        task = cast(EvictionTask, task)
        if self.in_process:
            await agents.agent.run(task.played_in_process())
            return
        # A harness ends its turn when the model calls no tool; the episode goes on until its last
        # step.
        async with agents.agent.interaction(task) as exchange:
            segment = await exchange.turn()
            while not segment.terminated and (reply := task.reply_to_text(exchange.trace)) is not None:
                segment = await exchange.turn(reply)
            if exchange.trace.num_turns >= task.scenario.steps:
                exchange.trace.stop("episode_over")

    @asynccontextmanager
    async def shared_tools(self) -> AsyncIterator[dict[str, SharedToolServer]]:
        """The tool server, which only harnesses outside this process ask."""
        if self.in_process:
            yield {}
            return
        async with super().shared_tools() as servers:
            yield servers
