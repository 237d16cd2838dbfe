"""The network of `learned`: what it reads, its layers as one float64 vector, and where training begins."""

from enum import IntEnum

import numpy as np

from kv_cache_rl.core.precision import WORK_CLASSES
from kv_cache_rl.sim.eviction.columns import Kind
from kv_cache_rl.sim.eviction.constants import CONSTANTS, LABELS
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.views import record

HIDDEN = 12

ENTRY = (
    *(f"kind {one.name.lower()}" for one in Kind),
    *(f"status {one.name.lower()}" for one in Status),
    *(f"class {work}" for work in WORK_CLASSES),
    *("on the CPU", "level", "share of the budget", "share of the link", "priority", "value"),
    *("idle", "reload"),
)
"""Features of an entry, each from 0 to 1. Both views tell them."""
HEAD = (
    *("free", "need", "need of the first", "queued", "wait of the first", "backlog", "free on the CPU"),
    *("link", "windows left"),
)
"""Features of the head, in shares of the budget or from 0 to 1. Both views tell them."""


class Factor(IntEnum):
    """What an entry's factors multiply."""

    RETURN = 0
    INT8 = 1
    INT4 = 2
    SWAP = 3
    RECOMPUTE = 4


class Situation(IntEnum):
    """What the situation changes: hundreds of thousandths of the budget, and two factors."""

    MUST = 0
    WISH = 1
    CHEAP = 2


SHAPES: dict[str, tuple[int, ...]] = {
    "entry": (HIDDEN, len(ENTRY)),
    "entry_bias": (HIDDEN,),
    "head": (HIDDEN, len(HEAD)),
    "pooled": (HIDDEN, HIDDEN),
    "context_bias": (HIDDEN,),
    "pair": (HIDDEN, HIDDEN),
    "shared": (HIDDEN, HIDDEN),
    "pair_bias": (HIDDEN,),
    "factors": (len(Factor), HIDDEN),
    "factors_bias": (len(Factor),),
    "situation": (len(Situation), HIDDEN),
    "situation_bias": (len(Situation),),
}
"""Layer -> shape, in the order of the vector."""
LAST = ("factors", "factors_bias", "situation", "situation_bias")
"""Layers that begin at zero."""

NETWORK = record(("constants", CONSTANTS), *((name, np.float64, shape) for name, shape in SHAPES.items()))
"""The constants of the weighing, and the layers."""
SIZE = NETWORK.itemsize // 8
"""Numbers of the vector."""


def packed(constants: np.ndarray, layers: dict[str, np.ndarray]) -> np.ndarray:
    """The vector of constants and layers, float64 ``[SIZE]``."""
    return np.concatenate([constants, *(layers[name].reshape(-1) for name in SHAPES)]).astype(np.float64)


def unpacked(weights: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Constants and layers of a vector."""
    layers, at = {}, len(LABELS)
    for name, shape in SHAPES.items():
        count = int(np.prod(shape))
        layers[name] = weights[at : at + count].reshape(shape)
        at += count
    return weights[: len(LABELS)], layers


def scales() -> np.ndarray:
    """How large each weight usually is, ``[SIZE]``; 0 for the constants, which are not trained.

    A layer's weights are scaled so that its sums are as large as its inputs. Source: "Delving deep into
    rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    fan_in = {name: shape[1] for name, shape in SHAPES.items() if len(shape) == 2}
    fan_in["head"] = fan_in["pooled"] = len(HEAD) + HIDDEN
    fan_in["pair"] = fan_in["shared"] = 2 * HIDDEN
    layers = {
        name: np.full(shape, np.sqrt(2.0 / fan_in[name]) if name in fan_in else 0.3)
        for name, shape in SHAPES.items()
    }
    return packed(np.zeros(len(LABELS)), layers)


def untrained(constants: np.ndarray, seed: int) -> np.ndarray:
    """The vector of a network that changes nothing: random layers, the last of them zero."""
    rng = np.random.default_rng(seed)
    drawn = unpacked(scales() * rng.standard_normal(SIZE))[1]
    layers = {
        name: np.zeros(shape) if name in LAST or name.endswith("_bias") else drawn[name]
        for name, shape in SHAPES.items()
    }
    return rounded(packed(constants, layers))


def rounded(weights: np.ndarray) -> np.ndarray:
    """The vector with layers that a float32 holds; the constants stay as they are."""
    found = weights.copy()
    found[len(LABELS) :] = found[len(LABELS) :].astype(np.float32)
    return found
