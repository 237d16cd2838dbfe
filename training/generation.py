"""Answers to many prompts at once: one batch, greedy or sampled, which shrinks as answers end.

read all prompts; repeat each for as many answers as are drawn
while answers are unfinished:
    choose the likeliest token of those that may follow, or draw one, for each
    append what alone can stand behind it, up to the next choice; read all of it in one pass
    once a quarter of the batch has ended, leave those rows out"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from kv_cache_rl.sim.eviction import Call
from training.batches import filled, open_logits
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
            answers = [_Answer(loaded, seen[place // draws], most) for place in places]
            _batch(loaded, [prompts[k] for k in part], answers, temperature, generator)
            found |= dict(zip(places, answers, strict=True))
    return [found[k].generated() for k in range(len(prompts) * draws)]


class _Answer:
    """An answer in the making."""

    def __init__(self, loaded: Loaded, observation: dict | None, most: int) -> None:
        self._tokenizer, self._end, self._most = loaded.tokenizer, loaded.tokenizer.eos_token_id, most
        held = loaded.trained and observation is not None
        self._guide = Guide(loaded.tokenizer, observation) if held else None
        self.tokens: list[int] = []
        self._allowed: list[list[int]] = []
        self._read = 0
        self._follow()

    @property
    def _ended(self) -> bool:
        return bool(self.tokens) and self.tokens[-1] == self._end

    @property
    def done(self) -> bool:
        return self._ended or len(self.tokens) >= self._most

    @property
    def allowed(self) -> list[int] | None:
        """What may come next; None: anything."""
        if self.done:
            return [self._end]
        return self._guide.allowed if self._guide else None

    def write(self, token: int) -> None:
        """Goes on with a token, and with all that alone can stand behind it."""
        self._append(token)
        self._follow()

    def unread(self) -> list[int]:
        """The tokens that were not yet given out."""
        fresh, self._read = self.tokens[self._read :], len(self.tokens)
        return fresh

    def generated(self) -> Generated:
        text = self._tokenizer.decode([one for one in self.tokens if one != self._end])
        return Generated(self.tokens, text, not self._ended, self._allowed)

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        if self._guide:
            self._allowed.append(self._guide.allowed)
            self._guide.write(token)

    def _follow(self) -> None:
        while not self.done and self.allowed is not None and len(self.allowed) == 1:
            self._append(self.allowed[0])


def _batch(
    loaded: Loaded,
    prompts: list[Sequence[int]],
    answers: list[_Answer],
    temperature: float,
    generator: torch.Generator | None,
) -> None:
    """Writes the answers, of which each prompt has equally many."""
    body, head = trunk(loaded)
    draws = len(answers) // len(prompts)
    fresh = [answer.unread() for answer in answers]
    fed = [[*prompt, *fresh[k * draws]] for k, prompt in enumerate(prompts)]
    cache, alive = DynamicCache(), answers
    mask = torch.zeros((len(prompts), 0), dtype=torch.long, device=loaded.device)
    while not all(answer.done for answer in alive):
        ids = filled(fed, loaded.tokenizer.pad_token_id).to(loaded.device)
        there = filled([[1] * len(row) for row in fed], 0).to(loaded.device)
        mask = torch.cat([mask, there], 1)
        places = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]
        hidden = body(
            input_ids=ids, attention_mask=mask, position_ids=places, past_key_values=cache, use_cache=True
        ).last_hidden_state
        hidden = hidden[torch.arange(len(fed), device=loaded.device), there.sum(1) - 1]
        if len(alive) > len(fed):
            cache.batch_repeat_interleave(draws)
            hidden, mask = (one.repeat_interleave(draws, 0) for one in (hidden, mask))
        chosen = _chosen(head, hidden, [one.allowed for one in alive], temperature, generator)
        for answer, token in zip(alive, chosen.tolist(), strict=True):
            if not answer.done:
                answer.write(token)
        going = [row for row, answer in enumerate(alive) if not answer.done]
        if len(going) <= 0.75 * len(alive):
            rows = torch.tensor(going, dtype=torch.long, device=loaded.device)
            cache.batch_select_indices(rows)
            mask, alive = mask[rows], [alive[row] for row in going]
        fed = [answer.unread() or [loaded.tokenizer.pad_token_id] for answer in alive]


def _chosen(
    head: torch.nn.Module,
    hidden: torch.Tensor,
    allowed: list[list[int] | None],
    temperature: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """The token that each row ``[B]`` goes on with, out of those that may follow; None: out of all."""
    chosen = torch.empty(len(allowed), dtype=torch.long, device=hidden.device)
    free = [row for row, may in enumerate(allowed) if may is None]
    if free:
        chosen[free] = _choose(head(hidden[free]).float(), temperature, generator)
    held = {row: may for row, may in enumerate(allowed) if may is not None}
    if held:
        rows, tokens = list(held), filled(list(held.values()), -1).to(hidden.device)
        column = _choose(open_logits(head, hidden[rows], tokens), temperature, generator)
        chosen[rows] = tokens.gather(1, column[:, None])[:, 0]
    return chosen


def _choose(logits: torch.Tensor, temperature: float, generator: torch.Generator | None) -> torch.Tensor:
    """A column of each row of logits ``[B, K]``."""
    if temperature == 0:
        return logits.argmax(-1)
    chances = torch.softmax(logits / temperature, -1)
    return torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0].to(logits.device)
