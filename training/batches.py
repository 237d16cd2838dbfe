"""Examples as tokens, in batches of one length, and the log probabilities of answers.

Rows are padded at their end: with causal attention nothing real looks there, so no mask is needed. The head
over the vocabulary is a third of the model, and is computed for answers alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.decisions import answer_of
from training.models import Loaded, trunk

STEP = 32
"""Lengths are multiples of this, so that few shapes have to be compiled."""
IGNORED = -100
COUNT_WEIGHT = 0.2
"""Weight of a digit in the loss: the counts help to decide, but it is the decisions that earn."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt and its answer, which ends with the end of the turn."""

    prompt: list[int]
    answer: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


def prompt_ids(tokenizer: Any, messages: Sequence[dict]) -> list[int]:
    """The tokens that the model goes on from."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def tokens_of(tokenizer: Any, row: dict) -> Tokens:
    answer = tokenizer.encode(answer_of(row), add_special_tokens=False)
    return Tokens(prompt_ids(tokenizer, row["messages"][:-1]), [*answer, tokenizer.eos_token_id])


def grouped(examples: Sequence[Tokens], size: int, rng: np.random.Generator) -> list[list[int]]:
    """Indices in batches of like length, in random order, each example once."""
    order = rng.permutation(len(examples))
    by_length: dict[int, list[int]] = {}
    for index in order.tolist():
        by_length.setdefault(-(-examples[index].length // STEP), []).append(index)
    batches = [part[k : k + size] for part in by_length.values() for k in range(0, len(part), size)]
    return [batches[k] for k in rng.permutation(len(batches)).tolist()]


def padded(examples: Sequence[Tokens], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[B, L]``, and the token that should follow each ``[B, L]``: `IGNORED` but in the answer."""
    length = -(-max(one.length for one in examples) // STEP) * STEP
    ids = torch.full((len(examples), length), pad)
    wanted = torch.full((len(examples), length), IGNORED)
    for k, one in enumerate(examples):
        ids[k, : one.length] = torch.tensor(one.prompt + one.answer)
        wanted[k, len(one.prompt) - 1 : one.length - 1] = torch.tensor(one.answer)
    return ids, wanted


def answer_logits(
    loaded: Loaded, ids: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits before each token of the answers ``[N, vocabulary]`` in float32, and those tokens ``[N]``."""
    body, head = trunk(loaded)
    hidden = body(input_ids=ids.to(loaded.device), use_cache=False).last_hidden_state
    chosen = wanted.to(loaded.device) != IGNORED
    return head(hidden[chosen]).float(), wanted.to(loaded.device)[chosen]


def weighted_loss(tokenizer: Any, logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Mean of -log p over the tokens of answers, in which digits count less."""
    digits = torch.tensor(tokenizer.convert_tokens_to_ids(list("0123456789")), device=answers.device)
    weights = torch.where(torch.isin(answers, digits), COUNT_WEIGHT, 1.0)
    losses = torch.nn.functional.cross_entropy(logits, answers, reduction="none")
    return (weights * losses).sum() / weights.sum()


def batches(
    examples: Sequence[Tokens], size: int, pad: int, seed: int, epochs: int = 10**6
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Batches without end: tokens, wanted tokens, and how many examples they hold."""
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        for batch in grouped(examples, size, rng):
            yield *padded([examples[k] for k in batch], pad), len(batch)
