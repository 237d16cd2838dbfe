"""Records of small traces made on the spot."""

import pytest


@pytest.fixture
def call():
    """call(t, tokens, runs, **changes) → one request of a Claude Code session."""

    def make(t, tokens, runs, **changes):
        request = {
            "t": t,
            "type": "n",
            "model": "m",
            "in": tokens,
            "out": 100,
            "stop": "tool_use",
            "api_time": 2.0,
        }
        request |= {"think_time": 1.0, "it": ["tool_result"], "ot": ["text", "tool_use"], "h": runs}
        return request | changes

    return make


@pytest.fixture
def session():
    """session(id, requests, **changes) → one line of a Claude Code trace."""

    def make(name, requests, **changes):
        line = {"id": name, "models": ["m"], "block_size": 64, "hash_id_scope": "local", "tool_tokens": 64}
        line |= {"system_tokens": 64, "exact_duplicate": False, "requests": requests}
        return line | changes

    return make


@pytest.fixture
def agent():
    """agent(t, requests, **changes) → a sub-agent inside a session's requests."""

    def make(t, requests, **changes):
        entry = {
            "t": t,
            "type": "subagent",
            "agent_id": "agent_001",
            "subagent_type": "Explore",
            "tool_tokens": 32,
        }
        return entry | {"system_tokens": 32, "requests": requests} | changes

    return make
