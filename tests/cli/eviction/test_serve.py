"""The server that anyone can start: it says where it is, answers any client, and stops on request."""

import json
import signal
import subprocess
import sys

import httpx
import openai
import pytest

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
