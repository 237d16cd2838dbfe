"""Answers to many prompts at once: one batch, greedy or sampled, which shrinks as answers end.

read all prompts, padded on the left; repeat each for as many answers as are drawn
while answers are unfinished:
    append the likeliest token, or one that is drawn, to each
    once a quarter of the batch has ended, leave those rows out"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from training.models import Loaded, trunk

MOST = 96
"""Tokens of an answer: 16 calls take 80."""
AT_ONCE = 64
"""Prompts that are read in one go, which bounds the memory that it takes."""


@dataclass(frozen=True, slots=True)
class Generated:
    """An answer; its tokens end with the end of the turn unless it was cut."""

    tokens: list[int]
    text: str
    cut: bool


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
    temperature: float = 0.0,
    most: int = MOST,
    generator: torch.Generator | None = None,
    draws: int = 1,
) -> list[Generated]:
    """`draws` answers to each prompt, in their order. Temperature 0 is greedy."""
    order = sorted(range(len(prompts)), key=lambda k: len(prompts[k]))
    found: dict[int, list[int]] = {}
    with torch.inference_mode():
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            answers = _batch(loaded, [prompts[k] for k in part], temperature, most, generator, draws)
            places = [k * draws + draw for k in part for draw in range(draws)]
            found |= dict(zip(places, answers, strict=True))
    end = loaded.tokenizer.eos_token_id
    return [
        Generated(
            found[k],
            loaded.tokenizer.decode([one for one in found[k] if one != end]),
            cut=not found[k] or found[k][-1] != end,
        )
        for k in range(len(prompts) * draws)
    ]


def _batch(
    loaded: Loaded,
    prompts: list[Sequence[int]],
    temperature: float,
    most: int,
    generator: torch.Generator | None,
    draws: int,
) -> list[list[int]]:
    body, head = trunk(loaded)
    pad, end = loaded.tokenizer.pad_token_id, loaded.tokenizer.eos_token_id
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for k, prompt in enumerate(prompts):
        ids[k, length - len(prompt) :] = torch.tensor(prompt)
        mask[k, length - len(prompt) :] = 1
    ids, mask = ids.to(loaded.device), mask.to(loaded.device)
    places = (mask.cumsum(1) - 1).clamp(min=0)
    cache, count = DynamicCache(), len(prompts) * draws
    answers: list[list[int]] = [[] for _ in range(count)]
    alive = list(range(count))
    for made in range(most):
        hidden = body(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        if made == 0 and draws > 1:
            cache.batch_repeat_interleave(draws)
            hidden, places, mask = (one.repeat_interleave(draws, 0) for one in (hidden, places, mask))
        chosen = _choose(head(hidden).float(), temperature, generator)
        for row, token in enumerate(chosen.tolist()):
            if not answers[alive[row]] or answers[alive[row]][-1] != end:
                answers[alive[row]].append(token)
        going = [row for row, index in enumerate(alive) if answers[index][-1] != end]
        if not going:
            break
        ids, places = chosen[:, None], places[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if len(going) <= 0.75 * len(alive):
            rows = torch.tensor(going, device=loaded.device)
            cache.batch_select_indices(rows)
            ids, places, mask, alive = ids[rows], places[rows], mask[rows], [alive[row] for row in going]
    return answers


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """A token for each row of logits ``[B, vocabulary]``."""
    if temperature == 0:
        return logits.argmax(-1)
    chances = torch.softmax(logits / temperature, -1)
    return torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)
