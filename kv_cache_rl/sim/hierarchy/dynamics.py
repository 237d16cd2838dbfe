"""What a request does: finds its blocks, loads or computes what is missing, touches them, and evicts others.

lookup --> hits in the fastest tier | below it: load over the links, or compute if faster | nowhere: compute
       --> touch and enter, last block first (the root ends most recent) --> room is made --> seconds

What decoding wrote enters between the partial block that it completed and the full blocks before it. It is no
access, and is not waited for; to a policy it looks as a block does that was computed for a prompt.
"""

import numpy as np

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.policies.resting import check_rank
from kv_cache_rl.sim.hierarchy import order
from kv_cache_rl.sim.hierarchy.build import (
    arrays_of,
    counters_of,
    pages_of,
    pages_that_fit,
    rungs_of,
    settings_of,
    tiers_of,
)
from kv_cache_rl.sim.hierarchy.foresight import learn, predict
from kv_cache_rl.sim.hierarchy.memory import record_access
from kv_cache_rl.sim.hierarchy.moves import enter, leave, make_room, transfer
from kv_cache_rl.sim.hierarchy.policies import POLICIES, REGRET
from kv_cache_rl.sim.hierarchy.queues import QUEUES
from kv_cache_rl.sim.hierarchy.reserve import keep_free
from kv_cache_rl.sim.hierarchy.seconds import (
    catch_up,
    compute_seconds,
    faster_to_compute,
    first_byte_seconds,
    read_seconds,
    stall_seconds,
)
from kv_cache_rl.sim.hierarchy.sizes import bytes_of, page_sizes
from kv_cache_rl.sim.hierarchy.spec import HierarchyError, Scenario, recompute_seconds
from kv_cache_rl.sim.hierarchy.state import (
    DEMAND,
    NODE,
    NONE,
    PAGE,
    PREFETCH,
    SUCCESSORS,
    SUMS,
    TOP,
    State,
    record,
)
from kv_cache_rl.sim.hierarchy.traces.segments import check_room
from kv_cache_rl.sim.hierarchy.traces.trace import Trace

STATE_BYTES = PAGE.itemsize + NODE.itemsize + 32
"""What a replay keeps of a block in one tier, at least."""
ACCESS_BYTES = 8

in_line = uncounted(inline="always")
"""For parts of a request that two kinds of requests share: a call for each would cost a tenth of a replay."""


def new_state(
    trace: Trace,
    scenario: Scenario,
    policy: str,
    seed: int = 0,
    window: int = 32,
    regret: tuple = tuple(REGRET.values()),
) -> State:
    """A replay before its first request.

    Args:
        window: accesses that `windowed_recency` looks back.
        regret: weight, decay and horizon in accesses (0: the pages the fastest tier holds) of `regret_aware`.

    Raises:
        HierarchyError: unknown policy, a page larger than a tier, a setting that does not fit the trace.
        RankError: a rank that drifts, or reads a column, without saying so.
    """
    if policy not in POLICIES:
        raise HierarchyError(unknown("policy", policy, POLICIES))
    if policy not in QUEUES:
        check_rank(policy, RANKS[policy])
    need = STATE_BYTES * trace.blocks + ACCESS_BYTES * trace.accesses
    check_room(trace.name, trace.blocks, need, "replaying them one by one")
    if scenario.promotion == "step" and trace.chained:
        raise HierarchyError(
            "promotion 'step' needs a plain page trace: a prefix is read as a whole; use promotion 'top'"
        )
    sizes = page_sizes(trace, scenario)
    fit = pages_that_fit(scenario, sizes)
    settings = settings_of(trace, scenario, policy, fit, seed, window, regret)
    page, tiers = pages_of(trace, sizes), tiers_of(scenario)
    depths = int(page["depth"].max()) + 1
    return State(
        settings=settings,
        counters=counters_of(),
        sums=record(SUMS),
        page=page,
        tiers=tiers,
        ledger=tiers.view(np.ndarray).view(np.int64).reshape(len(tiers), -1),
        rungs=rungs_of(scenario),
        compute_s=np.array(recompute_seconds(scenario.profile, trace.block_tokens, depths)),
        **arrays_of(trace, len(tiers), policy, settings, fit),
    )


@embedded
def _found(s, p, t):
    """Counts where an access was served."""
    s.served[t if t != NONE else len(s.tiers)] += 1
    if s.page[p].pending:
        s.page[p].pending = False
        s.counters.useful += 1


@embedded
def _fetch(s, p, t, depth):
    """Asks for a page that is not in the fastest tier.

    Returns seconds of compute, and of waiting for the first byte.
    """
    if t == NONE or (s.settings.recompute == 1 and faster_to_compute(s, p, t, depth)):
        if t != NONE:
            s.counters.recomputed += 1
        if s.page[p].tier > 0:
            leave(s, p)
            s.page[p].level = 0
        return compute_seconds(s, p, depth), s.tiers[0].write
    transfer(s, t, TOP, p, DEMAND)
    return 0.0, first_byte_seconds(s, t)


@uncounted
def _prefetch(s, p):
    """Moves the likeliest successors of a page to the top; returns how many."""
    moved = 0
    for k in range(min(s.settings.max_prefetch, SUCCESSORS)):
        q = predict(s, p, k)
        if q == NONE or s.page[q].tier <= 0:
            continue
        transfer(s, s.page[q].tier, TOP, q, PREFETCH)
        leave(s, q)
        _bring(s, TOP, q, PREFETCH)
        s.page[q].pending = True
        s.counters.prefetches += 1
        moved += 1
    return moved


@uncounted
def _bring(s, t, p, cause):
    """Puts a page that lies nowhere into a tier, in which room is made first: it is never its own victim."""
    order.announced(s, t, p)
    make_room(s, t, bytes_of(s, p), cause)
    enter(s, t, p)


@uncounted
def _access(s, p):
    """One access of a plain page trace; returns its seconds."""
    t = s.page[p].tier
    record_access(s, p)
    _found(s, p, t)
    compute, wait, quiet = 0.0, 0.0, t == 0
    if t == 0:
        order.touched(s, TOP, p)
    else:
        catch_up(s)
        compute, wait = _fetch(s, p, t, TOP)
    read = read_seconds(s, p)
    if t != 0:
        target = t - 1 if s.settings.stepwise == 1 and s.page[p].tier != NONE else TOP
        if s.page[p].tier != NONE:
            leave(s, p)
        _bring(s, target, p, DEMAND)
        s.sums.brought += bytes_of(s, p)
    if s.settings.prefetching == 1:
        if s.counters.previous != NONE:
            learn(s, s.counters.previous, p)
        s.counters.previous = p
        if quiet:
            catch_up(s)
        quiet &= _prefetch(s, p) == 0
    return compute + wait + read + (0.0 if quiet else stall_seconds(s))


@uncounted
def lru_seconds(s, p, source, moved):
    """Seconds of an access to a page found in `source` that evicts a page of its size from `moved` tiers."""
    compute, wait = (0.0, 0.0) if source == 0 else _fetch(s, p, source, TOP)
    for t in range(min(moved, len(s.tiers) - 1)):
        transfer(s, t, t + 1, p, DEMAND)
    return compute + wait + read_seconds(s, p) + (0.0 if source == 0 else stall_seconds(s))


@in_line
def _leading(s, blocks):
    """How many of a request's first blocks lie in some tier: behind a miss nothing can be used."""
    found = 0
    while found < len(blocks) and s.page[blocks[found]].tier != NONE:
        found += 1
    return found


@in_line
def _read(s, blocks, r, found, start, stop):
    """Reads the blocks of a request from `start` up to `stop`, the last first, `found` of which are usable.

    Returns seconds of compute, of waiting for the first byte, and of reading.
    """
    compute, wait, read = 0.0, 0.0, 0.0
    for i in range(stop - 1, start - 1, -1):
        p = blocks[i]
        t = s.page[p].tier if i < found else NONE  # behind a miss nothing can be used, wherever it lies
        record_access(s, p)
        _found(s, p, t)
        if t == 0:
            s.hits[r] += 1
            read += read_seconds(s, p)
            order.touched(s, TOP, p)
            continue
        seconds, first_byte = _fetch(s, p, t, i)
        compute += seconds
        wait = max(wait, first_byte)
        read += read_seconds(s, p)
        if s.page[p].tier == 0:
            order.touched(s, TOP, p)
        else:
            _put(s, p)
    return compute, wait, read


@in_line
def _put(s, p):
    """Puts a block into the fastest tier, wherever it lay; room is made when its request is over."""
    if s.page[p].tier != NONE:
        leave(s, p)
    order.announced(s, TOP, p)
    enter(s, TOP, p)
    s.sums.brought += bytes_of(s, p)


@uncounted
def _request(s, blocks, r):
    """One request of a prefix-tree trace; returns its seconds."""
    catch_up(s)
    compute, wait, read = _read(s, blocks, r, _leading(s, blocks), 0, len(blocks))
    make_room(s, TOP, np.int64(0), DEMAND)
    return compute + wait + read + stall_seconds(s)


@uncounted
def _answered(s, blocks, r, written, base, room):
    """One request whose answer wrote blocks behind the first `base` of its own, and which needed `room` bytes
    besides; returns its seconds.
    """
    catch_up(s)
    found = _leading(s, blocks)
    compute, wait, read = _read(s, blocks, r, found, base, len(blocks))
    _write(s, written)
    more = _read(s, blocks, r, found, 0, base)
    make_room(s, TOP, room, DEMAND)
    return compute + more[0] + max(wait, more[1]) + read + more[2] + stall_seconds(s)


@uncounted
def _write(s, written):
    """Puts what decoding wrote into the fastest tier, the last block first."""
    for i in range(len(written) - 1, -1, -1):
        p = written[i]
        record_access(s, p)
        if s.page[p].tier == 0:
            order.touched(s, TOP, p)
            continue
        if s.page[p].tier != NONE:
            leave(s, p)
            s.page[p].level = 0
        _put(s, p)


@in_line
def _end(s, r, seconds):
    """The end of a request that took so many seconds."""
    if s.settings.reserved != 0:
        seconds += keep_free(s, seconds)
    seconds += s.sums.squeezing
    s.sums.squeezing = 0.0
    s.latency[r] = seconds
    s.sums.seconds += seconds + s.settings.compute_s
    s.counters.requests += 1
    for t in range(len(s.tiers)):
        tier = s.tiers[t]
        tier.peak = max(tier.peak, tier.used)


@uncounted
def advance(s, first, blocks, start, stop):
    """Replays the requests from `start` up to `stop`, whose blocks are ``blocks[first[r]:first[r + 1]]``."""
    for r in range(start, stop):
        if s.settings.reserved != 0:
            catch_up(s)
        if s.settings.chained == 1:
            seconds = _request(s, blocks[first[r] : first[r + 1]], r)
        else:
            s.hits[r] = s.page[blocks[r]].tier == 0
            seconds = _access(s, blocks[r])
        _end(s, r, seconds)


@uncounted
def advance_answered(s, first, blocks, begins, written, base, room, start, stop):
    """As `advance`, for requests that wrote ``written[begins[r]:begins[r + 1]]``, as `Writes` has them."""
    for r in range(start, stop):
        if s.settings.reserved != 0:
            catch_up(s)
        path, wrote = blocks[first[r] : first[r + 1]], written[begins[r] : begins[r + 1]]
        seconds = _answered(s, path, r, wrote, base[r], room[r])
        _end(s, r, seconds)
