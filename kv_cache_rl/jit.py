"""Numba's `njit` with a disk cache that notices every change of this package.

Numba keys its cache on the file of the outer function only. A change in a module that this file
calls would go unnoticed. Here the cache folder is named after a digest of the layers that hold
compiled code, and of what compiles them. `KV_CACHE_RL_CACHE` sets where the folder lies. What is
damaged there is compiled anew (`code_cache`).
"""

import errno
import functools
import inspect
import os
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba.core.dispatcher import Dispatcher

from kv_cache_rl.code_cache import CheckedCache, Locator, say
from kv_cache_rl.files import digest_of

LAYERS = ("core", "theory", "policies", "sim", "search", "experiments", "agents", "gym")
"""The layers that hold compiled code."""


def _cache_folder() -> Path:
    root = Path(__file__).parent
    # Trained weights of `sim` are constants of the compiled code.
    weights = [file.relative_to(root).as_posix() for file in (root / "sim").rglob("weights/*.*")]
    compilers = ("jit.py", "code_cache.py")
    digest = digest_of(root, [*LAYERS, *compilers, *weights], f"checked {numba.__version__}")
    base = os.environ.get("KV_CACHE_RL_CACHE") or os.path.join(
        os.path.expanduser("~"), ".cache", "kv-cache-rl"
    )
    folder = Path(base) / digest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if any(folder.glob("*/*.nbi")):  # made by another user for all: it is read only
            return folder
        return _fallback(folder, error)
    return folder


def _fallback(folder: Path, error: OSError) -> Path:
    """Where code is kept in place of a folder that cannot be written, which is said in a line. The folder
    itself where no other one can be written either: then every process compiles for itself.

    Raises:
        FileExistsError: the other one belongs to another user.
    """
    what = f"compiled code cannot be kept in {folder.parent} ({error.strerror or error})"
    remedy = "set KV_CACHE_RL_CACHE to a folder that lasts and that you may write to"
    try:
        other = _private(Path(tempfile.gettempdir()) / f"kv-cache-rl-{os.getuid()}") / folder.name
        other.mkdir(exist_ok=True)
    except FileExistsError:
        raise
    except OSError:  # of a read-only system, also that no temporary folder is there
        say(f"{what} nor in a temporary folder, so every process compiles it again; {remedy}")
        return folder
    say(f"{what}, so it is kept in {other.parent}; {remedy}")
    return other


def _private(folder: Path) -> Path:
    """The folder, made for this user alone: a user with write access to it decides what code runs.

    Raises:
        FileExistsError: the folder exists already and belongs to another user.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        remedy = "belongs to another user; set KV_CACHE_RL_CACHE to a folder of your own"
        raise FileExistsError(errno.EEXIST, remedy, str(folder))
    folder.chmod(0o700)
    return folder


Locator.folder = _cache_folder()


def _compiled(function: Any = None, *, cache: bool = True, **options: Any) -> Any:
    """`numba.njit`, as a decorator with or without arguments, that keeps what it compiles."""
    if function is None:
        return functools.partial(_compiled, cache=cache, **options)
    compiled = numba.njit(function, **options)
    if cache and isinstance(compiled, Dispatcher):  # interpreted (NUMBA_DISABLE_JIT=1) it is the function
        # Where `enable_caching` puts Numba's own.
        compiled._cache = CheckedCache(function)  # pyrefly: ignore[missing-attribute]
    return compiled


# `_nrt` is set explicitly: otherwise Numba takes the flag from the first caller.
njit = functools.partial(_compiled, _nrt=True)

uncounted = functools.partial(_compiled, _nrt=False, forceinline=False)
"""`njit` without reference counts, for functions that neither allocate nor return an array.

In a simulated window, counting takes longer than all the rest. Every count is an atomic operation,
and two threads with the same array wait for each other.
"""

embedded = functools.partial(_compiled, _nrt=False, forceinline=True)
"""`uncounted` for functions that are copied into every caller.

A state of many arrays is passed as hundreds of numbers. Where that is done for each access, it takes
longer than all the rest. A function that is called from many places makes the code too long.
"""


def folded(functions):
    """One compiled function ``(k, *arguments)`` that calls ``functions[k](*arguments)``.

    Compiled code cannot look a function up in a registry's dict. This function takes the dict's
    place, and compiles to the comparisons that one would write by hand, in line where it is called.
    Give it a name of its own (`def rank(policy, c): return _rank(policy, c)` under `uncounted`): the
    disk cache keeps the named function. Parameters with defaults keep these.
    """
    # Interpreted (NUMBA_DISABLE_JIT=1) they are plain functions.
    parameters = inspect.signature(getattr(functions[0], "py_func", functions[0])).parameters.values()
    arguments = ", ".join(one.name for one in parameters if one.default is one.empty)
    lines = [f"    if which == {k}: return _{k}({arguments})" for k in range(len(functions) - 1)]
    lines += [f"    return _{len(functions) - 1}({arguments})"]
    names = {f"_{k}": function for k, function in enumerate(functions)}
    # Written out as text, since nested closures would each be compiled, a quarter of a second apiece.
    exec(f"def chosen(which, {arguments}):\n" + "\n".join(lines), names)
    return _in_line(names["chosen"])


_in_line = functools.partial(numba.njit, _nrt=False, inline="always")
"""`njit` without a disk cache: a function that stands in no file has no key."""
