"""Weights of the networks that serve: a .safetensors file, read and checked without any library.

Its tensors are the layers of `sim.serving.network`, float32, ``[from, to]``. Its metadata say what the
network reads and decides, and how it was made; each value is JSON."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.files import json_text
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.network import FEATURES, LAYERS, memory_of_layers
from kv_cache_rl.tensors import NotTensors, tensors_at, write_tensors

FOLDER = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
VERSION = 1
"""Of the features: a network that was trained on others would decide at random."""


class WeightsError(Refused):
    """Weights that cannot be used: says which file, what is wrong with it, and what to do."""


def shipped(name: str, suffix: str = SUFFIX) -> Path:
    """The committed file of an agent."""
    return FOLDER / f"{name}{suffix}"


def read_network(path: Path, name: str) -> tuple[np.ndarray, dict]:
    """The memory that `sim.serving.network.network` plays, and how it was made.

    Args:
        name: of the agent that `kv-cache-rl serving train` makes such a file for.

    Raises:
        WeightsError: there is no such file, it is cut off or damaged, holds what is no number, or is of
            another version, observation or shape.
    """
    try:
        tensors, about = tensors_at(path)
    except NotTensors as error:
        raise WeightsError(f"{path}: {error}; {remedy(name)}") from None
    if fault := fault_of(about, tensors):
        raise WeightsError(f"{path}: {fault}; {remedy(name)}")
    return memory_of_layers(tensors), about


def remedy(name: str) -> str:
    """What gives an agent weights that can be used."""
    return f"train them with `kv-cache-rl serving train --agent {name}`, or restore the file"


def fault_of(about: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    """What is wrong with weights; nothing where they can be played."""
    if about.get("version") != VERSION:
        return f"is of network version {about.get('version')!r}, and this release plays {VERSION}"
    for what, ours in (("features", FEATURES), ("actions", ACTIONS)):
        if about.get(what) != list(ours):
            return f"was trained on other {what} than this release has"
    for layer, shape in LAYERS.items():
        found = tensors.get(layer)
        if found is None or found.shape != shape:
            return f"layer {layer!r} is {'missing' if found is None else found.shape}, and must be {shape}"
        if not np.isfinite(found).all():
            return f"layer {layer!r} holds what is no number"
    if extra := sorted(tensors.keys() - LAYERS.keys()):
        return unknown("layer", extra[0], LAYERS)
    return ""


def network_bytes(layers: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> bytes:
    """A network as the file that `read_network` reads.

    Raises:
        WeightsError: it holds what is no number.
    """
    tensors = {name: np.ascontiguousarray(layers[name], np.float32) for name in LAYERS}
    known = {"version": VERSION, "features": list(FEATURES), "actions": list(ACTIONS), **about}
    if fault := fault_of(known, tensors):
        raise WeightsError(f"the network {fault}, and is not written; train with a lower learning rate")
    return write_tensors(tensors, {key: json_text(value, indent=None) for key, value in known.items()})


@functools.lru_cache(8)
def shipped_memory(name: str) -> np.ndarray:
    """The memory of a committed agent, which is only read.

    Raises:
        WeightsError: the file cannot be used.
    """
    return read_network(shipped(name), name)[0]
