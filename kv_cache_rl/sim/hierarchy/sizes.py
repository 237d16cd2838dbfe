"""Bytes of a page at its present precision, in whole numbers."""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.hierarchy.state import KEPT, LEVEL, SIZE, kept_bytes

_kept_bytes = uncounted(kept_bytes)


@uncounted
def bytes_of(s, p):
    """Bytes of a page at its present precision."""
    size, level = s.page[p, SIZE], s.page[p, LEVEL]
    return size if level == 0 else _kept_bytes(size, s.settings[KEPT + level])
