"""Trace files made on the spot, and published traces and golden results where they are at hand."""

import functools
import gzip
import json
import os
import signal
import ssl
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import settings

HERE = Path(__file__).parent
PUBLISHED = Path(os.environ.get("KV_CACHE_RL_TRACES") or HERE.parent / "../shared/traces")
"""Published traces: a folder beside the checkout, or the one that the environment variable names."""
GOLDEN = HERE.parent / "../shared/golden/hierarchy"
NO_TRACE, NO_GOLDEN = "the published trace", "the golden results"
"""How the reason of a test begins that was skipped for want of one."""

# A busy machine, or a first compilation, must not fail a law.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# Every core has a test process of its own: more threads of torch or BLAS would only wait, spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every HTTP client loads the certificates of the machine, 40 ms each time; no test speaks TLS.
ssl.create_default_context = functools.cache(ssl.create_default_context)

# A test run that a shell started in the background inherits an ignored SIGINT, and so do its children.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Plain models and drivers that several folders of tests use.
PLAIN = (".", "sim/hierarchy", "sim/serving", "experiments/engine", "paged", "cli")
sys.path[:0] = [str(HERE / folder) for folder in PLAIN]


SLOW = (
    "tests/adapters/http/test_fuzzed.py",
    "tests/adapters/http/test_server.py",
    "tests/agents/test_orderings.py",
    "tests/agents/test_speed.py",
    "tests/cli/eviction/test_bench.py",
    "tests/cli/hierarchy/test_real_traces.py",
    "tests/cli/paged/test_calibration.py",
    "tests/cli/stability/test_validate.py",
    "tests/environments/test_commands.py",
    "tests/environments/test_two_ways.py",
    "tests/experiments/eviction/test_landscape.py",
    "tests/experiments/hierarchy/test_heldout.py",
    "tests/experiments/stability/",
    "tests/gym/test_trainers.py",
    "tests/paged/training/",
    "tests/search/",
    "tests/sim/hierarchy/test_published_rates.py",
    "tests/test_docs.py",
    "tests/test_notebook.py",
    "tests/test_readme.py",
    "tests/traces/test_published_traces.py",
)
"""Where the slowest tests are, by `--durations`; they are marked `slow`, and `make quick` leaves them out."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")


def left_out(reasons: list[str]) -> str:
    """One line that says how many tests were skipped for want of a file, empty where none was.

    >>> left_out([f"{NO_TRACE} a.jsonl is not there", f"{NO_TRACE} b.csv is not there", "no GPU"])
    'skipped for want of files: 2 tests of published traces (name their folder in KV_CACHE_RL_TRACES)'
    """
    counts = {begin: sum(begin in reason for reason in reasons) for begin in (NO_TRACE, NO_GOLDEN)}
    words = {
        NO_TRACE: "tests of published traces (name their folder in KV_CACHE_RL_TRACES)",
        NO_GOLDEN: f"tests of golden results ({GOLDEN.resolve()})",
    }
    found = [f"{count} {words[begin]}" for begin, count in counts.items() if count]
    return f"skipped for want of files: {', '.join(found)}" if found else ""


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    line = left_out([report.longrepr[-1] for report in skipped if isinstance(report.longrepr, tuple)])
    if line:
        terminalreporter.write_line(line)


@pytest.fixture
def write(tmp_path):
    """write(lines, name) → the path of a file of these lines (text or JSON objects), gzip if named .gz."""

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
            pytest.skip(
                f"{NO_TRACE} {name} is not under {PUBLISHED.resolve()}; download it, or name its folder in "
                "KV_CACHE_RL_TRACES, to run this test"
            )
        return path

    return find


@pytest.fixture(scope="session")
def golden():
    """golden(name) → the content of a golden file, or a skipped test that says where it was looked for."""

    def read(name):
        path = GOLDEN / f"{name}.json"
        if not path.is_file():
            pytest.skip(
                f"{NO_GOLDEN} {name}.json are not under {GOLDEN.resolve()}; put them there to run this test"
            )
        return json.loads(path.read_text())

    return read


@pytest.fixture(scope="session")
def sweep():
    """The 210 rows of the peer's default sweep as this project computes them."""
    from kv_cache_rl.sim.hierarchy.peer.reproduce import sweep_rows

    return sweep_rows()


@pytest.fixture(scope="session")
def ablation():
    """The 198 rows of the peer's regret ablation as this project computes them."""
    from kv_cache_rl.sim.hierarchy.peer.ablation import ablation_rows

    return ablation_rows()


@pytest.fixture(scope="session")
def published(real):
    """published(name, **options) → a published trace, prompts alone unless `options` say else, loaded once,
    or a skipped test that says where it was looked for.
    """
    from kv_cache_rl.sim.hierarchy.traces.load import load_trace

    loaded = {}

    def find(name, **options):
        key = (name, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = load_trace(real(name), **{"decode_writes": False, **options})
        return loaded[key]

    return find


@pytest.fixture(scope="session")
def made():
    """made(difficulty, index) → an unselected eviction scenario that no committed set holds."""
    from kv_cache_rl.sim.eviction.generate import generate

    return functools.cache(lambda difficulty, index: generate(difficulty, 4_242, "train", index))
