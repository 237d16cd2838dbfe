"""Every error of the package is one that a user can solve, or a bug that is listed here."""

import ast
import importlib
import pkgutil

import kv_cache_rl
from kv_cache_rl.core.errors import Refused

BUGS = {"LedgerError"}
"""States that cannot be; the simulator is wrong where one is raised."""
SIGNALS = {"Interrupted", "Damaged"}
"""No errors: Ctrl-C, with what is saved; a file of the compile cache, which is then made anew."""
REPLIES = {"Failure", "GivenUp", "Lost", "NoReply", "Unread"}
"""What a chat server or its model did; the caller counts it, tries again, or writes it down."""
JOBS = {"JobFailed"}
"""How a process of the HTTP server ended; the route says it as a status."""

SYSTEMS = {"NotAFile"}
"""The operating system's kind: the command line says them with the file's name."""


def classes() -> dict[str, type]:
    """Name → every exception class that a module of the package defines, errors of missing extras aside."""
    found: dict[str, type] = {}
    for info in pkgutil.walk_packages(kv_cache_rl.__path__, "kv_cache_rl."):
        if info.name.endswith(".triton_decode"):  # needs a GPU's compiler, defines no error
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == info.name:
                found[value.__name__] = value
    return found


def test_every_exception_is_refused_or_on_the_short_list():
    found = classes()
    strangers = {name for name, kind in found.items() if not issubclass(kind, Refused)}
    assert strangers == BUGS | SIGNALS | REPLIES | JOBS | SYSTEMS
    assert all(issubclass(found[name], RuntimeError) for name in BUGS)
    assert all(issubclass(found[name], OSError) for name in SYSTEMS)
    assert len(found) > 20


def test_refused_is_the_one_root_and_is_a_value_error():
    assert Refused.__bases__ == (ValueError,)
    others = {name for name, kind in classes().items() if kind.__bases__ == (ValueError,)}
    assert others == {"Refused"}


def test_the_command_line_looks_for_no_error_by_its_name():
    from kv_cache_rl.cli import failures

    tree = ast.parse(open(failures.__file__).read())
    named = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "modules" not in named, "no search through sys.modules"
