"""JSON that every reader takes, files that appear whole or not at all, and names that a file may have."""

import json
import math
import os
import re
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """The value with None in place of NaN and infinity, which JSON does not have.

    >>> finite({"rate": float("inf"), "rows": [1, float("nan")]})
    {'rate': None, 'rows': [1, None]}
    """
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, indent: int | None = 2, ascii_only: bool = True) -> str:
    """A value as JSON, null in place of NaN and infinity.

    >>> json_text({"mean": float("nan")}, indent=None)
    '{"mean": null}'
    """
    return json.dumps(finite(value), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as a JSON file that appears whole or not at all."""
    write_whole(path, (json_text(value) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def slug(text: str, empty: str = "unnamed") -> str:
    """A text as the name of a file or folder; `empty` where nothing of it can be in one.

    >>> slug("Mooncake: 5 %/h")
    'Mooncake-5-h'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or empty
