"""The reading order in the package's docstring: complete, and without an import circle."""

import ast
import re
from pathlib import Path

from kv_cache_rl import paged

ENGINE = Path(paged.__file__).parent
ROWS = re.findall(r"^    (?!folders)\w+(?: bits)? +([\w, ]+)$", paged.__doc__ or "", re.MULTILINE)
ORDER = [module for row in ROWS for module in row.split(", ")]


def imported(module):
    """Modules of the package that a module imports anywhere, for types alone included."""
    tree = ast.parse((ENGINE / f"{module}.py").read_text())
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[2] for name in names if name.startswith("kv_cache_rl.paged.")}


def test_the_reading_order_names_every_module_once():
    modules = {path.stem for path in ENGINE.glob("*.py")} - {"__init__", "train"}
    assert sorted(ORDER) == sorted(modules)


def test_each_module_stands_behind_those_that_it_imports():
    early = {
        (module, other)
        for at, module in enumerate(ORDER)
        for other in imported(module)
        if other not in ORDER[:at]
    }
    assert not early, "an import circle, or a module that is listed too early"
