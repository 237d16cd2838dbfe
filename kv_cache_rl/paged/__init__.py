"""Paged attention on real tensors: block pool, paged cache, exact attention, a real decoder over it, and what all that costs.

Reading order: `block_pool`, `block_table`, `kv_cache`, `gather`, `attention`, `triton_decode`, `quant`; `checkpoint`, `model`,
`decoding`, `swap`, `residency`, `requests`, `scheduler`, `capture`; `quality` and `calibrate`. Needs the torch extra.
"""

from importlib import import_module

_HOME = {
    "attention": ("dense_reference", "merge_states", "paged_attention", "paged_prefill"),
    "block_pool": ("BlockPool", "PoolError"),
    "block_table": ("Sequence", "block_table", "slot_mapping"),
    "decoding": ("beam", "greedy", "sample"),
    "kv_cache": ("CacheError", "KVCache"),
    "model": ("Decoder",),
    "quant": ("BITS", "QuantError", "QuantisedBlocks", "dequantise", "quantise", "quantise_blocks", "quantise_filled"),
    "scheduler": ("Scheduler",),
    "swap": ("HostPool", "SwapError", "recompute", "swap_in", "swap_out"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE)


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)
