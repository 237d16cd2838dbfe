"""Sequences start, grow, fork, swap and end at random: none reads the K/V of another."""

import torch
from decoders import contents, decoder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, SwapError, swap_in, swap_out


class SwapMachine(RuleBasedStateMachine):
    """Sequences start, grow, fork, swap and end; each must hold exactly the K/V written for it."""

    @initialize(block_tokens=st.integers(1, 4))
    def build(self, block_tokens):
        self.model = decoder(0, layers=1, kv_heads=1)
        self.cache = self.model.new_cache(10, block_tokens)
        self.host = HostPool(self.cache.pool, 6)
        self.here, self.away, self.count = {}, {}, 0

    def pick(self, which, n):
        return sorted(which, key=lambda s: s.id)[n % len(which)] if which else None

    def written(self, sequence, count):
        slots = self.cache.extend(sequence, count)
        self.count += 1
        k = torch.full((count, 1, 8), float(self.count))
        self.cache.write(0, slots, k, -k)
        return torch.cat((self.here.get(sequence, k[:0]), k))

    @rule(count=st.integers(1, 6))
    def a_sequence_comes(self, count):
        sequence = Sequence()
        try:
            self.here[sequence] = self.written(sequence, count)
        except PoolError:
            assert sequence.blocks == []

    @rule(n=st.integers(0, 99), count=st.integers(1, 5))
    def a_sequence_grows(self, n, count):
        sequence = self.pick(self.here, n)
        if sequence is not None:
            try:
                self.here[sequence] = self.written(sequence, count)
            except PoolError:
                assert sequence.length == len(self.here[sequence])

    @rule(n=st.integers(0, 99))
    def a_sequence_forks(self, n):
        sequence = self.pick(self.here, n)
        if sequence is not None:
            self.here[self.cache.fork(sequence)] = self.here[sequence]

    @rule(n=st.integers(0, 99))
    def a_sequence_is_swapped_out(self, n):
        sequence, before = self.pick(self.here, n), self.host.used
        if sequence is not None:
            needed = len(sequence.blocks)
            try:
                swap_out(self.cache, self.host, sequence)
                self.away[sequence] = self.here.pop(sequence)
                assert self.host.used == before + needed
            except SwapError:
                assert self.host.used == before and needed > self.host.free

    @rule(n=st.integers(0, 99))
    def a_sequence_is_swapped_in(self, n):
        sequence = self.pick(self.away, n)
        if sequence is not None:
            try:
                swap_in(self.cache, self.host, sequence)
                self.here[sequence] = self.away.pop(sequence)
            except PoolError:
                assert sequence.blocks == []

    @rule(n=st.integers(0, 99))
    def a_sequence_leaves(self, n):
        sequence = self.pick(self.here, n)
        if sequence is not None:
            self.cache.release(sequence)
            del self.here[sequence]

    @invariant()
    def everyone_holds_what_was_written(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check()
        self.host.check()
        assert self.host.used == sum(
            blocks_for(len(k), self.cache.pool.block_tokens) for k in self.away.values()
        )
        for sequence, k in self.here.items():
            keys, values = contents(self.cache, sequence)
            assert torch.equal(keys, k) and torch.equal(values, -k)


SwapMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSwap = SwapMachine.TestCase
