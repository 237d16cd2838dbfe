"""What policies remember of accesses: counts, the last few accesses, regret, return hazards."""

from kv_cache_rl.jit import embedded, uncounted
from kv_cache_rl.sim.hierarchy import order
from kv_cache_rl.sim.hierarchy.observe import age_bin, use_class
from kv_cache_rl.sim.hierarchy.state import AGES, CLASSES, NONE

_RELEARN = 16_384
"""Accesses after which return hazards are estimated anew."""


@embedded
def record_access(s, p):
    """Records an access to a page, before anything moves."""
    remember(s, p)
    order.accessed(s, p)


@embedded
def remember(s, p):
    """Records of an access what ranks look at."""
    s.counters.clock += 1
    now, page = s.counters.clock, s.page[p]
    if s.settings.returns == 1 and page.frequency > 0:
        s.returned[use_class(s, p), age_bin(s.settings.age_shift, now - page.last_access)] += 1.0
    if s.settings.regrets == 1:
        _regret(s, p, now)
    _count_use(s, p)
    if s.settings.window > 0:
        _slide(s, p)
    if s.settings.returns == 1:
        s.accessed[use_class(s, p)] += 1.0
        if now % _RELEARN == 0:
            _relearn(s)


@uncounted
def _regret(s, p, now):
    """Adds to the regret of a page what its last eviction deserves, the more the sooner it came back."""
    page, horizon = s.page[p], s.settings.horizon
    if s.regret[p] > 0.0:
        s.regret[p] *= s.settings.regret_decay
    gap = now - page.left_at
    if page.left_at != NONE and gap <= horizon:
        s.regret[p] += (horizon - gap + 1.0) / horizon
    page.left_at = NONE


@uncounted
def _count_use(s, p):
    """Counts an access that happens now."""
    page = s.page[p]
    page.frequency += 1
    page.uses = 1 if page.tier == NONE else page.uses + 1
    page.last_access = s.counters.clock


@uncounted
def _slide(s, p):
    """Moves the window over the last accesses on by one."""
    at = s.counters.ring_at
    gone = s.ring[at]
    s.ring[at] = p
    s.counters.ring_at = (at + 1) % s.settings.window
    s.page[p].recent_uses += 1
    if gone != NONE:
        s.page[gone].recent_uses -= 1
        if gone != p and s.page[gone].tier != NONE:
            order.changed(s, s.page[gone].tier, gone)


@uncounted
def _relearn(s):
    """Estimates returns per unit of time yet to be idle, by class and age, from all returns so far.

    Half of what it was learnt from is then forgotten. Returns count whether or not the page was still here;
    otherwise pages evicted young would seem never to return.
    """
    for k in range(CLASSES):
        returns, idle = 0.0, 0.0
        away = s.accessed[k]
        for age in range(AGES):
            away -= s.returned[k, age]
        for age in range(AGES - 1, -1, -1):
            returns += s.returned[k, age]
            away += s.returned[k, age]
            idle += max(away, 0.0)
            s.hazard[k, age] = returns / idle if idle > 0.0 else 1.0 / (1.0 + age)
            s.returned[k, age] *= 0.5
        s.accessed[k] *= 0.5
    order.all_changed(s)
