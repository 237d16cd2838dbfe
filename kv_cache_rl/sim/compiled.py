"""The functions of `core` that simulators compile into their loops, compiled once."""

from kv_cache_rl.core import blocks, draws, hardware, pool
from kv_cache_rl.jit import uncounted

take = uncounted(pool.take)
give = uncounted(pool.give)
free = uncounted(pool.free)
blocks_for = uncounted(blocks.blocks_for)
prefill_microseconds = uncounted(hardware.prefill_microseconds)
transfer_microseconds = uncounted(hardware.transfer_microseconds)
mixed = uncounted(draws.mixed)
unit = uncounted(draws.unit)
