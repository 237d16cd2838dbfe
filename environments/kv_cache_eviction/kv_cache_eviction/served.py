"""Between verifiers and the chat server: every model call of every harness goes through here.

Refusals that pass are waited for, what is sent and what comes back is put in order (`client`), and a dialogue
that no longer fits the context ends its episode instead of failing it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import verifiers.v1 as vf
from verifiers.v1.clients.client import Client, RelayReply
from verifiers.v1.configs.client import BaseClientConfig, TrainClientConfig
from verifiers.v1.dialects import Dialect
from verifiers.v1.dialects.chat import ChatDialect
from verifiers.v1.graph import PendingTurn
from verifiers.v1.interception import Interception, Slot
from verifiers.v1.session import RolloutSession
from verifiers.v1.types import SamplingConfig

from kv_cache_eviction.client import TamedClient
from kv_cache_eviction.patience import Patience, meaning, pause_after
from kv_cache_rl.adapters.wire import ODD, bounded

CONTEXT_OVERFLOW = "context_overflow"
"""The stop condition of an episode whose dialogue outgrew the model's context."""
WITHHELD = "withheld_replies"
"""Where a trace counts the replies that the server's filter withheld, for the episode's notes."""
Ask = Callable[[], Awaitable[Any]]


class Watch:
    """What an evaluation hears while it runs; all do nothing by default."""

    def resumed(self, kept: int) -> None:
        """A run goes on, of which so many rollouts are kept."""

    def answered(self) -> None:
        """A model call has its reply."""

    def waiting(self, seconds: float, why: str) -> None:
        """A model call waits so long before it is tried again."""


class ServedClient(Client):
    """The model client of one rollout."""

    def __init__(
        self, inner: Client, session: RolloutSession, limits: Patience, watch: Watch, proven: set[str]
    ) -> None:
        self.inner, self.trace, self.limits, self.watch = inner, session.trace, limits, watch
        self.address = session.ctx.client.base_url
        self.proven = proven
        """The addresses that have answered something in this evaluation."""
        self.gave_up: vf.ProviderError | None = None
        """Said again at once when a harness repeats a call that was given up."""

    async def get_response(
        self,
        dialect: Dialect,
        body: dict,
        sampling: SamplingConfig,
        session_id: str | None = None,
        turn: PendingTurn | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> vf.Response:
        async def ask() -> vf.Response:
            found = await self.inner.get_response(dialect, body, sampling, session_id, turn, headers)
            refuse_empty(found)
            return found

        try:
            response = await self.patiently(ask)
        except vf.ProviderError as error:
            if meaning(error) != "garbled" or not isinstance(dialect, ChatDialect):
                raise
            response = unread_reply(dialect, body, error)
        self.watch.answered()
        odd = ((response.raw or {}).get("usage") or {}).get(ODD)
        if odd:
            self.trace.info.setdefault(ODD, odd)
        if withheld(response):
            self.trace.info[WITHHELD] = self.trace.info.get(WITHHELD, 0) + 1
        return with_bounded_calls(response) if response.raw is None else response

    async def relay(
        self,
        dialect: Dialect,
        body: dict,
        session_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RelayReply:
        """Asks for the whole reply and streams it from here; only a whole one can be bounded and repeated."""
        if not isinstance(dialect, ChatDialect):
            return await self.patiently(lambda: self.inner.relay(dialect, body, session_id, headers))
        whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
        response = await self.get_response(dialect, whole, SamplingConfig(), session_id, headers=headers)
        events = dialect.stream_events(response.raw or {})

        async def chunks() -> AsyncIterator[bytes]:
            for event in events:
                yield event

        async def close() -> None:
            return None

        return RelayReply(content_type="text/event-stream", chunks=chunks(), close=close)

    async def relay_aux(
        self, dialect: Dialect, route: str, body: dict, headers: Mapping[str, str] | None = None
    ) -> dict:
        return await self.inner.relay_aux(dialect, route, body, headers)

    async def patiently(self, ask: Ask) -> Any:
        """What `ask` gives, tried again as long as it is worth it.

        Raises ProviderError with what the server said last.
        """
        if self.gave_up is not None:
            raise self.gave_up
        tries, waited = 0, 0.0
        while True:
            try:
                found = await self.one_try(ask)
            except vf.ProviderError as error:
                tries += 1
                self.end_where_full(error)
                try:
                    pause = pause_after(error, tries, waited, self.limits, self.address in self.proven)
                except vf.ProviderError as last:
                    self.gave_up = last if meaning(last) != "garbled" else None
                    raise
                self.watch.waiting(pause, str(error))
                await asyncio.sleep(pause)
                waited += pause
            else:
                self.proven.add(self.address)
                return found

    async def one_try(self, ask: Ask) -> Any:
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await ask()
        except TimeoutError as error:
            text = f"the call timed out: {self.address} gave no answer in {self.limits.timeout:g} s"
            raise vf.ProviderError(f"{text}; raise --timeout", status_code=504) from error
        except vf.ProviderError as error:
            if not isinstance(error.__cause__, httpx.TransportError | OSError):
                raise
            where = f"{str(error) or type(error.__cause__).__name__} ({self.address})"
            raise vf.ProviderError(where, status_code=error.status_code) from error.__cause__

    def end_where_full(self, error: vf.ProviderError) -> None:
        """Ends the episode where the dialogue has outgrown the context. A first prompt that does not fit
        stays a failure, for nothing was played."""
        if meaning(error) == "overflow" and self.trace.num_turns:
            self.trace.info["server_said"] = str(error)[:500]
            self.trace.stop(CONTEXT_OVERFLOW)

    async def close(self) -> None:
        """The inner client is closed by its owner."""


def refuse_empty(response: vf.Response) -> None:
    """Raises ProviderError for a reply with nothing in it: the server's failure, not a decision.

    One that a limit of tokens or a filter ended before its first word is the model's, and decides nothing.
    """
    message = response.message
    said = message.tool_calls or message.content or message.reasoning_content
    if not said and response.finish_reason != "length" and not withheld(response):
        raise vf.ProviderError(
            "the model sent an empty reply: no text, no tool call (is its server overloaded?)"
        )


def withheld(response: vf.Response) -> bool:
    """Whether the server's filter ended the reply, or the model refused to answer; verifiers' own fields do
    not say so.
    """
    choice = ((response.raw or {}).get("choices") or [{}])[0]
    message = choice.get("message") or {}
    refused = message.get("refusal") and not message.get("tool_calls")
    return choice.get("finish_reason") == "content_filter" or bool(refused)


def unread_reply(dialect: ChatDialect, body: dict, error: vf.ProviderError) -> vf.Response:
    """A reply without calls, in place of one that the server itself could not read."""
    text = f"(the server could not read this reply of the model: {str(error)[:300]})"
    message = {"role": "assistant", "content": text}
    raw = {
        "id": "unread",
        "object": "chat.completion",
        "created": 0,
        "model": str(body.get("model", "")),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    response = dialect.parse_response(dialect.validate_response(raw))
    response.raw = raw
    return response


def with_bounded_calls(response: vf.Response) -> vf.Response:
    """The same for a reply that came as tokens, of a model in training."""
    made = response.message.tool_calls or []
    calls = [{"id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in made]
    kept = [
        vf.ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in bounded(calls)
    ]
    if kept == made:
        return response
    return response.model_copy(
        update={"message": response.message.model_copy(update={"tool_calls": kept or None})}
    )


class ServedInterception(Interception):
    """The running interception, whose sessions get a `ServedClient`."""

    def __init__(self, inner: Interception, limits: Patience, watch: Watch) -> None:
        super().__init__()
        self.inner, self.limits, self.watch = inner, limits, watch
        self.clients: dict[str, TamedClient] = {}
        self.proven: set[str] = set()

    async def start(self) -> None:
        """The inner one runs already; its owner ends it."""

    def client(self, config: BaseClientConfig) -> TamedClient:
        """One client per endpoint, closed with this interception."""
        key = config.model_dump_json()
        if key not in self.clients:
            self.clients[key] = TamedClient(config)
            self.stack.push_async_callback(self.clients[key].close)
        return self.clients[key]

    @asynccontextmanager
    async def acquire(self, session: RolloutSession) -> AsyncIterator[Slot]:
        async with self.inner.acquire(session) as slot:
            config, training = session.ctx.client, session.client
            inner = training if isinstance(config, TrainClientConfig) else self.client(config)
            if inner is None:
                raise RuntimeError("the interception gave the session no model client")
            session.client = ServedClient(inner, session, self.limits, self.watch, self.proven)
            yield slot
