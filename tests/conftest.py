"""Trace files made on the spot, and the published ones where they are at hand."""

import gzip
import json
from pathlib import Path

import pytest

PUBLISHED = Path(__file__).parents[1] / "../shared/traces"


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


@pytest.fixture(scope="session")
def real():
    """real(name) → the path of a published trace, or a skipped test that says where it was looked for."""

    def find(name):
        path = PUBLISHED / name
        if not path.is_file():
            pytest.skip(f"the published trace {name} is not under {PUBLISHED.resolve()}; download it to run this test")
        return path

    return find
