"""Reinforcement learning: a group-relative policy gradient on the normalised score of whole episodes.

    for each step:
        the model plays some training scenarios; in every window it draws a group of answers
        the first of them is played on; of each other the episode is played to its end by the expert
        reward     = normalised score of that whole episode
        advantage  = (reward - mean of the group) / spread over all groups
        loss       = -mean of advantage * log p(answer) + beta * KL(model, SFT model), over the answers

A group shares scenario and window, so its rewards differ by one decision alone, and the expert that plays on
adds no noise. Groups of whole rollouts of the model, which TRL's `GRPOTrainer` draws, spread one reward over
15 decisions: they take 15 times as many tokens for one comparison, which two cores do not have.

The answers of a group stand in one row behind their common prompt, each blind to the others: the prompt, most
of the tokens, is computed once. Sources: Shao et al. 2024 (GRPO), section 4.1; Liu et al. 2025 (Dr. GRPO) on
spreads; Sun et al. 2017 (AggreVaTeD) on the expert that plays on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kv_cache_rl.adapters.expert import opening
from kv_cache_rl.sim.eviction import Call, Episode, Scenario, decider, window_message
from kv_cache_rl.sim.eviction.calls import KEEP
from training.batches import Tokens, Tree, answer_logits, packed, prompt_ids, tree_of
from training.decisions import EXPERT
from training.generation import Generated, generate, merged
from training.models import Loaded, adapter_of
from training.optimiser import MasterAdamW
from training.run import Plan, Run

GROUP = 8
"""Answers to one prompt."""
BETA = 0.02
"""Weight of the KL to the SFT model."""
PER_UPDATE = 16
"""Groups of one step of the optimiser."""
ROWS = 4
"""Groups that are computed in one go."""
REFERENCE = "reference"
"""Name of the adapter that stays as the SFT left it."""


@dataclass(frozen=True, slots=True)
class Group:
    """The different answers to one prompt, how often each was drawn, and the reward of each."""

    answers: list[Tokens]
    counts: np.ndarray
    rewards: np.ndarray

    @property
    def tree(self) -> Tree:
        return tree_of(self.answers)

    @property
    def centred(self) -> np.ndarray:
        return self.rewards - np.average(self.rewards, weights=self.counts)


def with_reference(loaded: Loaded, folder: Path) -> None:
    """Loads the SFT adapter a second time, as what the KL is measured from."""
    loaded.network.load_adapter(
        str(adapter_of(folder)), REFERENCE, is_trainable=False, autocast_adapter_dtype=False
    )
    loaded.network.set_adapter("default")


def finished(scenario: Scenario, log: list, calls: Sequence[Call]) -> float:
    """The normalised score of an episode that begins with a log and these calls; the expert plays on."""
    episode, expert = Episode(scenario, "brief"), decider(EXPERT)
    for words in log:
        episode.step([episode.named(Call.from_log(call), shown=True) for call in words])
    episode.step(list(calls))
    while not episode.done:
        episode.step(expert(episode.observation()) or [KEEP])
    return episode.report().normalized


def groups_of(
    loaded: Loaded,
    scenarios: Sequence[Scenario],
    generator: torch.Generator,
    size: int,
    temperature: float = 1.0,
) -> tuple[list[Group], float]:
    """A group for each window of these episodes, and the mean score of what the model itself played."""
    episodes = [Episode(scenario, "brief") for scenario in scenarios]
    contents = [episode.prompt() for episode in episodes]
    loaded.network.eval()
    found = []
    with merged(loaded):
        while not episodes[0].done:
            prompts = [prompt_ids(loaded.tokenizer, opening("brief", content)) for content in contents]
            seen = [episode.observation() for episode in episodes]
            said = generate(loaded, prompts, seen, temperature, generator=generator, draws=size)
            for k, (episode, prompt) in enumerate(zip(episodes, prompts, strict=True)):
                group = said[k * size : (k + 1) * size]
                found.append(_group(episode, prompt, seen[k], group))
                calls = group[0].calls(seen[k])
                texts = episode.step(calls or [KEEP])
                if not episode.done:
                    contents[k] = window_message(calls or [], texts, episode.prompt())
    return found, float(np.mean([episode.report().normalized for episode in episodes]))


def _group(episode: Episode, prompt: list[int], observation: dict, said: Sequence[Generated]) -> Group:
    counts: dict[tuple[int, ...], int] = {}
    earned: dict[tuple[Call, ...], float] = {}  # many answers make the same calls
    answers, rewards = [], []
    for one in said:
        key = tuple(one.tokens)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] > 1:
            continue
        calls = tuple(one.calls(observation) or [KEEP])
        if calls not in earned:
            earned[calls] = finished(episode.scenario, episode.log, calls)
        answers.append(Tokens(prompt, one.tokens, one.allowed))
        rewards.append(earned[calls])
    return Group(answers, np.array([*counts.values()]), np.array(rewards))


def chances(loaded: Loaded, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Log probability of every choice in the answers ``[N]``."""
    logits, chosen = answer_logits(loaded, rows)
    return torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0]


def objective(
    now: torch.Tensor, reference: torch.Tensor, weights: torch.Tensor, shares: torch.Tensor, beta: float
) -> tuple[torch.Tensor, float]:
    """The loss of choices, and their mean KL to the reference (the k3 estimate, which is never negative).

    Args:
        weights: advantage of each choice's answer, times how often it was drawn.
        shares: how often it was drawn.
    """
    gap = reference - now
    distance = torch.exp(gap) - gap - 1
    loss = (-(weights * now) + beta * shares * distance).sum() / shares.sum()
    return loss, float(((shares * distance).sum() / shares.sum()).detach())


def update(
    loaded: Loaded, optimiser: MasterAdamW, groups: Sequence[Group], spread: float, beta: float
) -> dict:
    """One step on these groups; gives the mean KL and the norm of the gradient."""
    distances = []
    loaded.network.train()
    for start in range(0, len(groups), ROWS):
        part = groups[start : start + ROWS]
        rows = packed([group.tree for group in part], loaded.tokenizer.pad_token_id)
        number = rows["branch"].to(loaded.device)
        counts = torch.tensor(
            np.concatenate([g.counts for g in part]), dtype=torch.float32, device=loaded.device
        )
        gains = torch.tensor(
            np.concatenate([g.centred for g in part]) / spread, dtype=torch.float32, device=loaded.device
        )
        with torch.no_grad():
            loaded.network.set_adapter(REFERENCE)
            reference = chances(loaded, rows)
        loaded.network.set_adapter("default")
        now = chances(loaded, rows)
        loss, distance = objective(now, reference, (counts * gains)[number], counts[number], beta)
        (loss * len(part) / len(groups)).backward()
        distances.append(distance)
    return {"kl": round(float(np.mean(distances)), 5), "norm": round(optimiser.step(1.0), 4)}


def train(
    loaded: Loaded,
    scenarios: Sequence[Scenario],
    plan: Plan,
    folder: Path,
    tell: Callable[[str], None],
    beta: float = BETA,
) -> None:
    """Trains until `plan.examples` scenarios were played, `plan.batch` a step; goes on from the checkpoint.

    `loaded` has the SFT adapter twice, as `default` and as `REFERENCE`.
    """
    optimiser = MasterAdamW(
        [value for name, value in loaded.network.named_parameters() if f".{REFERENCE}." not in name],
        plan.rate,
    )
    run = Run(loaded, optimiser, plan, folder, tell)
    while not run.done:
        now = run.now
        chosen = [scenarios[(now.seen + k) % len(scenarios)] for k in range(plan.batch)]
        generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + now.steps)
        groups, score = groups_of(loaded, chosen, generator, GROUP)
        told = _updates(loaded, optimiser, groups, np.random.default_rng([plan.seed, now.steps]), beta)
        rewards = [np.average(group.rewards, weights=group.counts) for group in groups]
        reward = round(float(np.mean(rewards)), 4)
        told |= {"score": round(score, 4), "reward": reward, "groups": len(groups)}
        run.step(len(chosen), told)
        run.say(f"score {score:+.3f}, kl {told['kl']}")
        run.keep()


def _updates(
    loaded: Loaded, optimiser: MasterAdamW, groups: Sequence[Group], rng: np.random.Generator, beta: float
) -> dict:
    """Steps on all groups in which the answers differ in what they earn; gives what the log tells."""
    useful = [group for group in groups if np.ptp(group.rewards) > 0]
    told: dict = {"kl": 0.0, "norm": 0.0}
    squares = [np.average(group.centred**2, weights=group.counts) for group in useful]
    spread = float(np.sqrt(np.mean(squares))) if useful else 1.0
    order = rng.permutation(len(useful))
    for start in range(0, len(useful), PER_UPDATE):
        part = [useful[k] for k in order[start : start + PER_UPDATE]]
        told = update(loaded, optimiser, part, spread, beta)
    return {"useful": len(useful), "spread": round(spread, 4), **told}
