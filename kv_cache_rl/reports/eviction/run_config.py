"""A run folder's config: what was asked for, and whether this release can read it."""

import json
from collections.abc import Callable
from pathlib import Path

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.numbers import is_number
from kv_cache_rl.files import NotJson, read_json


class RunError(Refused):
    """A folder that cannot be read as a run; the text says what is wrong and what to do."""


FIELDS: dict[str, tuple[type, bool]] = {
    **dict.fromkeys(
        ("command", "difficulty", "split", "environment_version", "package_version", "started"), (str, True)
    ),
    "targets": (list, True),
    **dict.fromkeys(("num_examples", "seed"), (int, True)),
    "trace": (str, False),
    "max_concurrent": (int, False),
    **dict.fromkeys(("sampling", "patience", "prices"), (dict, False)),
}
"""The fields of a config: their type, and whether each has to be there."""
RANGES: dict[str, tuple[Callable[[int], bool], str]] = {
    "num_examples": (lambda number: number >= 1 or number == -1, "-1 or a number from 1 on"),
    "seed": (lambda number: number >= 0, "a number from 0 on"),
    "max_concurrent": (lambda number: number >= 1, "a number from 1 on"),
}
"""What the numbers of a config have to be."""
NAMED = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}
CONFIG, RESULTS, SUMMARY, REPORT = "config.json", "results.jsonl", "summary.json", "report.html"


def read_config(folder: Path) -> dict:
    """The config of a run folder.

    Raises RunError where it is none, is damaged, or was played by other rules.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(
            f"{folder} is not a run folder (it has no {CONFIG}); give one that eval or baselines --out made"
        )
    try:
        config = read_json(path)
    except NotJson as error:
        raise RunError(f"{error}; mend it, or start a new run") from None
    wrong = wrong_field(config)
    if wrong:
        raise RunError(f"{path} is damaged: {wrong}; mend it, or start a new run")
    version = config["environment_version"]
    if version != ENVIRONMENT_VERSION:
        raise RunError(
            f"{folder} was played by environment version {version}, this is version {ENVIRONMENT_VERSION}; "
            "scores compare only within one version, so start a new run, or install the release that made "
            "this one"
        )
    return config


def wrong_field(config: object) -> str:
    """The first field of a config that is missing or of another type, in words; empty where there is none."""
    if not isinstance(config, dict):
        return f"it holds {type(config).__name__}, not an object"
    for name, (wanted, needed) in FIELDS.items():
        value = config.get(name)
        if value is None and not needed:
            continue
        if not isinstance(value, wanted) or isinstance(value, bool):
            what = f"is {json.dumps(value)[:60]}, not {NAMED[wanted]}" if name in config else "is missing"
            return f"the field {name!r} {what}"
    config.setdefault("trace", None)
    for name, (fits, wanted) in RANGES.items():
        if config.get(name) is not None and not fits(config[name]):
            return f"the field {name!r} is {config[name]}, not {wanted}"
    for name in ("sampling", "patience", "prices"):
        for key, value in (config.get(name) or {}).items():
            if not is_number(value):
                return f"{key!r} of {name!r} is {json.dumps(value)[:60]}, not a number"
    return wrong_target(config["targets"])


def wrong_target(targets: list) -> str:
    """What is wrong with the models of a config, in words; empty where nothing is."""
    if not targets:
        return "the field 'targets' names no model"
    from kv_cache_rl.sim.eviction import HISTORIES, VIEWS

    named = set()
    for number, target in enumerate(targets, 1):
        if not isinstance(target, dict) or not isinstance(target.get("model"), str):
            return f"number {number} of 'targets' names no model"
        if target["model"] in named:
            return f"number {number} of 'targets' is {target['model']!r} once more"
        named.add(target["model"])
        if not isinstance(target.get("base_url"), str | None):
            return f"'base_url' of number {number} of 'targets' is no text"
        target.setdefault("base_url", None)
        if target["base_url"] and not isinstance(target.get("api_key_var"), str):
            return f"'api_key_var' of number {number} of 'targets' is no text"
        for name, known in (("view", VIEWS), ("history", HISTORIES)):
            if target.setdefault(name, "full") not in known:
                return f"{name!r} of number {number} of 'targets' is none of {', '.join(known)}"
    return ""
