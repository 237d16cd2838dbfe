"""The numbers of the documents: marked regions of Markdown pages, written from the files under results/.

A region stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; `TABLES` says which function makes it
from which files. ``python -m kv_cache_rl.reports.documents`` rewrites all regions, run in a checkout.
"""

from collections.abc import Callable

from kv_cache_rl.reports.documents import (
    api,
    engine,
    eviction,
    hierarchy,
    models,
    offload,
    paged,
    serving,
    speeds,
    stability,
    tokens,
    training,
)

__all__ = ["TABLES"]

TABLES: dict[str, tuple[Callable[..., str], *tuple[str, ...]]] = {
    **eviction.TABLES,
    **tokens.TABLES,
    **training.TABLES,
    **hierarchy.TABLES,
    **serving.TABLES,
    **stability.TABLES,
    **paged.TABLES,
    **engine.TABLES,
    **offload.TABLES,
    **speeds.TABLES,
    **models.TABLES,
    **api.TABLES,
}
"""Region → the function that makes it, and the files whose contents are its arguments, from results/."""
