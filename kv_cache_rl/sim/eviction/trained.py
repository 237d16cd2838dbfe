"""Committed weights: what a trained decider holds, and how it was made. Read without any library.

`weights/tuned.json` names every constant of the weighing; `weights/learned.safetensors` holds a network,
the constants that it changes, and in its metadata the features that it reads. Weights of another
environment version are not used: the decider says so, and what remedies it, when it is asked for. All
else works without it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.numbers import is_number
from kv_cache_rl.files import NotJson, json_text, read_json
from kv_cache_rl.sim.eviction.constants import LABELS, START
from kv_cache_rl.sim.eviction.network import ENTRY, HEAD, SHAPES, packed, unpacked, untrained
from kv_cache_rl.tensors import NotTensors, tensors_at, write_tensors

FOLDER = Path(__file__).parent / "weights"


class WeightsError(Refused):
    """Weights that cannot be used: says which file, what is wrong with it, and what to do."""


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights, or why there are none."""

    weights: np.ndarray
    """float64 ``[D]``; those of an untrained decider where there is trouble."""
    about: dict
    """How they were made."""
    trouble: str = ""


def remedy(name: str) -> str:
    """What gives a decider weights that can be used."""
    return f"train them with `kv-cache-rl train --policy {name}` and put them there, or restore the file"


def read_tuned(path: Path) -> Trained:
    """The constants in a file that `eviction train --policy tuned` wrote.

    Raises:
        WeightsError: there is no such file, it is damaged, or of another environment version.
    """
    found = _json(path)
    fault = _version_fault(found) or _constants_fault(found.get("constants"))
    if fault:
        raise WeightsError(f"{path}: {fault}; {remedy('tuned')}")
    constants = found.pop("constants")
    return Trained(np.array([constants[label] for label in LABELS], np.float64), found)


def read_learned(path: Path) -> Trained:
    """The network in a file that `eviction train --policy learned` wrote.

    Raises:
        WeightsError: there is no such file, it is damaged, of another environment version, or of a network
            with other features or layers.
    """
    try:
        tensors, about = tensors_at(path)
    except NotTensors as error:
        raise WeightsError(f"{path}: {error}; {remedy('learned')}") from None
    fault = _version_fault(about) or _network_fault(about, tensors)
    if fault:
        raise WeightsError(f"{path}: {fault}; {remedy('learned')}")
    return Trained(packed(tensors["constants"], tensors), about)


def learned_bytes(weights: np.ndarray, about: dict) -> bytes:
    """A network as the file that `read_learned` reads."""
    constants, layers = unpacked(weights)
    tensors = {"constants": constants, **{name: layers[name].astype(np.float32) for name in SHAPES}}
    about = {**about, "entry_features": list(ENTRY), "head_features": list(HEAD)}
    return write_tensors(tensors, {name: json_text(value, indent=None) for name, value in about.items()})


def _network_fault(about: dict, tensors: dict[str, np.ndarray]) -> str:
    for name, ours in (("entry_features", ENTRY), ("head_features", HEAD)):
        if about.get(name) != list(ours):
            return f"reads other {name.replace('_', ' ')} than this release shows"
    for name, shape in {"constants": (len(LABELS),), **SHAPES}.items():
        found = tensors.get(name)
        if found is None or found.shape != shape:
            return f"layer {name!r} is {'missing' if found is None else found.shape}, and must be {shape}"
        if not np.isfinite(found).all():
            return f"layer {name!r} holds what is no number"
    if extra := sorted(tensors.keys() - SHAPES.keys() - {"constants"}):
        return unknown("layer", extra[0], SHAPES)
    return ""


def _json(path: Path) -> dict:
    try:
        found = read_json(path)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror or error}; {remedy(path.stem)}") from None
    except NotJson as error:
        raise WeightsError(f"{error}; {remedy(path.stem)}") from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: is no JSON object; {remedy(path.stem)}")
    return found


def _version_fault(about: dict) -> str:
    version = about.get("environment_version")
    if version == ENVIRONMENT_VERSION:
        return ""
    return f"is of environment version {version!r}, and this release plays {ENVIRONMENT_VERSION!r}"


def _constants_fault(constants: Any) -> str:
    if not isinstance(constants, dict):
        return "has no constants"
    for label in constants:
        if label not in LABELS:
            return unknown("constant", label, LABELS)
    for label in LABELS:
        value = constants.get(label)
        if not is_number(value) or not abs(value) < 1e9:
            return f"constant {label!r} is {value!r}, and must be a number"
    return ""


def _committed(read: Any, file: str, untrained: np.ndarray) -> Trained:
    """The weights that lie in the package, or the reason why they cannot be used."""
    try:
        return read(FOLDER / file)
    except WeightsError as error:
        return Trained(untrained, {}, str(error))


TUNED = _committed(read_tuned, "tuned.json", START)
LEARNED = _committed(read_learned, "learned.safetensors", untrained(START, 0))
