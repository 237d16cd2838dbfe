"""Agents from outside the package, named `module:factory` or `file.py:factory`, or by a file of weights that
`serving train` wrote.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from kv_cache_rl.agents.compiled import WEIGHTS, trained
from kv_cache_rl.core.errors import Refused, raised
from kv_cache_rl.files import NotAFile, regular
from kv_cache_rl.sim.serving.spec import ServingError

SIGN = ":"
"""What stands between a module and what makes the agent."""
METHODS = ("reset", "act")
FOLDERS: set[str] = set()
"""Where agents came from; Python knows one module of a name, whichever of these holds it."""


def is_outside(name: str) -> bool:
    """Whether this names an agent from outside."""
    return SIGN in name or name.endswith((".py", *WEIGHTS))


def factory_of(name: str) -> Callable[[], Any]:
    """What makes the agents of a name: a class or a function without arguments.

    Raises:
        ServingError: there is no such module or factory; says why.
    """
    if name.endswith(WEIGHTS):
        return partial(trained, name)
    place, _, attribute = name.rpartition(SIGN)
    if not place or not attribute:
        write = f"{name}:FACTORY" if name.endswith(".py") else "MODULE:FACTORY or FILE.py:FACTORY"
        raise ServingError(f"agent {name!r} names no factory; write {write}")
    module = module_of(place)
    factory: Any = module
    for part in attribute.split("."):
        if not hasattr(factory, part):
            raise ServingError(f"{place} has no {attribute!r}; {remedy(module, attribute)}")
        factory = getattr(factory, part)
    if not callable(factory):
        kind = type(factory).__name__
        raise ServingError(f"{name} is of type {kind}; name a class, or a function that gives an agent")
    return factory


def tried(name: str, factory: Callable[[], Any]) -> None:
    """Makes an agent to see that it is one.

    Raises:
        ServingError: it is none; says why.
        WeightsError: the file of its weights cannot be used.
    """
    try:
        made = factory()
    except Refused:
        raise
    except (Exception, SystemExit) as wrong:
        raise ServingError(f"{name} gives no agent: {raised(wrong)}; mend it") from wrong
    lacking = [method for method in METHODS if not callable(getattr(made, method, None))]
    if lacking:
        raise ServingError(
            f"{name} gives an object of type {type(made).__name__} without {lacking[0]}(); "
            "an agent has reset(seed) and act(observation, mask)"
        )


def module_of(place: str) -> ModuleType:
    """The module of that name, looked for in this folder too, or of that file.

    Raises:
        ServingError: there is none, or it cannot be imported; says why.
    """
    path = Path(place)
    folder = str(path.parent.resolve()) if path.suffix == ".py" else os.getcwd()
    if path.suffix == ".py":
        refuse_namesakes(Path(folder), path.stem)
        FOLDERS.add(folder)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return imported(path) if path.suffix == ".py" else importlib.import_module(place)
    except FileNotFoundError as wrong:
        raise ServingError(f"{wrong.filename}: there is no such file; check the path") from None
    except NotAFile as wrong:
        raise ServingError(f"{wrong.filename}: {wrong.strerror}; give the name of a module's file") from None
    except ModuleNotFoundError as wrong:
        if wrong.name and (place == wrong.name or place.startswith(f"{wrong.name}.")):
            where = f"{folder} or an installed package; check the name, or give FILE.py:FACTORY"
            raise ServingError(f"there is no module {place!r} in {where}") from None
        raise ServingError(
            f"{place} needs the module {wrong.name}, which is not installed; install it"
        ) from wrong
    except (Exception, SystemExit) as wrong:
        raise ServingError(f"{place} cannot be imported: {raised(wrong)}; mend it") from wrong


def refuse_namesakes(folder: Path, agent: str) -> None:
    """Raises ServingError where a module beside an agent has the name of one that another agent brought."""
    for name, module in tuple(sys.modules.items()):
        place = Path(getattr(module, "__file__", None) or "")
        place = place.parent if place.name == "__init__.py" else place
        brought = str(place.parent) in FOLDERS and place.parent != folder
        if brought and name == place.stem != agent and (folder / place.name).exists():
            raise ServingError(
                f"{place} and {folder / place.name} are two modules named {name}, of which Python keeps the "
                "first; rename one, or run the agents in a command each"
            )


def imported(path: Path) -> ModuleType:
    """The module of a file, by its own name unless another module has that."""
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    if known is not None or name in sys.stdlib_module_names:
        name = f"{name}_of_{path.resolve().parent.name}"
    if not regular(path).is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def remedy(module: ModuleType, attribute: str) -> str:
    """What to name instead."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
    ]
    near = difflib.get_close_matches(attribute, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"it defines {', '.join(names)}" if names else "it defines no class or function"
