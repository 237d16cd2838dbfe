"""What a decision maker is beyond its name: whatever changes what it does changes the digest."""

import importlib
import random
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from kv_cache_rl.agents import AGENTS
from kv_cache_rl.experiments.identity import identity_of
from kv_cache_rl.experiments.modules import is_own, sources_of

THRESHOLD = 0.9


def helper(seen):
    return seen[0] > THRESHOLD


class Agent:
    step = 1

    def __init__(self, level=0.5, table=None):
        self.level = level
        self.table = np.zeros(3) if table is None else table

    def reset(self, seed=0):
        self.rng = np.random.default_rng(seed)

    def act(self, seen, mask):
        return 8 if helper(seen) else 17


def made(level):
    """A factory that closes over what it gives."""
    return lambda: Agent(level)


def digest(factory):
    found = identity_of(factory)
    assert found.digest, found.trouble
    return found.digest


def test_equal_agents_have_equal_digests_and_every_difference_shows():
    class Other(Agent):
        def act(self, seen, mask):
            return 9 if helper(seen) else 17

    class Named(Agent):
        step = 2

    same = [partial(Agent, 0.5), partial(Agent, 0.5)]
    assert digest(same[0]) == digest(same[1])
    factories = [
        Agent,
        partial(Agent, 0.25),
        partial(Agent, table=np.array([0.0, 0.0, 1.0])),
        partial(Agent, table=np.zeros(3, np.float32)),
        partial(Agent, table=[0, 0, 1]),
        partial(Agent, table={"a": 1}),
        partial(Agent, table={"a": "1"}),
        partial(Agent, table={1, 2}),
        partial(Agent, table=random.Random(4)),
        partial(Agent, table=random.Random(5)),
        partial(Agent, table=np.random.default_rng(5)),
        made(0.3),
        made(0.4),
        Other,
        Named,
        *AGENTS.values(),
    ]
    assert len({digest(factory) for factory in factories}) == len(factories)


def test_a_global_that_the_code_names_counts_however_deep(monkeypatch):
    before = digest(Agent)
    monkeypatch.setattr(sys.modules[__name__], "THRESHOLD", 0.8)
    changed = digest(Agent)
    monkeypatch.setattr(sys.modules[__name__], "THRESHOLD", 0.9)
    assert before == digest(Agent) != changed


def test_a_method_put_in_its_place_counts(monkeypatch):
    before = digest(Agent)
    monkeypatch.setattr(Agent, "act", lambda self, seen, mask: 17)
    assert digest(Agent) != before


def test_what_refers_to_itself_is_walked_to_an_end():
    loop = [1]
    loop.append(loop)
    assert digest(partial(Agent, table=loop)) == digest(partial(Agent, table=loop))
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert identity_of(partial(Agent, table=deep)).trouble == "it holds values that are nested too deep"


def test_what_no_digest_covers_is_named_unless_it_declares_its_files(tmp_path):
    weights = tmp_path / "model.bin"
    weights.write_bytes(b"one")

    class Holds(Agent):
        def __init__(self):
            super().__init__()
            self.model = subprocess.CompletedProcess((), 0)

    class Declares(Holds):
        weights = str(tmp_path / "model.bin")

    found = identity_of(Holds)
    assert found.digest is None and found.trouble == "it.model is a subprocess.CompletedProcess"
    before = digest(Declares)
    assert digest(Declares) == before
    weights.write_bytes(b"two")
    assert digest(Declares) != before
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        identity_of(Declares)


def test_an_array_named_weights_is_state_as_any_other():
    class Linear(Agent):
        def __init__(self, last):
            super().__init__()
            self.weights = np.array([1.0, last])

    assert digest(partial(Linear, 2.0)) != digest(partial(Linear, 3.0))


def test_parameters_of_a_network_count():
    torch = pytest.importorskip("torch")

    class Net(Agent):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.layer = torch.nn.Linear(2, 2)

    assert digest(partial(Net, 1)) == digest(partial(Net, 1)) != digest(partial(Net, 2))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of a user's own: an agent, what it imports, and what it imports only when it acts."""
    folder = tmp_path / "chosen_agents"
    folder.mkdir()
    files = {
        "__init__": "",
        "mine": "from . import near\nclass Mine:\n    def reset(self, seed=0): pass\n"
        "    def act(self, seen, mask):\n        from chosen_agents.late import pick\n"
        "        return pick(near.LEVEL)\n",
        "near": "import numpy\nLEVEL = 3\n",
        "late": "from chosen_agents import far\ndef pick(level): return far.TABLE[level]\n",
        "far": "TABLE = [17] * 9\n",
        "apart": "UNUSED = 1\n",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.startswith("chosen_agents")]:
        del sys.modules[name]


def test_every_source_file_that_it_imports_counts_and_no_other(project):
    factory = importlib.import_module("chosen_agents.mine").Mine
    names = [name for name, _ in sources_of(["chosen_agents.mine"])]
    assert names == ["chosen_agents", *(f"chosen_agents.{one}" for one in ("far", "late", "mine", "near"))]
    before = digest(factory)
    for name in ("apart", "far", "late"):
        (project / f"{name}.py").write_text((project / f"{name}.py").read_text() + "# another line\n")
        assert (digest(factory) == before) == (name == "apart")
        before = digest(factory)


def test_whose_code_it_is():
    assert is_own("__main__") and is_own(__name__) and is_own("not_there_at_all")
    for name in ("numpy", "numpy.linalg", "json", "sys", "kv_cache_rl.agents", "pytest"):
        assert not is_own(name), name
    assert is_own("numpy.linalg", {"numpy"})


def test_digests_do_not_depend_on_the_process():
    code = (
        "from kv_cache_rl.agents import AGENTS\nfrom kv_cache_rl.experiments.identity import identity_of\n"
        "class A:\n    names = {'a', 'b', 'c', 'd'}\n"
        "    def act(self, seen, mask):\n        return 1 in {1, 'x', 'y'}\n"
        "print(identity_of(A).digest, [identity_of(one).digest for one in AGENTS.values()])"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(said) == 1
