"""One model, one episode: in process by default, over tools with any other harness."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import verifiers.v1 as vf
from verifiers.v1.mcp import SharedToolServer

from kv_cache_eviction.harness import EvictionHarnessConfig
from kv_cache_eviction.task import EvictionTask


class EvictionEnvConfig(vf.SingleAgentEnvConfig):
    # Constructed unchecked, since the check would import this package, which is being imported
    # right now.
    agent: vf.AgentConfig = vf.AgentConfig.model_construct(
        harness=EvictionHarnessConfig(), runtime=vf.SubprocessConfig()
    )
    """The model. Nothing that it does runs code, so it needs no sandbox."""


# pyrefly: ignore [invalid-inheritance]  verifiers finds an env's config type by its parameter
class EvictionEnv(vf.SingleAgentEnv, vf.Env[EvictionEnvConfig]):
    @property
    def in_process(self) -> bool:
        return isinstance(self.config.agent_harnesses()["agent"], EvictionHarnessConfig)

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
