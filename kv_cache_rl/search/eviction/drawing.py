"""Completes what is believed to sessions with their calls, compiled.

    for every entry believed in:
        its class, rate and tolerance; the rest of its answer; its later calls
    for every session that the tier still lets come: its class, rate, tolerance, prefix and calls

What the view says in pages or per cent is completed to tokens."""

import numpy as np

from kv_cache_rl.core.precision import LADDER
from kv_cache_rl.jit import njit
from kv_cache_rl.search.eviction.belief import UNKNOWN
from kv_cache_rl.search.eviction.process import (
    FIRST,
    FIRST_SUB,
    OUT,
    RATE,
    REASONING,
    TRIES,
    calls_from,
    draw,
    draw_class,
    draw_tokens,
    draw_tolerance,
    gap_after,
    next_call,
)
from kv_cache_rl.sim.eviction.build import ROOM
from kv_cache_rl.sim.eviction.columns import Dead, Kind, Place, Role, Static
from kv_cache_rl.sim.eviction.generate import MAIN_PREFIXES
from kv_cache_rl.sim.eviction.observe import Status
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS

MOST_CALLS, MOST_NEW = 24, 16
"""Calls of a session, and sessions that begin, in one future."""

_LADDER = len(LADDER)


@njit
def _returns(rng, one, window, sub, ended):
    """When an idle session calls again, given that it has not yet; infinite if it does not."""
    now_s = window.t * window.step_s
    if one.cut and one.seen == 0 and window.t == 0:
        return 0.0
    # The nominal end lies somewhere in the window of the last access, or before, if it was late.
    end_s = (one.seen - one.delay + rng.random()) * window.step_s
    for _ in range(TRIES):
        gap = gap_after(rng, sub, ended and not sub)
        if end_s + gap >= now_s:
            return end_s + gap
    return np.inf


@njit
def _answer(rng, one, out, step):
    """Tokens of the answer in progress, and how many of them are done; `step` is decoded in a window."""
    if one.grew > 0:
        # Two readings in whole per cent: each is off by up to one.
        per_window = max(one.gained + 2 * rng.random() - 1, 0.5) / one.grew
        out = max(round(100 * step / per_window), 16)
    elif one.progress > 0 and one.status >= Status.DECODE:
        # Long answers are more likely to be met: of eight drawn one is taken by its length.
        total = 0
        for _ in range(8):
            other = draw_tokens(rng, OUT, 16, 2_000)
            total += other
            if rng.random() * total < other:
                out = other
    return out, min(int((one.progress + rng.random()) * out / 100), out - 1)


@njit
def _calls_of_entry(rng, one, window, until_s, tokens, sub, thinks, rate_s, calls):
    """Writes an entry's calls; own tokens of the first one's context, how many calls, whether it is over
    then, and tokens of the answer in progress."""
    context = max(one.pages * PAGE_TOKENS, 500)
    if one.kind == Kind.REASONING or one.kind == Kind.EPHEMERAL:
        return context, 0, False, 0
    if not one.active:
        ended = one.kind == Kind.CONTEXT
        n, over = calls_from(
            rng, _returns(rng, one, window, sub, ended), until_s, sub, thinks, ended, rate_s, calls, 0
        )
        return context, n, over, 0
    now_s, done = window.t * window.step_s, 0
    new, out, thought, ends, _ = next_call(rng, sub, thinks, False)
    if one.status >= Status.DECODE or one.progress > 0:
        out, done = _answer(rng, one, out, rate_s * window.step_s)
        thinks_now = one.status == Status.REASONING or (thinks and one.status != Status.DECODE)
        thought = round(out * (0.3 + 0.4 * rng.random())) if thinks_now else 0
    prompt = context + new
    if one.status >= Status.DECODE:
        prompt = max(tokens - done, 1)
    elif one.status == Status.PREFILL:
        prompt = tokens
    elif one.need > 0:
        there = tokens if one.place == Place.GPU else 0
        asked = round(one.need * PAGE_TOKENS * (1 << one.level)) + there - done
        prompt = max(asked, tokens, 1)
    calls[0].at_s, calls[0].new, calls[0].out = now_s - window.step_s, 0, out
    calls[0].thought, calls[0].ends, calls[0].kept = thought, 1 if ends else 0, -1
    over_s = now_s + (out - done) / rate_s - one.delay * window.step_s
    if one.cut:
        over_s -= rng.random() * out / rate_s
    gap = gap_after(rng, sub, ends)
    if gap == np.inf:
        return prompt, 1, sub, done
    n, over = calls_from(rng, over_s + gap, until_s, sub, thinks, ends, rate_s, calls, 1)
    return prompt, n, over, done


@njit
def _turns_of(calls, n, own, running, over, cap, step_s, turns, m):
    """`build.turns_of`, appended to `turns` from row `m` on; returns how many rows there are then."""
    context = own
    for k in range(n):
        call, turn = calls[k], turns[m]
        if call.kept >= 0 and k > 0:
            context = min(context, call.kept)
        wanted = call.new if call.new >= 0 else max(own, 500)
        new = min(wanted, max(cap - context - call.out, 0))
        total = context + new + call.out
        turn.arrive = int(np.floor(call.at_s / step_s))
        if turn.arrive < 0 and not running:
            turn.arrive = 0
        turn.context, turn.new, turn.out, turn.after = context, new, call.out, total - call.thought
        turn.dead_kind = Dead.REASONING if call.thought > 0 else Dead.NOTHING
        turn.leaves, turn.dead_slot = Kind.CONTEXT if call.ends else Kind.TOOL_RESULT, -1
        if k == n - 1 and over:
            turn.dead_kind, turn.after, turn.leaves = Dead.NOTHING, total, Kind.EPHEMERAL
        context = turn.after
        m += 1
    return m


@njit
def newcomers(rng, b, until_s, static, calls, turns, m):
    """Appends the sessions that begin in the windows to come; returns how many, and rows of `turns`."""
    window, made = b.window[0], 0
    bursts = np.empty(window.bursts)
    for k in range(window.bursts):
        bursts[k] = 4 + (until_s - 12) * rng.random()
    for _ in range(rng.poisson(window.arrivals)):
        burst = window.bursts > 0 and rng.random() < 0.6
        at_s = bursts[int(rng.random() * window.bursts)] if burst else until_s * rng.random()
        if at_s < window.t * window.step_s or made == MOST_NEW:
            continue
        sub = rng.random() < window.sub_agents
        prefix = MAIN_PREFIXES if sub else (1 if rng.random() < 0.35 else 0)
        own = draw_tokens(rng, FIRST_SUB if sub else FIRST, 9_000, window.cap)
        own = min(max(own - b.prefix_pages[prefix] * PAGE_TOKENS, 500), window.cap - ROOM)
        work, rate_s = draw_class(rng), draw(rng, RATE)
        thinks = work == REASONING and not sub
        n, over = calls_from(rng, at_s, until_s, sub, thinks, not sub, rate_s, calls, 0)
        first = m
        m = _turns_of(calls, n, own, False, over, window.cap, window.step_s, turns, m)
        i = len(b.entries) + made
        static[i, Static.ROLE], static[i, Static.CLASS] = Role.SESSION, work
        static[i, Static.TOLERANCE] = draw_tolerance(rng, work, 0, _LADDER)
        static[i, Static.PRIORITY] = min(max(round(500 + 220 * rng.standard_normal()), 0), 1000)
        static[i, Static.RATE] = max(round(rate_s * window.step_s), 8)
        static[i, Static.PREFIX], static[i, Static.NUM_TURNS] = prefix, n
        static[i, Static.FIRST_TURN] = first
        made += 1
    return made, m


@njit
def _rate_s(rng, one, step_s):
    """Tokens decoded in a second, as the pages allow by which its answers grew."""
    rate_s = draw(rng, RATE)
    for _ in range(TRIES):
        # Pages are read whole: two readings differ by one too many or too few, at most.
        off = abs(rate_s * one.ran * step_s / PAGE_TOKENS - one.spread)
        if one.ran == 0 or rng.random() > off:
            return rate_s
        rate_s = draw(rng, RATE)
    return rate_s


@njit
def _like_others(rng, entries):
    """Gives those that no view has shown kind and last access of one that they resemble."""
    alike = 0
    for k in range(len(entries)):
        one = entries[k]
        seen = one.cached and not one.active and one.place == Place.CPU and one.seen <= 0
        alike += 1 if seen and not one.alike else 0
    for k in range(len(entries)):
        if not entries[k].alike or alike == 0:
            continue
        skip = int(rng.random() * alike)
        for other in range(len(entries)):
            one = entries[other]
            seen = one.cached and not one.active and one.place == Place.CPU and one.seen <= 0
            if seen and not one.alike:
                if skip == 0:
                    entries[k].kind, entries[k].seen = one.kind, one.seen
                    break
                skip -= 1


@njit
def believed(rng, b, entries, until_s, static, tokens, done, calls, turns):
    """Completes every entry to a session with its turns; returns how many rows of `turns` they take."""
    window, m = b.window[0], 0
    _like_others(rng, entries)
    for i in range(len(entries)):
        one = entries[i]
        prefix, work = one.prefix, one.work_class
        sub = prefix == MAIN_PREFIXES
        if work == UNKNOWN:
            work = draw_class(rng)
            if prefix == UNKNOWN and len(b.prefix_pages) > MAIN_PREFIXES:
                sub = rng.random() < window.sub_agents
                prefix = MAIN_PREFIXES if sub else (1 if rng.random() < 0.35 else 0)
        thinks, rate_s = work == REASONING and not sub, _rate_s(rng, one, window.step_s)
        tokens[i] = max(one.pages * PAGE_TOKENS - PAGE_TOKENS // 2, 0) if one.cached else 0
        own, n, over, done[i] = _calls_of_entry(
            rng, one, window, until_s, tokens[i], sub, thinks, rate_s, calls
        )
        static[i, Static.ROLE], static[i, Static.CLASS] = Role.SESSION, work
        static[i, Static.TOLERANCE] = draw_tolerance(rng, work, one.bears, one.breaks)
        static[i, Static.PRIORITY] = one.priority * 10
        static[i, Static.RATE] = max(round(rate_s * window.step_s), 8)
        static[i, Static.PREFIX], static[i, Static.NUM_TURNS] = prefix, n
        static[i, Static.FIRST_TURN] = m
        m = _turns_of(calls, n, own, True, over, max(window.cap, own + ROOM), window.step_s, turns, m)
    return m
