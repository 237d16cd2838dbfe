"""Sequences start, grow, fork and end at random, against a dict of every token; the books balance."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import BlockPool, PoolError
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.sequences import Sequence, slot_mapping

BLOCKS = 14


class CacheMachine(RuleBasedStateMachine):
    """One layer of one number a token: the token itself."""

    @initialize(block=st.integers(1, 5))
    def build(self, block):
        self.cache = KVCache(BlockPool(1, BLOCKS, block, 1, 1))
        for tensor in (*self.cache.pool.keys, *self.cache.pool.values):
            tensor.fill_(torch.nan)
        self.tokens: dict[int, list[int]] = {}
        self.sequences: dict[int, Sequence] = {}
        self.count = 0

    def pick(self, number):
        return self.sequences[sorted(self.sequences)[number % len(self.sequences)]]

    def write(self, sequence, count):
        new = list(range(self.count, self.count + count))
        try:
            slots = self.cache.extend(sequence, count)
        except PoolError:
            assert blocks_for(count, self.cache.pool.block_tokens) + 1 > self.cache.pool.free
            return False
        self.count += count
        rows = torch.tensor(new, dtype=torch.float32).view(-1, 1, 1)
        self.cache.write(0, slots, rows, rows)
        self.tokens[sequence.id] = self.tokens.get(sequence.id, []) + new
        sequence.tokens = list(self.tokens[sequence.id])
        return True

    @rule(count=st.integers(1, 12))
    def starts(self, count):
        sequence = Sequence()
        if self.write(sequence, count):
            self.sequences[sequence.id] = sequence

    @rule(number=st.integers(0, 99), count=st.integers(0, 9))
    def grows(self, number, count):
        if self.sequences:
            self.write(self.pick(number), count)

    @rule(number=st.integers(0, 99))
    def forks(self, number):
        if self.sequences:
            parent = self.pick(number)
            child = self.cache.fork(parent)
            self.sequences[child.id], self.tokens[child.id] = child, list(self.tokens[parent.id])

    @rule(number=st.integers(0, 99), publish=st.booleans())
    def ends(self, number, publish):
        if self.sequences:
            sequence = self.pick(number)
            if publish:
                self.cache.publish(sequence)
            self.cache.release(sequence)
            del self.sequences[sequence.id]

    @rule(number=st.integers(0, 99), keep=st.integers(0, 20))
    def starts_on_a_known_prefix(self, number, keep):
        if self.tokens:
            known = self.tokens[sorted(self.tokens)[number % len(self.tokens)]][:keep]
            sequence = Sequence()
            hit = self.cache.reuse(sequence, known)
            if hit:
                self.sequences[sequence.id], self.tokens[sequence.id] = sequence, known[:hit]
                sequence.tokens = known[:hit]

    @rule(number=st.integers(0, 99))
    def moves_a_block(self, number):
        if self.sequences and self.cache.pool.free:
            old = self.pick(number).blocks[0]
            (new,) = self.cache.pool.take()
            self.cache.pool.copy(old, new)
            self.cache.relabel({old: new})

    @invariant()
    def the_books_balance(self):
        pool = self.cache.pool
        self.cache.check()
        assert pool.free + pool.used == BLOCKS
        assert pool.used == len({block for sequence in self.sequences.values() for block in sequence.blocks})
        entries = sum(len(sequence.blocks) for sequence in self.sequences.values())
        assert sum(pool.references(block) for block in range(BLOCKS)) == entries

    @invariant()
    def everybody_reads_what_was_written(self):
        for sequence in self.sequences.values():
            slots = slot_mapping(sequence, 0, sequence.length, self.cache.pool.block_tokens)
            assert self.cache.pool.keys[0].view(-1)[slots].tolist() == self.tokens[sequence.id]

    def teardown(self):
        for sequence in self.sequences.values():
            self.cache.release(sequence)
        self.cache.check()
        assert self.cache.pool.free == BLOCKS


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
