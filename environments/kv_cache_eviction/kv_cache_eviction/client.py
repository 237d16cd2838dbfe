"""The client of verifiers for chat completions: past turns leave in the form that all servers take, replies
come back bounded, and a request is written anew where a model wants it otherwise."""

import httpx
import verifiers.v1 as vf
from verifiers.v1.clients.eval import EvalClient
from verifiers.v1.configs.client import BaseClientConfig
from verifiers.v1.dialects.chat import ChatDialect

from kv_cache_eviction.past_turns import history, one_by_one
from kv_cache_eviction.patience import RESETS, meaning
from kv_cache_rl.adapters.wire import NoReply, not_json, refusal, tamed


class TamedClient(EvalClient):
    """The client of verifiers, with past turns and replies of chat completions put in order on the wire."""

    def __init__(self, config: BaseClientConfig) -> None:
        super().__init__(config)
        self.wishes: set[tuple[object, str]] = set()
        """Models, and by its name in `WISHES` how they want a request written."""

    async def _request(
        self, url: str, body: dict, headers: httpx.Headers, *, stream: bool = False
    ) -> httpx.Response:
        if stream or not url.endswith(ChatDialect.upstream_path):
            return await super()._request(url, body, headers, stream=stream)
        if isinstance(body.get("messages"), list):
            body = {**body, "messages": history(body["messages"])}
        try:
            answer = await self.sent(url, body, headers)
        except vf.ProviderError as error:
            raise moved(error) or error from error.__cause__
        try:
            content = tamed(answer.content)
        except NoReply as error:
            raise vf.ProviderError(str(error), status_code=502) from error
        if content == answer.content:
            kind = answer.headers.get("content-type", "")[:80]
            if other := not_json(content, kind):
                text = f"malformed upstream response: no JSON came but something else ({other})"
                raise vf.ProviderError(text, status_code=502)
        return httpx.Response(answer.status_code, content=content, request=answer.request)

    async def sent(self, url: str, body: dict, headers: httpx.Headers) -> httpx.Response:
        """The server's answer; what the model refused once is written from then on as it wants it."""
        model = body.get("model")
        for name, (_, written) in WISHES.items():
            body = written(body) if (model, name) in self.wishes else body
        while True:
            try:
                answer = await super()._request(url, body, headers)
                refuse_inside(answer)
                return answer
            except vf.ProviderError as error:
                name = next((name for name, (wanted, _) in WISHES.items() if wanted(error, body)), None)
                if name is None or (model, name) in self.wishes:
                    raise
            self.wishes.add((model, name))
            body = WISHES[name][1](body)


def refuse_inside(answer: httpx.Response) -> None:
    """Raises the error that stands inside an answer of status 200, as if it had come with its own status."""
    found = refusal(answer.content)
    if found is None:
        return
    status, words = found
    headers = {name: answer.headers[name] for name in RESETS if name in answer.headers}
    response = httpx.Response(status, headers=headers, request=answer.request)
    cause = httpx.HTTPStatusError(words, request=answer.request, response=response)
    raise vf.ProviderError(f"upstream {status}: {words}", status_code=status) from cause


def newer_name(body: dict) -> dict:
    """The body with `max_tokens` under OpenAI's newer name for it."""
    if "max_tokens" not in body:
        return body
    rest = {key: value for key, value in body.items() if key != "max_tokens"}
    return {**rest, "max_completion_tokens": body["max_tokens"]}


def wants_newer_name(error: vf.ProviderError, body: dict) -> bool:
    """Whether a refusal asks for `max_completion_tokens`, as OpenAI's reasoning models do."""
    asks = error.status_code in (400, 422) and "max_completion_tokens" in str(error)
    return asks and "max_tokens" in body and meaning(error) != "overflow"


def single_calls(body: dict) -> dict:
    """The body with one call a turn."""
    return {**body, "messages": list(one_by_one(body["messages"]))}


def wants_single_calls(error: vf.ProviderError, body: dict) -> bool:
    """Whether a template refuses several calls in one past turn, as Llama 3.1's does."""
    made = [
        message.get("tool_calls") or () for message in body.get("messages", ()) if isinstance(message, dict)
    ]
    return meaning(error) == "single calls" and any(len(calls) > 1 for calls in made)


WISHES = {
    "newer name": (wants_newer_name, newer_name),
    "single calls": (wants_single_calls, single_calls),
}
"""How a model may want a request written: whether an error says so, and what does it."""


def moved(error: vf.ProviderError) -> vf.ProviderError | None:
    """The error of a redirection, with the base address that it leads to; None for another error."""
    answer = getattr(error.__cause__, "response", None)
    if answer is None or not answer.has_redirect_location:
        return None
    target = str(answer.url.join(answer.headers["location"])).partition("?")[0]
    base = target.removesuffix(ChatDialect.upstream_path)
    loops = target == str(answer.url).partition("?")[0]
    remedy = f"give --base-url {base}" if base != target and not loops else "check --base-url"
    text = f"upstream {answer.status_code}: the server sends the call on to {target[:200]}; {remedy}"
    return vf.ProviderError(text, status_code=answer.status_code)
