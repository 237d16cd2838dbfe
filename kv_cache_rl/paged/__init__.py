"""Paged attention on real tensors: a block pool, a paged cache, exact attention, a real decoder.

Reading order, each module after those that it imports:

    storage    errors, sequences, storage, books, block_pool, kv_cache
    attention  kernels, gather, plan, triton_decode, attention, seed
    few bits   quant, quantised_blocks
    decoder    config_files, checkpoint, tokenizer, rotary, token_ids, drawing, model
    text       ending, decoding
    memories   swap, snapshot, tour
    batching   residency, requests, computing, scheduler
    folders    measure (what all this costs), training (the small model)

Needs the torch extra.
"""

from kv_cache_rl.extras import need
from kv_cache_rl.lazy import lazy

need("paged attention", "torch", "safetensors")

__all__, __getattr__ = lazy(
    __name__,
    {
        "attention": ("dense_reference", "merge_states", "paged_attention", "paged_prefill"),
        "block_pool": ("BlockPool", "PoolError"),
        "sequences": ("Sequence", "block_table", "slot_mapping"),
        "decoding": ("beam", "greedy", "sample"),
        "kv_cache": ("CacheError", "KVCache"),
        "measure.calibrate": ("measure_costs",),
        "model": ("Decoder",),
        "quant": ("BITS", "QuantError", "dequantise", "quantise"),
        "quantised_blocks": ("QuantisedBlocks", "quantise_blocks", "quantise_filled"),
        "scheduler": ("Scheduler",),
        "swap": ("HostPool", "PreemptionCosts", "SwapError", "recompute", "swap_in", "swap_out"),
    },
)
