"""Spaces of actions that are sampled with the masks which the environments give, bool as well as int8."""

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete, MultiDiscrete


class Choice(Discrete):
    """A `gymnasium.spaces.Discrete` whose `sample` also takes a bool mask, such as `action_masks()` gives."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return super().sample(None if mask is None else np.asarray(mask, np.int8), probability)


class Choices(MultiDiscrete):
    """A `gymnasium.spaces.MultiDiscrete` whose `sample` also takes masks ``[num_envs, n]``, bool or int8."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        rows = None if mask is None else tuple(np.asarray(row, np.int8) for row in mask)
        return super().sample(rows, probability)
