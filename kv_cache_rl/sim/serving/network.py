"""A small network instead of rules: from what is seen to a value for each action; the highest is taken.

    x = the 24 numbers, the mask, and what is hard to read out of them (`FEATURES`)
    h = relu(first x + b),  g = relu(second h + c),  values = last g + d
    action = the allowed one of the highest value

The layers are float64, summed input by input, so that every machine finds the same action. Source: two
layers of rectifiers are what Stable-Baselines3 trains (`MlpPolicy`, with `net_arch` and `activation_fn`).
"""

import numpy as np

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.serving.actions import ACTIONS, NOTHING
from kv_cache_rl.sim.serving.observe import RICH, VIEW
from kv_cache_rl.sim.views import record

HIDDEN = 32
DERIVED = (
    "free share of the GPU, to 4 %",
    "free share of the GPU, to 20 %",
    "free share of the CPU, to 10 %",
    "stability margin, to 3 %",
    "stability margin, to 20 %",
    "Free queue, to 10 %",
    "VIP queue, to 10 %",
    "VIP cache idle longer than the Free one",
    "VIP cache larger than the Free one",
    "longest idle cache, to 60 ticks",
)
"""A share `to` so much is 1 from there on; the comparisons are 1, 0 or -1."""
FEATURES = (*RICH, *(f"can {name}" for name in ACTIONS), *DERIVED)
INPUTS, OUTPUTS = len(FEATURES), len(ACTIONS)
_DERIVED_FROM = len(RICH) + OUTPUTS

LAYERS: dict[str, tuple[int, ...]] = {
    "first": (INPUTS, HIDDEN),
    "first_bias": (HIDDEN,),
    "second": (HIDDEN, HIDDEN),
    "second_bias": (HIDDEN,),
    "last": (HIDDEN, OUTPUTS),
    "last_bias": (OUTPUTS,),
}
"""Layer -> shape ``[from, to]``, in the order of the vector."""
SIZE = sum(int(np.prod(shape)) for shape in LAYERS.values())
"""Numbers of the layers."""

NETWORK = record(
    *((name, np.float64, shape) for name, shape in LAYERS.items()),
    ("x", np.float64, (INPUTS,)),  # room to work in, from here on
    ("h", np.float64, (HIDDEN,)),
    ("g", np.float64, (HIDDEN,)),
    ("values", np.float64, (OUTPUTS,)),
)
"""A memory: the layers, and room for one decision."""


@uncounted
def part(value, most):
    """`value` over `most`, within [-1, 1]."""
    return min(max(value / most, -1.0), 1.0)


@uncounted
def sign(value):
    return 1.0 if value > 0.0 else -1.0 if value < 0.0 else 0.0


@uncounted
def write_features(seen, mask, x):
    """Writes the `FEATURES` of a view float32 ``[24]`` and a mask into ``x [INPUTS]``."""
    for k in range(len(RICH)):
        x[k] = seen[k]
    for action in range(OUTPUTS):
        x[len(RICH) + action] = mask[action]
    v, k = seen.view(VIEW)[0], _DERIVED_FROM
    x[k] = part(1.0 - v.gpu_utilization_pct, 0.04)
    x[k + 1] = part(1.0 - v.gpu_utilization_pct, 0.20)
    x[k + 2] = part(1.0 - v.cpu_utilization_pct, 0.10)
    x[k + 3] = part(v.stability_margin, 0.03)
    x[k + 4] = part(v.stability_margin, 0.20)
    x[k + 5] = part(v.free_queue_pressure, 0.10)
    x[k + 6] = part(v.vip_queue_pressure, 0.10)
    x[k + 7] = sign(v.vip_age_max - v.free_age_max)
    x[k + 8] = sign(v.vip_size_max - v.free_size_max)
    x[k + 9] = part(max(v.vip_age_max, v.free_age_max), 0.12)


@uncounted
def through(layer, bias, x, out):
    """`out` is the layer times its input, with its bias."""
    for j in range(len(bias)):
        out[j] = bias[j]
    for k in range(len(x)):
        # Many inputs are 0, and hidden ones often.
        if x[k] != 0.0:
            for j in range(len(bias)):
                out[j] += x[k] * layer[k, j]


@uncounted
def rectified(x):
    for k in range(len(x)):
        x[k] = max(x[k], 0.0)


@uncounted
def network(seen, mask, memory):
    """The allowed action of the highest value; the first of equals. `memory` is a `NETWORK`."""
    n = memory.view(NETWORK)[0]
    write_features(seen, mask, n.x)
    through(n.first, n.first_bias, n.x, n.h)
    rectified(n.h)
    through(n.second, n.second_bias, n.h, n.g)
    rectified(n.g)
    through(n.last, n.last_bias, n.g, n.values)
    best = NOTHING
    for action in range(OUTPUTS):
        if mask[action] and n.values[action] > n.values[best]:
            best = action
    return best


def memory_of_layers(layers: dict[str, np.ndarray]) -> np.ndarray:
    """A memory with these layers, float64."""
    memory = np.zeros(NETWORK.itemsize // 8)
    memory[:SIZE] = np.concatenate([np.asarray(layers[name], np.float64).reshape(-1) for name in LAYERS])
    return memory
