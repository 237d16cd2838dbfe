"""What a ranking policy sees of a page: its candidate row, filled into ``s.row``."""

import numpy as np

from kv_cache_rl.core.candidates import Column
from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.sizes import bytes_of
from kv_cache_rl.sim.hierarchy.state import AGES, CLASSES, Order


@uncounted
def look(s, t, p):
    """Fills the candidate row of a page at rest, that is at clock zero.

    Where the order changes with time, what compares adds what the last access and the return hazard are worth
    now.
    """
    page, c = s.page[p], s.row
    last = np.float64(page.last_access) if s.settings.order == Order.HEAPED else 0.0
    size, depth = bytes_of(s, p), page.depth if s.settings.chained == 1 else 0
    c[Column.SIZE] = size
    c[Column.TOKENS] = 1.0
    c[Column.IDLE] = -s.tiers[t].inflation if s.settings.inflates == 1 else -last
    c[Column.AGE] = -page.inserted
    c[Column.USES] = page.uses
    c[Column.FREQUENCY] = page.frequency
    c[Column.LAST] = last
    c[Column.NOW] = 1.0
    c[Column.RECENT_USES] = page.recent_uses
    c[Column.REGRET] = s.settings.regret_weight * s.regret[p]
    c[Column.RELOAD_S] = s.compute_s[depth + 1] - s.compute_s[depth]
    c[Column.VALUE] = 1.0 / (1.0 + page.uses)
    c[Column.INSERTED] = page.inserted
    c[Column.RETURNS] = 1.0 / size


@uncounted
def use_class(s, p):
    """Class of a page among those whose return hazard is estimated together: its uses ever, up to CLASSES."""
    return min(s.page[p].frequency, CLASSES) - 1


@uncounted
def age_bin(age_shift, idle):
    """Bin of an idle time in accesses."""
    return min(idle >> age_shift, AGES - 1)
