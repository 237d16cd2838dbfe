"""What all trainings of networks have in common: layers, what a checkpoint holds, and what may fail."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.serving.network import HIDDEN, INPUTS, LAYERS, OUTPUTS

REMEDY = "give a lower --learning-rate"


class TrainingError(Refused):
    """A training that cannot go on: says where it failed, and what to do."""


Tell = Callable[[int], None]
"""Says how many decisions of the round have been made."""


class Learner(Protocol):
    """A network under way."""

    def learn(self, k: int, tell: Tell) -> dict[str, float]:
        """Plays and learns one round; what it says of itself, by name."""

    def layers(self) -> dict[str, np.ndarray]:
        """The network as `sim.serving.network` plays it."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that a round begins with."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Stands where `arrays` were taken."""


@contextmanager
def one_thread() -> Generator[None]:
    """PyTorch computes on one thread while the block lasts: networks this small are not faster on more, and
    sums in another order would end with other weights.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def told(tell: Tell, model: BaseAlgorithm) -> Callable[[dict, dict], bool]:
    """What SB3 calls after each step of all servers."""
    before = model.num_timesteps

    def after(*_: dict) -> bool:
        tell(model.num_timesteps - before)
        return True

    return after


def mlp_layers(linears: Iterable[nn.Module]) -> dict[str, np.ndarray]:
    """Three linear layers as `sim.serving.network` names and turns them."""
    found = {}
    for name, layer in zip(("first", "second", "last"), linears, strict=True):
        assert isinstance(layer, nn.Linear)
        found[name] = layer.weight.detach().numpy().T.copy()
        found[f"{name}_bias"] = layer.bias.detach().numpy().copy()
    assert all(found[name].shape == shape for name, shape in LAYERS.items())
    return found


def arrays_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """A module's numbers and its optimiser's, by name; `put_back` reads them."""
    found = {f"module {name}": tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    for index, held in optimizer.state_dict()["state"].items():
        for name, tensor in held.items():
            found[f"optimizer {index} {name}"] = np.asarray(tensor).copy()
    return found


def put_back(module: nn.Module, optimizer: torch.optim.Optimizer, arrays: Mapping[str, np.ndarray]) -> None:
    """What `arrays_of` took."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    tensors = {}
    for key, array in arrays.items():
        kind, _, name = key.partition(" ")
        if kind == "module":
            tensors[name] = torch.from_numpy(array.copy())
        else:
            index, _, name = name.partition(" ")
            state.setdefault(int(index), {})[name] = torch.from_numpy(array.copy())
    module.load_state_dict(tensors)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def watched(module: nn.Module) -> None:
    """From here on a gradient that is no number ends the training with its layer's name.

    Raises (later, from the backward pass):
        TrainingError: a gradient is not finite.
    """
    for name, parameter in module.named_parameters():
        parameter.register_hook(lambda gradient, name=name: _finite(name, gradient))


def _finite(name: str, gradient: torch.Tensor) -> None:
    if not torch.isfinite(gradient).all():
        raise TrainingError(f"the gradient of {name} is no number any more; {REMEDY}")


CURVES = ("loss", "behind", "value_loss", "explained_variance", "entropy_loss", "approx_kl")
"""Of SB3's, those that a curve holds: of the last update in a round."""


def metrics(model: BaseAlgorithm) -> dict[str, float]:
    """What a model says of its last update."""
    said = model.logger.name_to_value
    return {name: float(said[key]) for name in CURVES if (key := f"train/{name}") in said}


ARCHITECTURE = [HIDDEN, HIDDEN]
"""Of the network that plays, as Stable-Baselines3 takes it."""
assert LAYERS["first"][0] == INPUTS and LAYERS["last"][1] == OUTPUTS
