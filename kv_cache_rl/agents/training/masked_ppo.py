"""`ppo`: a network that first imitates a demonstrator, then learns by masked proximal policy optimisation.

    imitate (first rounds):  the network serves; the demonstrator says what it would have done in each state
    value (one round):       the policy stands still, the value of what it sees is learned
    learn (all others):      MaskablePPO with a small rate, and a limit on how far an update moves

Credit goes over thousands of ticks: what is admitted now preempts much later. A policy that starts anywhere
meets full memory before it meets that, so it starts where serving is sound. An imitation is certain of all
that it does; before it learns by reward it is made less so, and does the same most of the time.

Source: Schulman et al., "Proximal policy optimization algorithms", 2017, arXiv:1707.06347; Huang, Ontanon, "A
closer look at invalid action masking in policy gradient algorithms", 2020, arXiv:2006.14171."""

from pathlib import Path

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from torch import nn

from kv_cache_rl.agents.training.learner import ARCHITECTURE, watched
from kv_cache_rl.agents.training.plan import NetworkTraining, first_seed, rate_of, scenarios_of
from kv_cache_rl.agents.training.rounds import Rounds
from kv_cache_rl.agents.training.servers import CAN, Servers

NEVER = -1e8
"""The value of an action that is not allowed."""


class MaskedPPO(Rounds):
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
        self.linears = nn.ModuleList([net[0], net[2], policy.action_net])
        watched(policy)

    def begin(self, k: int, decided: int, rng: np.random.Generator) -> None:
        plan, model = self.plan, self.model
        stands = k == plan.imitated
        if stands:
            self._soften()
        self.rate = plan.settings["value_rate"] if stands else rate_of(plan, k)
        model.target_kl = None if stands else plan.settings["target_kl"]
        for parameter in self.linears.parameters():
            parameter.requires_grad = not stands
        model.num_timesteps = decided

    def values(self, x: torch.Tensor) -> torch.Tensor:
        policy = self.model.policy
        found = policy.action_net(policy.mlp_extractor.forward_actor(x))
        return found.masked_fill(x[:, CAN] < 0.5, NEVER)

    def _soften(self) -> None:
        """Makes the actor less certain; what it does most often stays. Forgets the imitation's moments."""
        with torch.no_grad():
            for parameter in self.linears[2].parameters():
                parameter /= self.plan.settings["soften"]
        self.model.policy.optimizer.state.clear()
