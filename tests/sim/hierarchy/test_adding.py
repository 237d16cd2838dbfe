"""Adding a queue takes a file, its import and one line: commands and contract tests know it then."""

import pytest
from editing import ROOT, command, edited, execute

MODULE = '''"""MRU: the page that entered or was used last leaves first.

    used      to the newest end of A
    victim    the newest of A
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.lists import page_of
from kv_cache_rl.sim.hierarchy.queues.lru import used as used
from kv_cache_rl.sim.hierarchy.state import LISTS


@uncounted
def victim(s, t):
    """The newest page."""
    return page_of(s, t, s.node[s.settings.nodes + t * LISTS].next)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package with a queue more."""
    folder = edited(
        tmp_path_factory.mktemp("edited"),
        "sim/hierarchy/queues/__init__.py",
        ("from kv_cache_rl.sim.hierarchy.state", "from kv_cache_rl.sim.hierarchy.queues import mru\n"),
        ("}\nQUEUE_IDS", '    "mru": Queue(mru.victim, mru.used),\n'),
    )
    (folder / "kv_cache_rl/sim/hierarchy/queues/mru.py").write_text(MODULE, encoding="utf-8")
    return folder


def test_a_queue_is_known_to_the_commands(folder):
    line = "hierarchy replay workload:rag_burst --policy mru,lru --capacity 24 --json"
    assert '"policy": "mru"' in command(folder, line)


def test_the_contract_tests_ask_it_and_it_passes(folder):
    path = ROOT / "tests/sim/hierarchy/test_engine_contract.py"
    ran = execute(folder, "-m", "pytest", "-p", "no:cacheprovider", path, "-k", "mru", NUMBA_DISABLE_JIT="1")
    assert "1 passed" in ran
