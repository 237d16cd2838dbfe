"""Hand-made scenarios with round numbers, generated ones, and a random player."""

import functools
import random
from types import SimpleNamespace

import pytest

from kv_cache_rl.sim.eviction import Call, Episode
from kv_cache_rl.sim.eviction.calls import KEEP
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Counter, Slot
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS, Prefix, Scenario, Session, Turn

VERBS = ("evict", "compress", "swap_to_cpu")


def turn(arrive, context_pages=0, new=0, out=50, dead=0, kind="reasoning", leaves="context"):
    """One request; lengths in tokens, the context in pages."""
    context = context_pages * PAGE_TOKENS
    total = context + new + out
    return Turn(arrive, context, new, out, total - dead, kind if dead else "", leaves)


def session(name, pages=0, *turns, place="gpu", kind="context", rate=50, priority=500, tolerance="int4",
            prefix=-1, last=0, work="chat"):  # fmt: skip
    """A sequence that holds `pages` of its own; running if its first turn arrived before the start."""
    tokens = pages * PAGE_TOKENS
    if turns and turns[0].arrive < 0:
        tokens, kind = turns[0].context + turns[0].new, "generation"
    return Session(
        name,
        kind,
        work,
        tolerance,
        priority,
        rate,
        prefix,
        place if tokens else "none",
        tokens,
        last,
        1,
        turns,
    )


def scenario(
    *sessions,
    budget=100,
    cpu=100,
    prefixes=(),
    steps=15,
    norm=5_000,
    pages_per_window=1_000,
    prefill_per_window=100_000,
):
    """A server with windows of one second, a link of `pages_per_window` and no fixed or quadratic costs."""
    return Scenario(
        id="eviction-hand-made-v2", version="2", difficulty="easy", split="test", seed=0, source="hand",
        hardware="none", model="none", steps=steps, step_ms=1000, gpu_pages=budget, budget_pages=budget,
        cpu_pages=cpu, link_ns_per_page=1_000_000_000 // pages_per_window, link_fixed_us=0,
        prefill_c1_ns=1_000_000_000 // prefill_per_window, prefill_c2_ps=0, norm=norm,
        prefixes=tuple(Prefix(f"p{k}", f"sys{k}", n * PAGE_TOKENS) for k, n in enumerate(prefixes)),
        sessions=tuple(sessions),
    )  # fmt: skip


def play(made, steps=None, **calls):
    """Plays to the end (or `steps`):

    `t3=[("evict", "a")]` are the calls of window 3, every other window keeps.
    """
    episode = Episode(made)
    episode.said = []
    while not episode.done and (steps is None or episode.t < steps):
        asked = [KEEP if c == "keep" else Call(*c) for c in calls.get(f"t{episode.t}", ["keep"])]
        episode.said.append(episode.step(asked))
        episode.check()
    return episode


def used(episode, tier=0):
    """Pages in use."""
    return episode.state.columns.ledger[tier, 1] / UNITS_PER_PAGE


def counter(episode, name):
    return int(episode.state.columns.counters[Counter[name]])


def column(episode, name, seq_id):
    return int(episode.state.columns.dyn[Slot[name], episode.names.index(seq_id)])


def random_calls(rng: random.Random, episode, most=18):
    """Legal and illegal calls on any id the episode ever knows, and on some it does not."""
    only = rng.choice([None, None, *VERBS])
    made = []
    for _ in range(rng.choice([0, 1, 2, 4, 8, most])):
        verb = only or rng.choice([*VERBS, "keep", "?"])
        name = rng.choice([*episode.names, "nobody"])
        made.append(
            KEEP
            if verb == "keep"
            else Call("?", error="unknown tool 'x'")
            if verb == "?"
            else Call(verb, name)
        )
    return made


TOOLS = SimpleNamespace(
    turn=turn, session=session, scenario=scenario, play=play, used=used, counter=counter, column=column,
    random_calls=random_calls, generate=functools.cache(generate),
)  # fmt: skip


@pytest.fixture(scope="session")
def kit():
    """The builders of this file (tests are imported one by one, so that they cannot import each other)."""
    return TOOLS
