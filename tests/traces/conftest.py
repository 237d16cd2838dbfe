"""Small traces made on the spot, and the published ones where they are at hand."""

import gzip
import json
from pathlib import Path

import pytest

REAL = Path(__file__).parents[2] / "../shared/traces"


@pytest.fixture
def write(tmp_path):
    """write(lines, name) → the path of a file of these lines (text, or objects for JSON), gzip if named .gz."""

    def write_lines(lines, name="trace.jsonl"):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        data = "".join(text + "\n" for text in texts).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write_lines


@pytest.fixture
def real():
    """real(name) → the path of a published trace, or a skipped test that says where it was looked for."""

    def find(name):
        path = REAL / name
        if not path.is_file():
            pytest.skip(f"the published trace {name} is not under {REAL.resolve()}; download it to run this test")
        return path

    return find


@pytest.fixture
def call():
    """call(t, tokens, runs, **changes) → one request of a Claude Code session."""

    def make(t, tokens, runs, **changes):
        request = {"t": t, "type": "n", "model": "m", "in": tokens, "out": 100, "stop": "tool_use", "api_time": 2.0}
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
        entry = {"t": t, "type": "subagent", "agent_id": "agent_001", "subagent_type": "Explore", "tool_tokens": 32}
        return entry | {"system_tokens": 32, "requests": requests} | changes

    return make
