"""The rounds of a network under Stable-Baselines3: the first imitate, the others play servers and learn."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from kv_cache_rl.agents.training.imitation import imitated
from kv_cache_rl.agents.training.learner import Tell, arrays_of, metrics, mlp_layers, put_back, told
from kv_cache_rl.agents.training.plan import NetworkTraining, first_seed, scenarios_of
from kv_cache_rl.agents.training.servers import Servers
from kv_cache_rl.sim.serving.network import memory_of_layers


class Rounds(ABC):
    """A `learner.Learner`, but for the algorithm."""

    plan: NetworkTraining
    model: Any
    """The algorithm: one of SB3's, with a `policy` that has an optimiser."""
    linears: nn.ModuleList
    """The three layers of the network that plays."""

    @abstractmethod
    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The network's values of actions, those not allowed far below all others."""

    @abstractmethod
    def begin(self, k: int, decided: int, rng: np.random.Generator) -> None:
        """Readies the algorithm for round `k`, which learns by reward; so many decisions did before it."""

    def learn(self, k: int, tell: Tell) -> dict[str, float]:
        plan, model = self.plan, self.model
        if k < plan.imitated:
            said = imitated(self, self.values, model.policy.optimizer, plan, k)
            tell(plan.decisions)
            return said
        rng = np.random.default_rng((plan.seed, k))
        self.begin(k, (k - plan.imitated) * plan.decisions, rng)
        memory = memory_of_layers(self.layers())
        servers = Servers(scenarios_of(plan), first_seed(plan, k), plan.scale, plan.waiting, memory, rng)
        model.set_env(servers, force_reset=True)
        model.set_random_seed(int(rng.integers(1 << 31)))
        model.learn(plan.decisions, callback=told(tell, model), reset_num_timesteps=False)
        return servers.said() | metrics(model)

    def layers(self) -> dict[str, np.ndarray]:
        return mlp_layers(self.linears)

    def arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.model.policy, self.model.policy.optimizer)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        put_back(self.model.policy, self.model.policy.optimizer, arrays)
