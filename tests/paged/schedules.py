"""Schedulers with requests in them, and their way to the end."""

from decoders import prompt
from hypothesis import strategies as st

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.scheduler import Scheduler
from kv_cache_rl.paged.swap import HostPool

REQUESTS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 14), st.booleans()), min_size=1, max_size=9)
"""Length of the prompt, tokens asked for, and whether it begins as others do."""


def scheduled(model, blocks, block_tokens, host=None, **options):
    """A scheduler over an empty cache and a host pool of `host` blocks."""
    cache = model.new_cache(blocks, block_tokens)
    return Scheduler(model, cache, HostPool(cache.pool, host) if host else None, **options)


def filled(model, asked, blocks, block_tokens, host=None, **options):
    """The same with requests, and their prompts."""
    scheduler = scheduled(model, blocks, block_tokens, host, **options)
    for at, (length, most, alike) in enumerate(asked):
        scheduler.add(prompt(model, length, 0 if alike else at + 1), most)
    return scheduler


def stepped(scheduler):
    """Runs to the end; the books balance after every step."""
    while scheduler.waiting or scheduler.running:
        scheduler.step()
        scheduler.check()
    return scheduler


def room_for(asked, block_tokens, spare):
    """Blocks that hold the largest request, and `spare` more."""
    return max(blocks_for(length + most, block_tokens) for length, most, _ in asked) + spare
