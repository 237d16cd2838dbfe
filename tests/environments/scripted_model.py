"""A chat server whose model follows a script: what it says depends on how many replies the dialogue already
holds.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

Script = Callable[[int, dict], dict | Awaitable[dict]]
"""(replies so far, request body) → an assistant message, or one of the failures below, or what awaits it."""

HANG = {"fails": "hang"}
NOT_JSON = {"fails": "not json"}
ERROR_500 = {"fails": "500"}


def refuses(status: int, text: str, **headers: str) -> dict:
    """An error as servers send it, with headers such as retry_after."""
    return {"fails": status, "text": text, "headers": {k.replace("_", "-"): v for k, v in headers.items()}}


def sends(body: bytes) -> dict:
    """A body that goes out as it is, with status 200."""
    return {"fails": "body", "body": body}


def cut(reply: dict) -> dict:
    """The same reply, ended by a length limit."""
    return {**reply, "finish": "length"}


def calls(*made: tuple[str, object], text: str | None = None) -> dict:
    """An assistant message with these (tool name, arguments) calls; arguments that are a string go out as
    they are.
    """
    tool_calls = [
        {
            "id": f"call-{index}-{name}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for index, (name, given) in enumerate(made)
    ]
    return {"role": "assistant", "content": text, "tool_calls": tool_calls}


def says(text: str) -> dict:
    return {"role": "assistant", "content": text}


def replies_so_far(body: dict) -> int:
    return sum(message["role"] == "assistant" for message in body["messages"])


def observation(body: dict) -> dict:
    """What the model saw last: the JSON at the end of the latest message."""
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[-1]["text"]
    return json.loads(text[text.index('{"memory_usage"') :])


def numbered(reply: dict, turn: int) -> dict:
    """The reply with call ids that are unique in the dialogue."""
    made = [{**call, "id": f"{call['id']}-{turn}"} for call in reply.get("tool_calls") or []]
    return {**reply, **({"tool_calls": made} if made else {})}


class ScriptedModel:
    """The server; `requests` holds every body that it was sent."""

    def __init__(self, script: Script) -> None:
        self.script, self.requests, self.base_url = script, [], ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        turn = replies_so_far(body)
        reply = self.script(turn, body)
        if isinstance(reply, Awaitable):
            reply = await reply
        if reply.get("fails") == "hang":
            await asyncio.sleep(30)
        if reply.get("fails") == "500":
            return web.json_response(
                {"error": {"message": "out of memory", "type": "server_error"}}, status=500
            )
        if isinstance(reply.get("fails"), int):
            error = {"error": {"message": reply["text"], "type": "invalid_request_error"}}
            return web.json_response(error, status=reply["fails"], headers=reply["headers"])
        if reply.get("fails") == "body":
            return web.Response(body=reply["body"], content_type="application/json")
        if reply.get("fails"):
            return web.Response(text="<html>bad gateway</html>", content_type="application/json")
        message = numbered(reply, turn)
        finish = message.pop("finish", None) or ("tool_calls" if message.get("tool_calls") else "stop")
        head = {"id": f"chatcmpl-{turn}", "created": 1, "model": body["model"]}
        usage = {"prompt_tokens": 100 * turn + 100, "completion_tokens": 10, "total_tokens": 100 * turn + 110}
        if not body.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": finish}
            return web.json_response(
                {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            )
        if message.get("tool_calls"):
            message["tool_calls"] = [
                {**call, "index": index} for index, call in enumerate(message["tool_calls"])
            ]
        head["object"] = "chat.completion.chunk"
        chunks = [
            {**head, "choices": [{"index": 0, "delta": message, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
            {**head, "choices": [], "usage": usage},
        ]
        events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks] + ["data: [DONE]\n\n"]
        return web.Response(text="".join(events), content_type="text/event-stream")


@contextmanager
def serving(script: Script) -> Iterator[ScriptedModel]:
    """The model behind an address on loopback, as long as the block lasts."""
    model, loop, ready = ScriptedModel(script), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", model.complete)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        model.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the scripted model did not start within 10 s")
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
