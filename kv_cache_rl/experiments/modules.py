"""Which modules are a user's own code, not this package's nor an installed library's, and the source files
that they need.
"""

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

PACKAGE = "kv_cache_rl"
INSTALLED = {"site-packages", "dist-packages"}
STANDARD = Path(sysconfig.get_paths()["stdlib"])


def is_own(module: str, roots: Iterable[str] = ()) -> bool:
    """Whether this is a user's own code: below one of these top packages, or neither this package's, the
    standard library's nor installed.
    """
    root = module.partition(".")[0]
    if root == PACKAGE or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return False
    if root in roots or module == "__main__":
        return True
    file = file_of(module)
    return file is None or not (INSTALLED & set(file.parts) or STANDARD in file.parents)


def file_of(module: str) -> Path | None:
    """The source file of a module, imported or not; None where it has none."""
    try:
        found = sys.modules.get(module)
        name = getattr(found, "__file__", None) if found else getattr(find_spec(module), "origin", None)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(name) if name and Path(name).is_file() else None


def sources_of(modules: Iterable[str], roots: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Name and digest of these modules' source files and of all own modules that they import, by name.

    Imports inside functions count; names that are put together while the program runs are not seen.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        file = file_of(module)
        if module in found or file is None:
            continue
        data = file.read_bytes()
        found[module] = hashlib.sha256(data).hexdigest()
        package = module if file.stem == "__init__" else module.rpartition(".")[0]
        waiting += [name for name in imported(data, package) if is_own(name, roots)]
    return sorted(found.items())


def imported(source: bytes, package: str) -> Iterator[str]:
    """The modules that a source file may import, from anywhere in it; none where it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # beyond the top package
                continue
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            # A package counts with every module below it that is named.
            parts = name.split(".")
            yield from (".".join(parts[: k + 1]) for k in range(len(parts)))
