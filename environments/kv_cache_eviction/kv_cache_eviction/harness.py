"""The default harness: the loop of an episode, in the evaluating process.

Nothing is launched and no tool server is asked: the simulator answers here. Every model call still
goes through the interception of verifiers, so traces, limits, training tokens and errors are those
of any other harness."""

from typing import cast

import verifiers.v1 as vf
from openai import APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient
from openai.types.chat import ChatCompletion
from pydantic import Field, FiniteFloat
from verifiers.v1 import graph
from verifiers.v1.dialects import parse_message
from verifiers.v1.dialects.chat import parse_tools

from kv_cache_eviction.dialogue import answers, decided, results
from kv_cache_eviction.patience import Patience
from kv_cache_eviction.task import EvictionData
from kv_cache_rl.sim.eviction import TOOLS, Episode, Scenario, window_message


class EvictionHarnessConfig(vf.HarnessConfig):
    id: vf.ID = "kv-cache-eviction"
    request_timeout: FiniteFloat = Field(Patience().timeout, gt=0)
    """Seconds that one try of a model call may take."""
    max_retries: int = Field(Patience().max_retries, ge=0)
    """How often a model call is repeated after a timeout, a lost connection, a 5xx or an empty reply."""
    patience: FiniteFloat = Field(Patience().seconds, ge=0)
    """Seconds that a model call may wait in all, for a server that says 429 or 503 or between repetitions."""


class EvictionHarness(vf.Harness[EvictionHarnessConfig]):
    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_MCP = True  # of another env that starts the tools all the same; they are not needed here
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        if not isinstance(data, EvictionData):
            raise TypeError(
                f"this harness plays the tasks of kv-cache-eviction only, not {type(data).__name__}; "
                "choose another one with --env.agent.harness.id"
            )
        system_prompt, prompt = self.resolve_prompt(data)
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages = [*system, {"role": "user", "content": prompt}]
        async with self.client(endpoint, secret) as client:
            try:
                await self.play(client, ctx.model, data, messages)
            except APIStatusError:
                if trace.stop_condition is None:  # a limit that ends the episode is no failure
                    raise
        # The results of the last calls precede no model call; the dialogue is recorded with them.
        graph.prepare_turn(
            trace, [parse_message(message) for message in messages], parse_tools(TOOLS)
        ).commit_prompt()
        trace.stop("episode_over")
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")

    async def play(self, client: AsyncOpenAI, model: str, data: EvictionData, messages: list[dict]) -> None:
        """Plays the episode to its end; `messages` grows into the whole dialogue, with history `window` into
        that of the last window. Each of those is a branch of the trace, and so a training sample, of its own.
        """
        episode = Episode(Scenario.from_json(data.scenario), data.view)
        system = messages[:-1]
        while not episode.done:
            # Not `chat.completions.create`: the SDK would walk through every field of the whole
            # dialogue each time, and that costs more than all the rest of an episode.
            body = {"model": model, "messages": messages, "tools": TOOLS}
            completion = await client.post("/chat/completions", cast_to=ChatCompletion, body=body)
            reply = completion.choices[0].message.model_dump(exclude_none=True)
            message = cast(vf.AssistantMessage, parse_message(reply))
            made = decided(message, data.max_calls_per_step)
            if data.history == "full" or episode.last_window:
                messages += [reply, *answered(reply, answers(episode, made))]
            else:
                texts = results(episode, made)
                content = window_message(made, texts, episode.prompt())
                messages[:] = [*system, {"role": "user", "content": content}]

    def client(self, endpoint: str, secret: str) -> AsyncOpenAI:
        # The interception is on loopback unless a tunnel is in play: no proxy, and without TLS no
        # certificates to load. It waits and repeats by itself (`ServedClient`).
        transport = DefaultAsyncHttpxClient(verify=endpoint.startswith("https:"), trust_env=False)
        return AsyncOpenAI(
            base_url=endpoint,
            api_key=secret,
            http_client=transport,
            timeout=None,
            max_retries=0,
        )


def answered(reply: dict, texts: list[str]) -> list[dict]:
    """The messages that follow a reply: one tool result per call, else the user message."""
    calls = reply.get("tool_calls")
    if not calls:
        return [{"role": "user", "content": text} for text in texts]
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": text, "name": call["function"]["name"]}
        for call, text in zip(calls, texts, strict=True)
    ]
