"""A training between two episodes, on disk: written whole after each, read back only as it was written."""

import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path

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
    """Writes how far a training by this plan and code is: a line with the digest of the .npz after it."""
    rest = {name: getattr(progress, name) for name in ("episode", "kept_score", "returns", "curve")}
    about = json.dumps({"plan": asdict(plan), "code": code, **rest}).encode()
    held = {name: getattr(progress, name) for name in ARRAYS}
    file = io.BytesIO()
    held[ABOUT] = np.frombuffer(about, np.uint8)
    np.savez(file, **held)  # pyrefly: ignore[bad-argument-type]
    data = file.getvalue()
    write_whole(path, hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def load(path: Path, plan: Training, code: str) -> Progress | None:
    """How far the training is; None where there is no checkpoint.

    Raises:
        CheckpointError: the file was changed, or belongs to other settings or to other code.
        OSError: it cannot be read.
    """
    if not path.exists():
        return None
    check, _, data = regular(path).read_bytes().partition(b"\n")
    if hashlib.sha256(data).hexdigest().encode() != check:
        raise CheckpointError(f"{path}: is no checkpoint, or was changed or cut off; {REMEDY}")
    with np.load(io.BytesIO(data)) as stored:
        arrays = {name: stored[name] for name in ARRAYS}
        about = json.loads(stored[ABOUT].tobytes())
    refuse_others(path, about.pop("plan"), plan)
    if about.pop("code") != code:
        raise CheckpointError(f"{path} was made by other code than this package now has; {REMEDY}")
    return Progress(**arrays, **about)


def check_record(path: Path, plan: Training) -> None:
    """Raises CheckpointError where the record of a finished training is there, of other settings: this
    training would write over it and its table.
    """
    if not path.exists():
        return
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("training"), dict):
        raise CheckpointError(f"{path}: is no record of a training; {REMEDY}")
    refuse_others(path, record["training"], plan)


def refuse_others(path: Path, theirs: dict, plan: Training) -> None:
    """Raises CheckpointError with the first setting that is not that of `plan`."""
    ours = json.loads(json.dumps(asdict(plan)))
    other = [
        f"{name} {theirs.get(name)!r}, now {one!r}" for name, one in ours.items() if theirs.get(name) != one
    ]
    if other:
        raise CheckpointError(
            f"{path} is of a training with other settings ({other[0]}); give the same, {REMEDY}"
        )
