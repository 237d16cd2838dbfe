"""The face of a package: public names, each imported from its module when it is first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(package: str, home: Mapping[str, Sequence[str]]) -> tuple[list[str], Callable[[str], Any]]:
    """`__all__` and `__getattr__` of a package; `home` says which module defines which names.

    ``__all__, __getattr__ = lazy(__name__, {"spec": ("Scenario",)})`` at the end of an
    ``__init__.py``.
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def getattr_(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return sorted(module_of), getattr_
