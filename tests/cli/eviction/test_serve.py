"""The server that anyone can start: it says where it is, answers any client, and stops on request."""

import json
import signal
import subprocess
import sys

import httpx
import openai
import pytest

from kv_cache_rl.adapters import endpoint
from kv_cache_rl.cli.eviction.serve import run_serve
from kv_cache_rl.sim.eviction import SYSTEM_PROMPT, TOOLS, Episode, load_scenarios

MAIN = [sys.executable, "-c", "from kv_cache_rl.cli import main; main()"]


def read_object(lines) -> dict:
    text = ""
    for line in lines:
        text += line
        if line.startswith("}"):
            return json.loads(text)
    raise AssertionError(f"the server ended after {text!r}")


def test_serve_policy_says_where_it_is_answers_a_client_and_stops_on_interrupt():
    command = [*MAIN, "serve-policy", "--policy", "evict_all", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = read_object(server.stdout)
            episode = Episode(load_scenarios(num_examples=1)[0])
            messages = [
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": episode.prompt()},
            ]
            with openai.OpenAI(base_url=said["base_url"], api_key="any") as chat:
                reply = chat.chat.completions.create(model="evict_all", messages=messages, tools=TOOLS)
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(timeout=20)
    assert said["models"] == ["evict_all"]
    assert {call.function.name for call in reply.choices[0].message.tool_calls} == {"evict"}
    assert code == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{said['base_url']}/models")


def test_what_answers_is_compiled_before_the_address_is_said(monkeypatch, capsys):
    """A first request that compiles holds every other one up for half a minute."""
    said = []
    monkeypatch.setattr(endpoint, "answer", lambda name, texts: said.append(capsys.readouterr().out))

    class Server:
        def run(self, sockets):
            said.append(capsys.readouterr().out)

    monkeypatch.setattr(endpoint, "server_for", lambda policy: Server())
    run_serve(policy="lru", port=0, as_json=True)
    assert said[0] == "" and json.loads(said[1])["models"] == ["lru"]
