"""`neural`: deep Q-learning from a demonstrator.

    values   Q(s, a) of all allowed actions, by a network; those not allowed are far below all others
    target   r_1 + gamma r_2 + ... + gamma^n Q'(s_n, argmax over a of Q(s_n, a))        (n steps, double Q)
    loss     Huber(Q(s, a) - target)
             + `demonstrated` * (max over a of (Q(s, a) + margin unless a is the demonstrator's)
                                 - Q(s, the demonstrator's))

The second term keeps what the demonstrator does on top until the values know better; its weight falls from
round to round. The demonstrator is asked at every state that is learned from, also at those that only the
network reaches. Servers are played by the network with a few random actions among those allowed.

Source: Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015; van Hasselt,
Guez, Silver, "Deep reinforcement learning with double Q-learning", AAAI 2016; Hester et al., "Deep Q-learning
from demonstrations", AAAI 2018, arXiv:1704.03732."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from kv_cache_rl.agents.training.demonstrator import demonstrated, memory_like
from kv_cache_rl.agents.training.learner import ARCHITECTURE, watched
from kv_cache_rl.agents.training.plan import NetworkTraining, first_seed, rate_of, scenarios_of
from kv_cache_rl.agents.training.rounds import Rounds
from kv_cache_rl.agents.training.servers import CAN, Servers
from kv_cache_rl.sim.serving.actions import NOTHING

NEVER = -1e6
"""The value of an action that is not allowed."""


class AllowedValues(QNetwork):
    """Values of the allowed actions: the features hold the mask."""

    def forward(self, obs: Any) -> torch.Tensor:
        assert isinstance(obs, torch.Tensor)
        forbidden = obs[:, CAN] < 0.5
        # In a server that is over nothing is allowed, and a target that looks ahead still needs a value.
        forbidden[:, NOTHING] = False
        return super().forward(obs).masked_fill(forbidden, NEVER)


class AllowedPolicy(DQNPolicy):
    """SB3's policy of deep Q-learning with `AllowedValues`."""

    def make_q_net(self) -> QNetwork:
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return AllowedValues(**arguments).to(self.device)


class DemonstratedDQN(DQN):
    """SB3's DQN with double Q, allowed actions alone, and a demonstrator's margin."""

    margin: float
    demonstrated: float
    """Weight of the demonstrator's margin."""
    teacher: np.ndarray
    """The demonstrator's memory."""
    draws: np.random.Generator

    def begin(self, decisions: int, unlearned: int) -> None:
        """Begins a round after so many decisions, with an empty buffer and the target at the network. The
        round's first `unlearned` decisions only fill the buffer.
        """
        assert self.replay_buffer is not None
        self.replay_buffer.reset()
        self.q_net_target.load_state_dict(self.q_net.state_dict())
        self.num_timesteps, self._n_calls = decisions, 0
        self.learning_starts = decisions + unlearned

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The network's actions, some of them random among those allowed."""
        assert isinstance(self._last_obs, np.ndarray)
        actions, _ = self.policy.predict(self._last_obs, deterministic=True)
        for k in np.flatnonzero(self.draws.random(n_envs) < self.exploration_rate):
            actions[k] = self.draws.choice(np.flatnonzero(self._last_obs[k, CAN] > 0.5))
        return actions, actions

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Some steps on the replay buffer, by the loss above."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        assert self.replay_buffer is not None
        errors: list[float] = []
        margins: list[float] = []
        for _ in range(gradient_steps):
            some = self.replay_buffer.sample(batch_size)
            discounts = some.discounts if some.discounts is not None else self.gamma
            with torch.no_grad():
                best = self.q_net(some.next_observations).argmax(1, keepdim=True)
                ahead = self.q_net_target(some.next_observations).gather(1, best)
                target = some.rewards + (1 - some.dones) * discounts * ahead
            values = self.q_net(some.observations)
            error = nn.functional.smooth_l1_loss(values.gather(1, some.actions.long()), target)
            behind = self.behind(values, some.observations)
            self.policy.optimizer.zero_grad()
            (error + self.demonstrated * behind).backward()
            nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            errors.append(error.item())
            margins.append(behind.item())
        self._n_updates += gradient_steps
        self.logger.record("train/loss", float(np.mean(errors)))
        self.logger.record("train/behind", float(np.mean(margins)))

    def behind(self, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """How far the demonstrator's actions are behind the best others and the margin, in the mean."""
        theirs = torch.from_numpy(demonstrated(x.numpy(), self.teacher))[:, None]
        others = values + self.margin
        others = others.scatter(1, theirs, values.gather(1, theirs))
        return (others.max(1, keepdim=True)[0] - values.gather(1, theirs)).mean()


class DeepQ(Rounds):
    """`learner.Learner` by SB3's DQN."""

    def __init__(self, plan: NetworkTraining, log: Path | None = None) -> None:
        """Before its first round.

        Args:
            log: folder for TensorBoard.
        """
        self.plan, self.rate = plan, 0.0
        settings, servers = plan.settings, sum(plan.tasks.values())
        self.model = DemonstratedDQN(
            AllowedPolicy,
            Servers(scenarios_of(plan), first_seed(plan, 0)),
            learning_rate=lambda _: self.rate,
            buffer_size=plan.decisions,
            learning_starts=int(settings["learning_starts"]),
            batch_size=int(settings["batch_size"]),
            gamma=plan.gamma,
            n_steps=int(settings["n_steps"]),
            train_freq=int(settings["train_freq"]),
            gradient_steps=int(settings["gradient_steps"]),
            target_update_interval=int(settings["target_every"]) * servers,
            exploration_initial_eps=settings["epsilon"],
            exploration_final_eps=settings["epsilon"],
            policy_kwargs={"net_arch": ARCHITECTURE, "activation_fn": nn.ReLU},
            tensorboard_log=None if log is None else str(log),
            seed=plan.seed,
            device="cpu",
        )
        self.model.margin, self.model.teacher = settings["margin"], memory_like(plan.demonstrator)
        net = self.model.q_net.q_net
        self.linears = nn.ModuleList([net[0], net[2], net[4]])
        watched(self.model.q_net)

    def values(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.q_net(x)

    def begin(self, k: int, decided: int, rng: np.random.Generator) -> None:
        plan, model = self.plan, self.model
        left = (plan.rounds - k) / max(plan.rounds - plan.imitated, 1)
        self.rate, model.draws = rate_of(plan, k), rng
        model.demonstrated = plan.settings["demonstrated"] * left
        model.begin(decided, int(plan.settings["learning_starts"]))
