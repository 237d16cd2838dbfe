"""Whole episodes that the model plays in its own wording; all of them are one batch in every window."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kv_cache_rl.adapters.expert import opening
from kv_cache_rl.sim.eviction import Episode, Scenario, window_message
from kv_cache_rl.sim.eviction.calls import KEEP
from training.batches import prompt_ids
from training.decisions import example
from training.generation import generate, merged
from training.models import Loaded


@dataclass(slots=True)
class Rollout:
    """An episode with what the model read in each window."""

    episode: Episode
    content: str
    """The user message of the window that comes next."""
    seen: list[tuple[str, dict]] = field(default_factory=list)
    """Message and observation of each window."""
    calls: int = 0
    refused: int = 0
    unreadable: int = 0

    @property
    def score(self) -> float:
        return self.episode.report().normalized

    def examples(self) -> list[dict]:
        """The windows that the model came to, each answered by the expert."""
        return [
            example(self.episode.scenario, window, content, observation, "student")
            for window, (content, observation) in enumerate(self.seen)
        ]


def play(
    loaded: Loaded,
    scenarios: Sequence[Scenario],
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Rollout]:
    """The model's episodes of these scenarios, in their order."""
    made = [Rollout(episode, episode.prompt()) for episode in (Episode(one, "brief") for one in scenarios)]
    loaded.network.eval()
    with merged(loaded):
        while going := [one for one in made if not one.episode.done]:
            _window(loaded, going, temperature, generator)
            tell(f"window {going[0].episode.t} of {going[0].episode.scenario.steps}")
    return made


def _window(
    loaded: Loaded, going: list[Rollout], temperature: float, generator: torch.Generator | None
) -> None:
    prompts = [prompt_ids(loaded.tokenizer, opening("brief", one.content)) for one in going]
    seen = [one.episode.observation() for one in going]
    answers = generate(loaded, prompts, seen, temperature, generator=generator)
    for one, observation, said in zip(going, seen, answers, strict=True):
        episode = one.episode
        calls = said.calls(observation)
        one.seen.append((one.content, observation))
        one.unreadable += calls is None
        made = calls or [KEEP]
        texts = episode.step(made)
        one.calls += len(made)
        one.refused += sum(text.startswith("refused") for text in texts)
        if not episode.done:
            one.content = window_message([] if calls is None else made, texts, episode.prompt())
