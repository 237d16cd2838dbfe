"""What a decision maker is beyond its name: a digest of its code and of what it holds.

Walked are functions (code, defaults, closures and the globals they name), classes, and the values these
hold, as far as they are neither this package's nor an installed library's: those count by name and version.
The source files of the modules that are met, and of all that these import, count as well, and so do the files
that the decision maker declares as its `weights`.
"""

import enum
import hashlib
import logging
import os
import random
import re
import sys
import types
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.experiments.modules import file_of, is_own, sources_of
from kv_cache_rl.files import regular

PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray, type(Ellipsis), PurePath, range, slice)
STATES = ("state_dict", "get_parameters")
"""Methods by which a library's model gives all that it learned: PyTorch's, Stable-Baselines3's."""
NOT_CODE = {
    *(
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__abstractmethods__",
        "_abc_impl",
    ),
    *("__static_attributes__", "__firstlineno__", "__slots__", "__annotate__", "__annotations_cache__"),
}
"""Members of a class that do not change what it does."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A decision maker's digest; without one, what stands against it."""

    digest: str | None
    trouble: str = ""


def identity_of(factory: Callable[[], Any]) -> Identity:
    """What a factory makes: equal digests mean the same code, state and weights.

    Raises:
        OSError: a file that it declares as its weights cannot be read.
        Refused: what it declares as its weights is a number.
    """
    made = factory()
    declared = next(
        (files for one in (made, factory) if (files := files_of(getattr(one, "weights", None)))), []
    )
    walk = Walk({*map(root_of, (made, factory))})
    try:
        walk.take(factory, "its factory")
        walk.take(made, "it")
        walk.note(*(f"{name} {digest}" for name, digest in sources_of(walk.modules, walk.roots)))
    except RecursionError:
        walk.troubles.append("it holds values that are nested too deep")
    except Exception as wrong:  # of foreign code that is not used to being looked at
        walk.troubles.append(f"what it holds cannot be looked at, {type(wrong).__name__}: {wrong}")
    for file in declared:
        walk.note(hashlib.sha256(regular(file).read_bytes()).hexdigest())
    if walk.troubles and not declared:
        return Identity(None, walk.troubles[0])
    return Identity(walk.digest())


def files_read(factory: Callable[[], Any]) -> list[Path]:
    """The files that a factory and what it makes come from: their modules, all own modules that these import,
    and what they declare as their weights.

    Raises:
        Refused: what it declares as its weights is a number.
    """
    made = factory()
    modules = {one.__module__ for one in (factory, made, type(made)) if getattr(one, "__module__", None)}
    roots = {*map(root_of, (made, factory))}
    named = [name for name in modules if is_own(name, roots)]
    code = [file_of(name) for name, _ in sources_of(named, roots)]
    weights = [file for one in (made, factory) for file in files_of(getattr(one, "weights", None))]
    return [file for file in code if file is not None] + weights


def files_of(declared: Any) -> list[Path]:
    """The files that `weights` names; none where it holds something else, such as an array.

    Raises Refused for a number, which is neither.
    """
    if isinstance(declared, (int, float, complex, bytes)):
        raise Refused(f"its `weights` is {declared!r:.60}; give the path of a file, or a list of paths")
    names = declared if isinstance(declared, (list, tuple)) else [declared]
    return (
        [Path(name) for name in names] if all(isinstance(name, (str, os.PathLike)) for name in names) else []
    )


def root_of(value: Any) -> str:
    """The top package of what makes it, or of what it is an instance of."""
    while isinstance(value, partial):
        value = value.func
    return (getattr(value, "__module__", None) or type(value).__module__).partition(".")[0]


class Walk:
    """A digest that grows with all that is reached from a value."""

    def __init__(self, roots: set[str]) -> None:
        self.roots = roots
        """Top packages that count as the decision maker's own, wherever they are installed."""
        self.modules: set[str] = set()
        self.troubles: list[str] = []
        self._hash = hashlib.sha256()
        # By `id`, in the order in which they were met; kept alive, so that no other value gets the same.
        self._met: dict[int, tuple[int, Any]] = {}

    def digest(self) -> str:
        return self._hash.hexdigest()[:24]

    def note(self, *texts: str | bytes) -> None:
        """Adds texts, each with its length, so that no two series look alike."""
        for text in texts:
            data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def take(self, value: Any, where: str) -> None:
        """Adds a value and what it holds; `where` it stands is told where it cannot be added."""
        if isinstance(value, PLAIN):
            self.note(type(value).__name__, hex(value) if type(value) is int else repr(value))
        elif id(value) in self._met:
            self.note("again", str(self._met[id(value)][0]))
        else:
            self._met[id(value)] = len(self._met), value
            self.note(type(value).__qualname__)
            how = next((how for kind, how in KINDS if isinstance(value, kind)), Walk.instance)
            how(self, value, where)

    def each(self, values: Any, where: str) -> None:
        self.note(str(len(values)))
        for index, value in enumerate(values):
            self.take(value, f"{where}[{index}]")

    def unordered(self, values: Any, where: str) -> None:
        found = []
        for value in values:
            apart = Walk(self.roots)
            apart.take(value, where)
            self.modules |= apart.modules
            self.troubles += apart.troubles
            found.append(apart.digest())
        self.note(*sorted(found))

    def named(self, values: Mapping, where: str) -> None:
        self.note(str(len(values)))
        for name, value in values.items():
            self.take(name, where)
            self.take(value, f"{where}.{name}" if isinstance(name, str) else f"{where}[{name!r}]")

    def array(self, value: np.ndarray | np.generic, where: str) -> None:
        self.note(str(value.dtype), str(value.shape))
        if value.dtype.hasobject:
            self.take(value.tolist(), where)
        else:
            self.note(value.tobytes())

    def module(self, value: types.ModuleType, where: str) -> None:
        self._mine(value.__name__, value.__name__)

    def kind(self, value: type, where: str) -> None:
        if self._mine(value.__module__, value.__qualname__):
            self.each(value.__bases__, where)
            self.named({k: v for k, v in sorted(vars(value).items()) if k not in NOT_CODE}, value.__name__)

    def function(self, value: types.FunctionType, where: str) -> None:
        if self._mine(value.__module__, value.__qualname__):
            names = self.code(value.__code__)
            self.take(value.__defaults__, where)
            self.take(value.__kwdefaults__, where)
            known = value.__globals__
            self.named({name: known[name] for name in sorted(names & known.keys())}, value.__module__)
        self.each(value.__closure__ or (), f"what {value.__name__} closes over")

    def cell(self, value: types.CellType, where: str) -> None:
        try:
            self.take(value.cell_contents, where)
        except ValueError:  # not filled yet
            self.note("empty")

    def code(self, value: types.CodeType) -> set[str]:
        """Adds compiled Python; the names that it and what is defined in it look up."""
        names = set(value.co_names)
        self.note(value.co_code, *value.co_names, *value.co_varnames, *value.co_freevars)
        for constant in value.co_consts:
            if isinstance(constant, types.CodeType):
                names |= self.code(constant)
            else:
                self.take(constant, value.co_name)
        return names

    def instance(self, value: Any, where: str) -> None:
        kind = type(value)
        inner = getattr(value, "py_func", None) or getattr(value, "__wrapped__", None)
        if inner is not None:  # compiled by Numba, or kept by functools.cache
            self.take(inner, where)
        elif is_own(kind.__module__, self.roots) or kind.__module__.startswith("kv_cache_rl."):
            self.take(kind, where)
            slots = [name for base in kind.__mro__ for name in base.__dict__.get("__slots__", ())]
            held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
            self.named(held | getattr(value, "__dict__", {}), where)
        elif is_tensor(value):
            self.take(value.detach().cpu().numpy(), where)
        elif state := next((one for name in STATES if callable(one := getattr(value, name, None))), None):
            self.take(kind, where)
            self.take(state(), where)
        else:
            self.troubles.append(f"{where} is a {kind.__module__}.{kind.__qualname__}")

    def _mine(self, module: str | None, name: str) -> bool:
        """Whether code of this module is walked; notes its name, and a library's version."""
        module = module or "__main__"
        self.note(module, name)
        if is_own(module, self.roots):
            self.modules.add(module)
            return True
        self.note(str(getattr(sys.modules.get(module.partition(".")[0]), "__version__", "")))
        return False


def is_tensor(value: Any) -> bool:
    """Whether it is one of PyTorch's, which is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def by(*names: str) -> Callable[[Walk, Any, str], None]:
    """How a value is taken that these attributes say all of."""

    def take(walk: Walk, value: Any, where: str) -> None:
        for name in names:
            walk.take(getattr(value, name), f"{where}.{name}")

    return take


KINDS: tuple[tuple[type | tuple[type, ...], Callable[[Walk, Any, str], None]], ...] = (
    (enum.Enum, lambda walk, value, where: walk.note(type(value).__qualname__, value.name)),
    ((list, tuple, deque), Walk.each),
    ((set, frozenset), Walk.unordered),
    (Mapping, Walk.named),
    ((np.ndarray, np.generic), Walk.array),
    (np.dtype, lambda walk, value, where: walk.note(str(value))),
    (np.random.Generator, lambda walk, value, where: walk.take(value.bit_generator.state, where)),
    (np.random.RandomState, lambda walk, value, where: walk.take(value.get_state(), where)),
    (random.Random, lambda walk, value, where: walk.take(value.getstate(), where)),
    (logging.Logger, lambda walk, value, where: walk.note(value.name)),
    (re.Pattern, by("pattern", "flags")),
    (partial, by("func", "args", "keywords")),
    (types.MethodType, by("__func__", "__self__")),
    ((staticmethod, classmethod), by("__func__")),
    (property, by("fget", "fset", "fdel")),
    (types.FunctionType, Walk.function),
    (types.CellType, Walk.cell),
    (types.ModuleType, Walk.module),
    (type, Walk.kind),
    (
        (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc),
        lambda walk, value, where: walk.note(value.__name__),
    ),
    (
        (types.GetSetDescriptorType, types.MemberDescriptorType, types.GenericAlias),
        lambda walk, value, where: walk.note(str(value)),
    ),
)
"""How values of each kind are taken; the first that fits counts, and `Walk.instance` where none does."""
