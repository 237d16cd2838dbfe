"""`ppo`: a network that first imitates a demonstrator, then learns by masked proximal policy optimisation.

    imitate (first rounds):  the network serves; the demonstrator says what it would have done in each state
    value (one round):       the policy stands still, the value of what it sees is learned
    learn (all others):      MaskablePPO with a small rate, and a limit on how far an update moves

Credit goes over thousands of ticks: what is admitted now preempts much later. A policy that starts anywhere
meets full memory before it meets that, so it starts where serving is sound. An imitation is certain of all
that it does; before it learns by reward it is made less so, and does the same most of the time.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017, arXiv:1707.06347; Huang, Ontanon, "A
closer look at invalid action masking in policy gradient algorithms", 2020, arXiv:2006.14171."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from torch import nn

from kv_cache_rl.agents.training.imitation import imitated
from kv_cache_rl.agents.training.learner import (
    ARCHITECTURE,
    Tell,
    arrays_of,
    metrics,
    mlp_layers,
    put_back,
    told,
    watched,
)
from kv_cache_rl.agents.training.plan import (
    NetworkTraining,
    first_seed,
    rate_of,
    scenarios_of,
)
from kv_cache_rl.agents.training.servers import CAN, Servers
from kv_cache_rl.sim.serving.network import memory_of_layers

NEVER = -1e8
"""The value of an action that is not allowed."""


class MaskedPPO:
    """`learner.Learner` by sb3-contrib's MaskablePPO."""

    def __init__(self, plan: NetworkTraining, log: Path | None = None) -> None:
        """Before its first round.

        Args:
            log: folder for TensorBoard.
        """
        self.plan, self.rate = plan, 0.0
        settings = plan.settings
        played = int(settings["n_steps"]) * sum(plan.tasks.values())
        servers = Servers(scenarios_of(plan), first_seed(plan, 0))
        self.model = MaskablePPO(
            "MlpPolicy",
            servers,
            learning_rate=lambda _: self.rate,
            n_steps=int(settings["n_steps"]),
            # Parts of equal size, with any number of servers.
            batch_size=played // max(round(played / settings["batch_size"]), 1),
            n_epochs=int(settings["n_epochs"]),
            gamma=plan.gamma,
            gae_lambda=settings["gae_lambda"],
            clip_range=settings["clip_range"],
            ent_coef=settings["ent_coef"],
            policy_kwargs={
                "net_arch": {"pi": ARCHITECTURE, "vf": [64, 64]},
                "activation_fn": nn.ReLU,
            },
            tensorboard_log=None if log is None else str(log),
            seed=plan.seed,
            device="cpu",
        )
        policy = self.model.policy
        net = policy.mlp_extractor.policy_net
        self.actor = nn.ModuleList([net[0], net[2], policy.action_net])
        watched(policy)

    def learn(self, k: int, tell: Tell) -> dict[str, float]:
        plan, model = self.plan, self.model
        if k < plan.imitated:
            said = imitated(self, self.values, model.policy.optimizer, plan, k)
            tell(plan.decisions)
            return said
        rng = np.random.default_rng((plan.seed, k))
        if k == plan.imitated:
            self._soften()
        stands = k == plan.imitated
        self.rate = plan.settings["value_rate"] if stands else rate_of(plan, k)
        model.target_kl = None if stands else plan.settings["target_kl"]
        for parameter in self.actor.parameters():
            parameter.requires_grad = not stands
        memory = memory_of_layers(self.layers())
        servers = Servers(scenarios_of(plan), first_seed(plan, k), plan.scale, plan.waiting, memory, rng)
        model.set_env(servers, force_reset=True)
        model.set_random_seed(int(rng.integers(1 << 31)))
        model.num_timesteps = (k - plan.imitated) * plan.decisions
        model.learn(plan.decisions, callback=told(tell, model), reset_num_timesteps=False)
        return servers.said() | metrics(model)

    def values(self, x: torch.Tensor) -> torch.Tensor:
        """The actor's values of actions, those not allowed far below all others."""
        policy = self.model.policy
        found = policy.action_net(policy.mlp_extractor.forward_actor(x))
        return found.masked_fill(x[:, CAN] < 0.5, NEVER)

    def _soften(self) -> None:
        """Makes the actor less certain; what it does most often stays. Forgets the imitation's moments."""
        with torch.no_grad():
            for parameter in self.actor[2].parameters():
                parameter /= self.plan.settings["soften"]
        self.model.policy.optimizer.state.clear()

    def layers(self) -> dict[str, np.ndarray]:
        return mlp_layers(self.actor)

    def arrays(self) -> dict[str, np.ndarray]:
        return arrays_of(self.model.policy, self.model.policy.optimizer)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        put_back(self.model.policy, self.model.policy.optimizer, arrays)
