"""Paged attention on real tensors: block pool, paged cache, exact attention, a real decoder over it, and what
all that costs.

Reading order: `block_pool`, `block_table`, `kv_cache`, `gather`, `attention`, `triton_decode`, `quant`;
`checkpoint`, `model`, `decoding`, `swap`, `residency`, `requests`, `scheduler`; then `measure`, `training`.
Needs the torch extra."""

from kv_cache_rl.extras import need
from kv_cache_rl.lazy import lazy

need("paged attention", "torch", "safetensors")

__all__, __getattr__ = lazy(
    __name__,
    {
        "attention": ("dense_reference", "merge_states", "paged_attention", "paged_prefill"),
        "block_pool": ("BlockPool", "PoolError"),
        "block_table": ("Sequence", "block_table", "slot_mapping"),
        "decoding": ("beam", "greedy", "sample"),
        "kv_cache": ("CacheError", "KVCache"),
        "model": ("Decoder",),
        "quant": (
            "BITS",
            "QuantError",
            "QuantisedBlocks",
            "dequantise",
            "quantise",
            "quantise_blocks",
            "quantise_filled",
        ),
        "scheduler": ("Scheduler",),
        "swap": ("HostPool", "SwapError", "recompute", "swap_in", "swap_out"),
    },
)
