"""The serving world: a server with GPU and CPU block pools, users who come back, and eighteen things one can do about it."""

from importlib import import_module

_HOME = {
    "actions": ("ACTIONS",),
    "observe": ("OBSERVATION", "RICH"),
    "score": ("TERM_WEIGHTS", "Report", "report"),
    "spec": ("Scenario", "ServingError", "TASKS", "task"),
    "state": ("State", "new_state"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
