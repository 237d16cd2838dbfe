"""Replays of the default engine one request at a time, and random traces and tiers for them."""

import random

import numpy as np
from block_replay import trace_of
from hypothesis import strategies as st

from kv_cache_rl.core.hardware import Link
from kv_cache_rl.sim.hierarchy.dynamics import advance, new_state
from kv_cache_rl.sim.hierarchy.spec import Scenario, Tier
from kv_cache_rl.sim.hierarchy.traces.trace import expand, pages

SEEDS = st.integers(0, 2**32)


def stepped(trace, scenario, policy, **tuning):
    """Yields the state after each request (always the same one, which changes)."""
    state = new_state(trace, scenario, policy, **tuning)
    first, blocks = expand(trace)
    for request in range(trace.requests):
        advance(state, first, blocks, request, request + 1)
        yield state


def whole(trace, scenario, policy, **tuning):
    """The state after all requests, without the shortcut for LRU."""
    state = new_state(trace, scenario, policy, **tuning)
    advance(state, *expand(trace), 0, trace.requests)
    return state


def resident(state, tier=0):
    """The pages in a tier."""
    return set(np.flatnonzero(state.page["tier"] == tier).tolist())


def page_trace(rng, accesses=150, count=24, largest=1):
    """Accesses that repeat, run on or jump, over pages of 1 to `largest` times 8 bytes."""
    ids, hot = [rng.randrange(count)], rng.sample(range(count), 5)
    for _ in range(accesses - 1):
        way = rng.random()
        ids.append(
            rng.choice(hot) if way < 0.4 else (ids[-1] + 1) % count if way < 0.6 else rng.randrange(count)
        )
    return pages("random", np.array(ids), np.array([8 * rng.randint(1, largest) for _ in range(count)]))


def tree_trace(rng, requests=40, depth=10, largest=0):
    """Requests that are paths of a growing forest; `largest` > 0: blocks of 1 to so many times 8 bytes."""
    children, paths, fan_out = {}, [], rng.randint(1, 3)
    blocks = 0
    for _ in range(requests):
        path = []
        for _ in range(rng.randint(1, depth)):
            below = children.setdefault(path[-1] if path else None, [])
            if not below or (len(below) < fan_out and rng.random() < 0.4):
                below.append(blocks)
                blocks += 1
            path.append(rng.choice(below))
        paths.append(path)
    trace = trace_of(paths)
    if not largest:
        return trace
    sizes = np.array([8 * rng.randint(1, largest) for _ in range(trace.blocks)])
    columns = {name: getattr(trace, name) for name in trace.__dataclass_fields__}
    return type(trace)(**columns | {"page_bytes": sizes})


def tiers_for(rng, levels, low, high, **rules):
    """So many tiers of `low` to `high` bytes, each lower one larger, behind links of all kinds."""
    tiers, capacity = [], 0
    for level in range(levels):
        capacity += rng.randint(low, high)
        one_way = rng.choice((40.0, 100.0, 1000.0))
        link = Link(f"link{level}", one_way, one_way * rng.choice((0.5, 0.7, 1.0)), rng.choice((0.0, 0.01)))
        tiers.append(Tier(f"tier{level}", capacity, link, rng.choice((0.0, 0.02)), rng.choice((0.0, 0.03))))
    return Scenario(tuple(tiers), **rules)


def rng_of(seed):
    """A generator."""
    return random.Random(seed)
