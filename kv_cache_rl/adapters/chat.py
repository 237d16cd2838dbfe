"""A chat model on an OpenAI-compatible server, asked from any number of threads: every call ends in time.

A refusal that passes is waited for (`patience`), what comes back is bounded before it is read (`wire`), and
what the server refuses for good is said at once."""

import asyncio
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from kv_cache_rl.extras import need

need("asking a chat model", "openai")

import httpx

from kv_cache_rl.adapters.patience import GivenUp, Patience, asked_to_wait, next_pause
from kv_cache_rl.adapters.refusals import meaning_of, to_a_client
from kv_cache_rl.adapters.wire import NoReply, not_json, read, refusal, tamed
from kv_cache_rl.agents.chat import Answer, Lost
from kv_cache_rl.core.errors import Refused

MOST_BYTES = 16 * 1024 * 1024
"""A longer reply is none."""


class ChatError(Refused):
    """A server that will not answer, whatever is sent: says what it said, and what to change."""


class Failure(Exception):
    """One try without a reply: its status (None: no answer came), and the server's headers."""

    def __init__(self, text: str, status: int | None = None, headers: Any = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers or {}

    @property
    def kind(self) -> str:
        """What it means, in the words of `patience`."""
        return "broken" if self.status is None else to_a_client(meaning_of(self.status, str(self)))


class ChatModel:
    """A model behind an address; its calls run in one event loop, in a thread of its own, until `close`."""

    def __init__(self, model: str, base_url: str, key: str, sampling: dict, limits: Patience) -> None:
        """Nothing is asked yet.

        Args:
            key: sent as a bearer token where it is not empty.
            sampling: fields of every request, such as max_tokens and temperature.
        """
        self.model, self.url, self.limits = model, f"{base_url.rstrip('/')}/chat/completions", limits
        self.sampling, self._newer_name, self._proven = dict(sampling), False, False
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._loop = asyncio.new_event_loop()
        self._client = httpx.AsyncClient(
            headers=headers, timeout=None, limits=httpx.Limits(max_connections=None)
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-model", daemon=True)
        self._thread.start()
        self._asked: set[Future] = set()

    def __enter__(self) -> "ChatModel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends what is being asked, wherever it is waited for, and the loop."""
        for future in list(self._asked):
            future.cancel()
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def ask(self, messages: list[dict], tools: list[dict]) -> Answer:
        """The model's answer.

        Raises:
            Lost: no reply came within the limits.
            ChatError: the server refuses for good.
        """
        future = asyncio.run_coroutine_threadsafe(self._patiently(messages, tools), self._loop)
        self._asked.add(future)
        try:
            return future.result()
        finally:
            self._asked.discard(future)

    async def _patiently(self, messages: list[dict], tools: list[dict]) -> Answer:
        tries, waited = 0, 0.0
        while True:
            try:
                answer = await self._one_try(messages, tools)
            except Failure as failure:
                if self._wants_newer_name(failure):
                    self._newer_name = True
                    continue
                tries += 1
                asked = asked_to_wait(failure.headers)
                try:
                    pause = next_pause(failure.kind, asked, tries, waited, self.limits, self._proven)
                except GivenUp as why:
                    text = f"{failure}{f'; {why}' if str(why) else ''}"
                    if failure.kind in ("busy", "broken"):
                        raise Lost(text) from failure
                    if failure.kind == "garbled":
                        return Answer((), text)
                    raise ChatError(f"{self.url} refuses {self.model!r}: {text}") from failure
                await asyncio.sleep(pause)
                waited += pause
            else:
                self._proven = True
                return answer

    async def _one_try(self, messages: list[dict], tools: list[dict]) -> Answer:
        body = {"model": self.model, "messages": messages, "tools": tools, **self._written()}
        try:
            async with asyncio.timeout(self.limits.timeout):
                status, headers, content = await self._sent(body)
        except TimeoutError:
            raise Failure(f"no answer in {self.limits.timeout:g} s; raise --timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Failure(f"{type(error).__name__}: {str(error)[:200]}") from error
        if status != 200:
            raise Failure(f"{status}: {content[:500].decode(errors='replace')}", status, headers)
        if inside := refusal(content):
            raise Failure(f"{inside[0]}: {inside[1]}", inside[0], headers)
        return answer_of(content, headers)

    async def _sent(self, body: dict) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and bytes of the answer. Raises Failure where they are too many."""
        content = bytearray()
        async with self._client.stream("POST", self.url, json=body) as response:
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise Failure(f"the reply has more than {MOST_BYTES:,} bytes", 502)
            return response.status_code, response.headers, bytes(content)

    def _written(self) -> dict:
        """The sampling under the names that the model takes."""
        if not self._newer_name:
            return self.sampling
        return {"max_completion_tokens" if k == "max_tokens" else k: v for k, v in self.sampling.items()}

    def _wants_newer_name(self, failure: Failure) -> bool:
        """Whether it asks for `max_completion_tokens`, as OpenAI's reasoning models do."""
        asks = failure.status in (400, 422) and "max_completion_tokens" in str(failure)
        return asks and "max_tokens" in self.sampling and not self._newer_name


def answer_of(content: bytes, headers: Any) -> Answer:
    """The answer in a body. Raises Failure for one that is no chat completion."""
    try:
        raw = read(tamed(content))
    except NoReply as error:
        raise Failure(str(error), 502) from None
    except (ValueError, RecursionError):
        said = not_json(content, str(headers.get("content-type", ""))[:80])
        raise Failure(f"no JSON came but something else ({said})", 502) from None
    message, usage = raw["choices"][0]["message"], raw.get("usage") or {}
    calls = [call["function"] for call in message.get("tool_calls") or []]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answer(
        tuple((call["name"], call["arguments"]) for call in calls),
        message.get("content") or "",
        usage.get("prompt_tokens", 0),
        cached,
        usage.get("completion_tokens", 0),
    )
