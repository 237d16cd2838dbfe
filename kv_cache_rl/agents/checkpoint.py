"""A training between two episodes or rounds, on disk: written whole after each, read back only as it was
written.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.agents.qlearning import ARRAYS, Progress, Training
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import read_json, regular, write_whole

REMEDY = "delete it to begin anew, or give another --out"
ABOUT = "about"
"""The array that holds what is no array, as JSON in UTF-8."""


class CheckpointError(Refused):
    """A checkpoint that this training cannot go on from: says why, and what to do."""


def save(path: Path, plan: Training, code: str, progress: Progress) -> None:
    """Writes how far the training of a table by this plan and code is."""
    rest = {name: getattr(progress, name) for name in ("episode", "kept_score", "returns", "curve")}
    write(path, plan, code, {name: getattr(progress, name) for name in ARRAYS}, rest)


def load(path: Path, plan: Training, code: str) -> Progress | None:
    """How far the training of a table is; None where there is no checkpoint.

    Raises:
        CheckpointError: as `read`.
        OSError: it cannot be read.
    """
    found = read(path, plan, code)
    if found is None:
        return None
    fields: dict[str, Any] = found[0] | found[1]
    return Progress(**fields)


def write(path: Path, plan: Any, code: str, arrays: Mapping[str, np.ndarray], rest: Mapping) -> None:
    """Writes arrays, and what JSON holds, beside the plan (a dataclass) and the code's digest: a line with
    the digest of the .npz after it.
    """
    about = json.dumps({"plan": asdict(plan), "code": code, **rest}).encode()
    file = io.BytesIO()
    held = {**arrays, ABOUT: np.frombuffer(about, np.uint8)}
    np.savez(file, **held)  # pyrefly: ignore[bad-argument-type]
    data = file.getvalue()
    write_whole(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def read(path: Path, plan: Any, code: str) -> tuple[dict[str, np.ndarray], dict] | None:
    """The arrays and the rest that `write` was given; None where there is no checkpoint.

    Raises:
        CheckpointError: the file was changed, or belongs to other settings or to other code.
        OSError: it cannot be read.
    """
    if not path.exists():
        return None
    arrays, about = stored(path)
    refuse_others(path, about.pop("plan"), plan)
    if about.pop("code") != code:
        raise CheckpointError(f"{path} was made by other code than this package now has; {REMEDY}")
    return arrays, about


def stored(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays of a checkpoint of any plan and code, and the rest with both of them.

    Raises:
        CheckpointError: the file was changed.
        OSError: it cannot be read.
    """
    check, _, data = regular(path).read_bytes().partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != check:
        raise CheckpointError(f"{path}: is no checkpoint, or was changed or cut off; {REMEDY}")
    with np.load(io.BytesIO(data)) as held:
        arrays = {name: held[name] for name in held.files if name != ABOUT}
        return arrays, json.loads(held[ABOUT].tobytes())


def check_record(path: Path, plan: Any) -> None:
    """Raises CheckpointError where the record of a finished training is there, of other settings: this
    training would write over it and its table.
    """
    if not path.exists():
        return
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("training"), dict):
        raise CheckpointError(f"{path}: is no record of a training; {REMEDY}")
    refuse_others(path, record["training"], plan)


def refuse_others(path: Path, theirs: dict, plan: Any) -> None:
    """Raises CheckpointError with the first setting that is not that of `plan`."""
    ours = json.loads(json.dumps(asdict(plan)))
    other = [
        f"{name} {theirs.get(name)!r}, now {one!r}" for name, one in ours.items() if theirs.get(name) != one
    ]
    if other:
        raise CheckpointError(
            f"{path} is of a training with other settings ({other[0]}); give the same, {REMEDY}"
        )
