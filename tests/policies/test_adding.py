"""Adding a rank takes its functions and one line: the commands and the contract tests know it then."""

import pytest
from editing import ROOT, command, edited, execute

FUNCTIONS = '''@uncounted
def most_used(c):
    """Most frequently used."""
    return -c[Column.USES]


@uncounted
def impatience(last, now):
    """What idleness takes, at most 5."""
    return -min(now - last, 5.0)


@uncounted
def impatient(c):
    """Fewest uses, less up to five for idleness."""
    return c[Column.USES] + impatience(0.0, c[Column.IDLE])


'''
LINES = {
    "most_used": '    "most_used": Rank(most_used),\n',
    "impatient": '    "impatient": Rank(impatient, drift=impatience),\n',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package with a rank that stands still and one that drifts."""
    lines = ("}\nRANK_IDS", "".join(LINES.values()))
    start = ("RANKS: dict[str, Rank] = {\n", FUNCTIONS)
    return edited(tmp_path_factory.mktemp("edited"), "policies/rank.py", start, lines)


@pytest.mark.parametrize("name", LINES)
def test_a_rank_is_known_to_the_commands(folder, name):
    out = command(folder, f"hierarchy replay workload:rag_burst --policy {name} --capacity 24 --json")
    assert f'"policy": "{name}"' in out


@pytest.mark.parametrize(
    ("contract", "cases"), [("policies/test_rank.py", 4), ("sim/hierarchy/test_engine_contract.py", 1)]
)
def test_the_contract_tests_ask_it_and_it_passes(folder, contract, cases):
    path = ROOT / "tests" / contract
    ran = execute(
        folder,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        path,
        "-k",
        "most_used or impatient",
        NUMBA_DISABLE_JIT="1",
    )
    assert f"{cases * len(LINES)} passed" in ran
