"""Answers to many prompts at once: one batch, greedy or sampled, which shrinks as answers end.

read all prompts, padded on the left; repeat each for as many answers as are drawn
while answers are unfinished:
    append the likeliest token of those that may follow, or one that is drawn, to each
    once a quarter of the batch has ended, leave those rows out"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from kv_cache_rl.sim.eviction import Call
from training.guide import Guide
from training.models import Loaded, trunk
from training.wording import read

MOST = 128
"""Tokens of an answer: 16 calls and 12 rows that are kept take 121."""
AT_ONCE = 64
"""Prompts that are read in one go, which bounds the memory that it takes."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer; its tokens end with the end of the turn unless it was cut."""

    tokens: list[int]
    text: str
    cut: bool
    allowed: list[list[int]]
    """What could have stood in the place of each token; empty where nothing held the model to a wording."""

    def calls(self, observation: dict | None) -> list[Call] | None:
        """The calls in it; None where it is cut, or no line of the wording."""
        return None if self.cut else read(self.text, observation)


@contextmanager
def merged(loaded: Loaded) -> Iterator[None]:
    """Adds the adapter into the weights for the block, which is faster. They come back exactly."""
    if not loaded.trained:
        yield
        return
    bases = [module.base_layer for module in loaded.network.modules() if hasattr(module, "base_layer")]
    kept = [base.weight.detach().clone() for base in bases]
    loaded.network.merge_adapter()
    try:
        yield
    finally:
        loaded.network.unmerge_adapter()
        with torch.no_grad():
            for base, weight in zip(bases, kept, strict=True):
                base.weight.copy_(weight)


def generate(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    seen: Sequence[dict | None],
    temperature: float = 0.0,
    most: int = MOST,
    generator: torch.Generator | None = None,
    draws: int = 1,
) -> list[Generated]:
    """`draws` answers to each prompt, in their order. Temperature 0 is greedy.

    Args:
        seen: the observation of each prompt, to which a trained model's answer is held; None: free text.
    """
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    found: dict[int, _Answer] = {}
    with torch.inference_mode():
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            places = [k * draws + draw for k in part for draw in range(draws)]
            answers = [_Answer(loaded, seen[place // draws]) for place in places]
            _batch(loaded, [prompts[k] for k in part], answers, temperature, most, generator)
            found |= dict(zip(places, answers, strict=True))
    return [found[k].generated() for k in range(len(prompts) * draws)]


class _Answer:
    """An answer in the making."""

    def __init__(self, loaded: Loaded, observation: dict | None) -> None:
        self._tokenizer, self._end = loaded.tokenizer, loaded.tokenizer.eos_token_id
        held = loaded.trained and observation is not None
        self._guide = Guide(loaded.tokenizer, observation) if held else None
        self.tokens: list[int] = []
        self._allowed: list[list[int]] = []

    @property
    def done(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] == self._end

    @property
    def allowed(self) -> list[int] | None:
        """What may come next; None: anything."""
        return self._guide.allowed if self._guide else None

    def write(self, token: int) -> None:
        self.tokens.append(token)
        if self._guide:
            self._allowed.append(self._guide.allowed)
            self._guide.write(token)

    def generated(self) -> Generated:
        text = self._tokenizer.decode([one for one in self.tokens if one != self._end])
        return Generated(self.tokens, text, not self.done, self._allowed)


def _batch(
    loaded: Loaded,
    prompts: list[Sequence[int]],
    answers: list[_Answer],
    temperature: float,
    most: int,
    generator: torch.Generator | None,
) -> None:
    """Writes the answers, of which each prompt has equally many."""
    body, head = trunk(loaded)
    pad, draws = loaded.tokenizer.pad_token_id, len(answers) // len(prompts)
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for k, prompt in enumerate(prompts):
        ids[k, length - len(prompt) :] = torch.tensor(prompt)
        mask[k, length - len(prompt) :] = 1
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache, alive = DynamicCache(), answers
    for made in range(most):
        hidden = body(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        if made == 0 and draws > 1:
            cache.batch_repeat_interleave(draws)
            hidden, places, mask = (one.repeat_interleave(draws, 0) for one in (hidden, places, mask))
        logits = head(hidden).float()
        for row, answer in enumerate(alive):
            if not answer.done and answer.allowed is not None:
                kept = logits[row, answer.allowed]
                logits[row] = -torch.inf
                logits[row, answer.allowed] = kept
        chosen = _choose(logits, temperature, generator)
        for answer, token in zip(alive, chosen.tolist(), strict=True):
            if not answer.done:
                answer.write(token)
        going = [row for row, answer in enumerate(alive) if not answer.done]
        if not going:
            break
        ids, places = chosen[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if len(going) <= 0.75 * len(alive):
            rows = torch.tensor(going, device=loaded.device)
            cache.batch_select_indices(rows)
            ids, places, mask, alive = ids[rows], places[rows], mask[rows], [alive[row] for row in going]


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """A token for each row of logits ``[B, vocabulary]``."""
    if temperature == 0:
        return logits.argmax(-1)
    chances = torch.softmax(logits / temperature, -1)
    return torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)
