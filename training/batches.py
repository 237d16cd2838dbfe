"""Decisions as tokens: rows that hold several answers behind what their prompts have in common.

    prompt | context, answer | context, answer | ...        a tree; each branch is blind to the others

The rows of an observation stand before its head. So the same rows under several heads share most of their
tokens, which are computed once. Logits are computed where an answer has a choice, and over what may be chosen
there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from training.decisions import answer_of, under_another_head
from training.guide import told
from training.models import Loaded, trunk
from training.wording import WORDS

LENGTH = 512
"""Tokens of a row in training: one shape, so that it is compiled once."""
ACT_WEIGHT = 2.0
"""Weight in the loss of a verb other than `keep`, since too little freed costs far more than too much."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A prompt and its answer, which ends with the end of the turn."""

    prompt: list[int]
    answer: list[int]
    allowed: list[list[int]]
    """What may stand in the place of each token of the answer."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What prompts have in common, and of each the rest and its answer."""

    prompt: list[int]
    branches: list[Tokens]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(one.prompt) + len(one.answer) for one in self.branches)


def prompt_ids(tokenizer: Any, messages: Sequence[dict]) -> list[int]:
    """The tokens that the model goes on from."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def tokens_of(tokenizer: Any, row: dict) -> Tokens:
    """An example as tokens."""
    return Tokens(prompt_ids(tokenizer, row["messages"][:-1]), *told(tokenizer, *answer_of(row)))


def tree_of(decisions: Sequence[Tokens]) -> Tree:
    """Decisions behind the longest beginning of all their prompts, which leaves each a token at least."""
    shortest = min(len(one.prompt) for one in decisions) - 1
    first = decisions[0].prompt
    common = next(
        (k for k in range(shortest) if any(one.prompt[k] != first[k] for one in decisions)), shortest
    )
    return Tree(first[:common], [replace(one, prompt=one.prompt[common:]) for one in decisions])


def filled(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of tokens, filled up on the right ``[N, L]``."""
    length = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows]).reshape(len(rows), length)


def packed(trees: Sequence[Tree], pad: int, length: int | None = None) -> dict[str, torch.Tensor]:
    """Rows with a tree each.

    Returns ids, places and mask ``[B, L]``, ``[B, L]``, ``[B, 1, L, L]``; of every choice in an answer its
    row, the position that predicts it, the token that was chosen and the number of its branch ``[N]`` each,
    and what may be chosen ``[N, K]``, filled up with -1.
    """
    length = length or max(tree.length for tree in trees)
    ids = torch.full((len(trees), length), pad)
    places = torch.zeros((len(trees), length), dtype=torch.long)
    part = torch.full((len(trees), length), -1)  # 0: what is common, then the branches; -1: padding
    choices: list[tuple[int, int, int, int]] = []
    open_to: list[list[int]] = []
    number = 0
    for row, tree in enumerate(trees):
        at = common = len(tree.prompt)
        ids[row, :at], places[row, :at], part[row, :at] = torch.tensor(tree.prompt), torch.arange(at), 0
        for k, branch in enumerate(tree.branches):
            mine = branch.prompt + branch.answer
            end = at + len(mine)
            ids[row, at:end] = torch.tensor(mine)
            places[row, at:end] = common + torch.arange(len(mine))
            part[row, at:end] = k + 1
            first = at + len(branch.prompt) - 1
            for j, (token, may) in enumerate(zip(branch.answer, branch.allowed, strict=True)):
                if len(may) > 1:
                    choices.append((row, first + j, token, number))
                    open_to.append(may)
            at, number = end, number + 1
    earlier = torch.ones((length, length), dtype=torch.bool).tril()
    same = (part[:, :, None] == part[:, None, :]) | (part[:, None, :] == 0)
    allowed = (same & earlier) | torch.eye(length, dtype=torch.bool)
    mask = torch.zeros(allowed.shape, dtype=torch.bfloat16)  # takes half of the memory; scores are as exact
    mask = mask.masked_fill(~allowed, torch.finfo(torch.bfloat16).min)
    row, before, token, branch = torch.tensor(choices, dtype=torch.long).reshape(-1, 4).T
    return {
        "ids": ids, "places": places, "mask": mask[:, None],
        "row": row, "before": before, "token": token, "branch": branch,
        "allowed": filled(open_to, -1),
    }  # fmt: skip


def answer_logits(loaded: Loaded, rows: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of what may be chosen ``[N, K]`` in float32, and which of it was chosen ``[N]``."""
    body, head = trunk(loaded)
    there = {name: value.to(loaded.device) for name, value in rows.items()}
    hidden = body(
        input_ids=there["ids"], position_ids=there["places"], attention_mask=there["mask"], use_cache=False
    ).last_hidden_state
    logits = open_logits(head, hidden[there["row"], there["before"]], there["allowed"])
    return logits, (there["allowed"] == there["token"][:, None]).int().argmax(1)


def open_logits(head: torch.nn.Module, hidden: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """Logits of what each row may go on with ``[N, K]`` in float32, of hidden states ``[N, H]``.

    Args:
        allowed: tokens ``[N, K]``, filled up with -1, which gets -inf.
    """
    known, at = allowed.clamp(min=0).unique(return_inverse=True)
    logits = torch.nn.functional.linear(hidden, head.weight[known]).float()
    return logits.gather(1, at).masked_fill(allowed < 0, -torch.inf)


def weighted_loss(
    tokenizer: Any, logits: torch.Tensor, chosen: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Mean of -log p over the choices of answers, in which verbs count more.

    Args:
        logits, chosen: of `answer_logits`.
        tokens: those that were chosen ``[N]``.
    """
    verbs = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in WORDS.values()]
    acts = torch.isin(tokens, torch.tensor(verbs)).to(chosen.device)
    weights = torch.where(acts, ACT_WEIGHT, 1.0)
    losses = torch.nn.functional.cross_entropy(logits, chosen, reduction="none")
    return (weights * losses).sum() / weights.sum()


def grown(tokenizer: Any, rows: Sequence[dict], index: int, rng: np.random.Generator, length: int) -> Tree:
    """An example and the same rows under heads of others of its tier, as many as fit into `length`."""
    row = rows[index]
    decisions = [tokens_of(tokenizer, row)]
    while True:
        donor = rows[int(rng.integers(len(rows)))]
        if donor["difficulty"] != row["difficulty"]:
            continue
        more = [*decisions, tokens_of(tokenizer, under_another_head(row, donor))]
        if tree_of(more).length > length:
            return tree_of(decisions)
        decisions = more


def batches(
    tokenizer: Any, rows: Sequence[dict], size: int, seed: int, length: int = LENGTH
) -> Iterator[list[Tree]]:
    """Batches of trees without end; every example is the first of a tree once in an epoch."""
    epoch = 0
    while True:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(rows)).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield [grown(tokenizer, rows, k, rng, length) for k in order[start : start + size]]
        epoch += 1
