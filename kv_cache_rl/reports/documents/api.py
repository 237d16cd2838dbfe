"""The public names of packages for the API page, read from the text of their ``__init__.py``.

Nothing is imported: a page can be written without torch or gymnasium.
"""

import ast
from collections.abc import Iterator
from functools import partial

FACES = ("sim.eviction", "sim.hierarchy", "sim.serving", "paged", "gym", "agents", "traces")
"""Packages whose public names the page lists, below kv_cache_rl."""


def listing(package: str, source: str) -> str:
    """The first paragraph of a package's docstring, and a directive for each module with public names."""
    tree = ast.parse(source)
    about = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    parts = [about] + [
        f"::: {module}\n    options:\n      members: [{', '.join(names)}]"
        for module, names in homes(package, tree).items()
    ]
    return "\n\n".join(parts)


def homes(package: str, tree: ast.Module) -> dict[str, list[str]]:
    """Module → its public names, for packages that list them in `lazy` and those that import them."""
    found: dict[str, list[str]] = {}
    imported = {
        name.asname or name.name: node.module or package
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    for module, names in _lazy(package, tree):
        found.setdefault(module, []).extend(names)
    for name in _listed(tree):
        found.setdefault(imported.get(name, package), []).append(name)
    return found


def _lazy(package: str, tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Modules and names of the call ``lazy(__name__, {module: names})``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy":
            for module, names in ast.literal_eval(node.args[1]).items():
                yield f"{package}.{module}", tuple(names)


def _listed(tree: ast.Module) -> list[str]:
    """Names that ``__all__ = [...]`` gives as text."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List):
            if isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
                return [str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)]
    return []


TABLES = {
    f"api-{face.replace('.', '-')}": (
        partial(listing, f"kv_cache_rl.{face}"),
        f"../kv_cache_rl/{face.replace('.', '/')}/__init__.py",
    )
    for face in FACES
}
