"""The JSON files of a checkpoint: objects with fields of stated kinds; importing it needs no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import regular


class CheckpointError(Refused):
    """A checkpoint that cannot be run; the text names the file or tensor and the remedy."""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, else CheckpointError."""
    try:
        found = json.loads(regular(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as wrong:
        raise CheckpointError(f"{path}: not JSON ({wrong}); download the checkpoint again") from wrong
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path}: holds a {type(found).__name__}, not an object; download the checkpoint again"
        )
    return found


KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
    dict: ((dict,), "an object"),
}
REQUIRED: Any = object()


def field(path: Path, config: Mapping[str, Any], name: str, kind: type, default: Any = REQUIRED) -> Any:
    """The value of a field, or the default where it is absent or null.

    Raises:
        CheckpointError: the value is of another kind, or is missing and has no default.
    """
    value, (kinds, words) = config.get(name), KINDS[kind]
    if value is None:
        if default is REQUIRED:
            raise CheckpointError(f"{path}: {name!r} is missing; download the checkpoint again")
        return default
    fine = isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
    if not fine or (kind is float and not abs(value) <= sys.float_info.max):
        raise CheckpointError(f"{path}: {name} is {value!r:.80}, not {words}; download the checkpoint again")
    return float(value) if kind is float else value
