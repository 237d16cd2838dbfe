"""Where things are: no circle of imports, the same wings on every floor, the same rooms in every world."""

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import kv_cache_rl

PACKAGE = Path(kv_cache_rl.__file__).parent
TESTS = Path(__file__).parent
WORLDS = ("eviction", "hierarchy", "serving")
FLOORS = {
    "sim": WORLDS,
    "search": ("eviction", "serving"),
    "experiments": (*WORLDS, "stability", "engine"),
    "reports": (*WORLDS, "stability", "paged", "engine"),
    "cli": (*WORLDS, "stability", "paged", "engine"),
}
"""Floor → its wings, folders or modules of that name. The hierarchy lab has bounds in place of a search."""
ONLY_TESTS = {"golden", "environments", "deploy"}
"""Folders of tests that have no folder in the package of the same name."""


def modules() -> dict[str, Path]:
    """Name → file of every module of the package."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(node: ast.AST) -> Iterator[str]:
    """Modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        inside = [f"{node.module}.{alias.name}" for alias in node.names]
        names = [name if name in MODULES else node.module for name in inside]
    else:
        return
    yield from (name for name in names if name in MODULES)


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    """The nodes below one that run when the module is imported, or all; TYPE_CHECKING blocks left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        yield child
        yield from statements(child, inside_functions)


def graph(inside_functions: bool) -> dict[str, set[str]]:
    """Module → the modules it imports; not the packages around them, which Python imports on the way."""
    return {
        name: {
            other
            for node in statements(ast.parse(path.read_text()), inside_functions)
            for other in imported(node)
            if other != name
        }
        for name, path in MODULES.items()
    }


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that reach each other, grouped. Source: Tarjan, SIAM J. Comput. 1 (1972), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []
    for root in sorted(edges):
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        work = [(root, iter(sorted(edges[root])))]
        while work:
            node, below = work[-1]
            for other in below:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(sorted(edges[other]))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    group, stack[at:] = stack[at:], []
                    if len(group) > 1:
                        found.append(sorted(group))
    return found


def test_a_circle_would_be_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert sorted(circles(edges)) == [["a", "b", "c"], ["d", "e"]]


def test_imports_inside_functions_are_told_from_those_of_the_module():
    code = (
        "import kv_cache_rl.jit\ndef f():\n    from kv_cache_rl import lazy\nif TYPE_CHECKING:\n    "
        "import kv_cache_rl.core\n"
    )
    named = [
        {name for node in statements(ast.parse(code), every) for name in imported(node)}
        for every in (False, True)
    ]
    assert named == [{"kv_cache_rl.jit"}, {"kv_cache_rl.jit", "kv_cache_rl.lazy"}]


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph(inside_functions=False)) == []


def test_no_circle_is_hidden_inside_functions():
    assert circles(graph(inside_functions=True)) == []


@pytest.mark.parametrize(
    ("floor", "wing"), [(floor, wing) for floor, wings in FLOORS.items() for wing in wings]
)
def test_every_floor_has_its_wings_in_the_package_and_in_the_tests(floor, wing):
    assert (PACKAGE / floor / wing).is_dir() or (PACKAGE / floor / f"{wing}.py").is_file()
    tests = TESTS / floor
    assert (tests / wing).is_dir() or (tests / f"test_{wing}.py").is_file()


@pytest.mark.parametrize("wing", WORLDS)
def test_every_world_has_golden_files(wing):
    assert list((TESTS / "golden" / wing).glob("*.json"))


def test_the_tests_mirror_the_package():
    folders = [path for path in TESTS.rglob("*") if path.is_dir() and list(path.glob("test_*.py"))]
    strangers = [
        name
        for path in folders
        if not (PACKAGE / (name := path.relative_to(TESTS).as_posix())).is_dir()
        and name.split("/")[0] not in ONLY_TESTS
    ]
    assert strangers == []


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("spec", ("Scenario",)),
        ("generate", ()),
        ("state", ("State",)),
        ("dynamics", ("new_state",)),
        ("observe", ()),
        ("score", ("METRICS", "Report")),
    ],
)
def test_every_world_has_the_same_rooms(world, room, names):
    name = f"kv_cache_rl.sim.{world}.{room}"
    assert name in MODULES
    module = import_module(name)
    missing = [thing for thing in names if not hasattr(module, thing)]
    assert missing == []
    defined = [getattr(module, thing) for thing in names if thing != "METRICS"]
    assert [thing.__module__ for thing in defined] == [name] * len(defined), "defined there, not passed on"


def test_what_is_named_slow_is_there(pytestconfig):
    [conftest] = [
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(TESTS / "conftest.py")
    ]
    assert [place for place in conftest.SLOW if not (TESTS.parent / place).exists()] == []


def test_no_test_measures_a_cost_by_the_clock_on_the_wall():
    """A busy machine stretches it: costs are CPU seconds, of `time.thread_time` or `time.process_time`. Only
    the pace of the page, which `make page` measures alone, is what a person waits.
    """
    by_clock = [path.name for path in TESTS.rglob("*.py") if f"perf_{'counter'}()" in path.read_text()]
    assert by_clock == ["test_pace.py"]
