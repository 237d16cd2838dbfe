"""Conversations token by token, whose truth is known: what an engine that keeps everything finds."""

import itertools
import random

import numpy as np
from block_replay import leading

from kv_cache_rl.sim.hierarchy.traces.numbering import runs_of
from kv_cache_rl.sim.hierarchy.traces.trace import Trace, last_of

BLOCK = 4


class Texts:
    """Conversations as texts of tokens, and the requests that they make; every token ever written is new."""

    def __init__(self):
        self.tokens, self.names, self.rows, self.truth = itertools.count(), {}, [], []

    def new(self, count):
        return [next(self.tokens) for _ in range(count)]

    def ids(self, text, partial=True):
        """A block by all that it holds and all before it."""
        ends = range(BLOCK, len(text) + (BLOCK if partial else 1), BLOCK)
        return [self.names.setdefault(tuple(text[:end]), len(self.names)) for end in ends]

    def ask(self, sequence, prompt, answer):
        """Records a request and returns the text with its answer, `answer` tokens."""
        whole = prompt + self.new(answer)
        self.rows.append((sequence, len(prompt), answer, self.ids(prompt)))
        self.truth.append(whole)
        return whole

    def trace(self):
        sequence, tokens_in, tokens_out, paths = zip(*self.rows, strict=True)
        known = {block: at for at, block in enumerate(dict.fromkeys(b for path in paths for b in path))}
        dense = np.array([known[block] for path in paths for block in path], np.int64)
        runs = runs_of(dense, np.array([len(path) for path in paths]))
        count, numbers = len(paths), np.unique(sequence, return_inverse=True)[1].astype(np.int64)
        return Trace(
            "texts", True, BLOCK, np.arange(count, dtype=float), numbers, *runs, len(known), 0,
            np.array(tokens_in, np.int64), np.array(tokens_out, np.int64), last_of(numbers),
        )  # fmt: skip

    def hits_of_an_engine(self):
        """Blocks found by an engine that keeps all it ever computed, token by token."""
        cache, hits = set(), 0
        for (_, _, _, path), whole in zip(self.rows, self.truth, strict=True):
            hits += leading(path, cache)
            cache |= {*path, *self.ids(whole, partial=False)}
        return hits


def texts(seed, requests=25, longest=9, shortest=BLOCK):
    """Conversations over a common beginning, which go on, ask again, and branch off an earlier turn.

    Each question fills a block, so that the full blocks of two prompts differ unless one repeats the other;
    but for the first of a conversation, of `shortest` tokens and more: several may end with one block.
    """
    rng, made = random.Random(seed), Texts()
    common = made.new(rng.randint(0, 6))
    turns = {sequence: [] for sequence in range(3)}
    for _ in range(requests):
        sequence = rng.randrange(3)
        past = turns[sequence]
        before = [] if not past else past[-1] if rng.random() < 0.8 else rng.choice(past)
        prompt = [*(before or common), *made.new(rng.randint(BLOCK if past else shortest, longest))]
        if rng.random() < 0.1:
            made.ask(sequence, prompt, rng.randint(0, longest))  # an answer that is thrown away
        turns[sequence].append(made.ask(sequence, prompt, rng.randint(0, longest)))
    return made
