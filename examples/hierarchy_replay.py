"""Replays policies over memory tiers, and asks whether prefetching pays: never, or once it overlaps compute?

    python examples/hierarchy_replay.py [TRACE]

TRACE is a trace file of any format (Claude Code, Mooncake, Qwen-Bailian, the lab's own); without one a
synthetic workload is used. The first run compiles the engine, which takes about a minute.
"""

import sys
from dataclasses import replace

from kv_cache_rl.sim.hierarchy import bound_name, laboratory, lru_curve, min_hits, one_tier, run, workload
from kv_cache_rl.sim.hierarchy.traces.load import load_trace

POLICIES = ("lru", "lfu", "gdsf", "arc", "s3fifo", "sieve")


def one_tier_table(trace) -> None:
    """Hit rates in a single tier, all blocks alike, next to the exact LRU curve and the bound."""
    alike = replace(trace, page_bytes=0)
    curve = lru_curve(alike)
    print(
        f"{trace.name}: {trace.requests:,} requests, {trace.accesses:,} block accesses, "
        f"{trace.blocks:,} blocks"
    )
    print(f"bound: {bound_name(alike)}")
    print(f"{'blocks':>10}" + "".join(f"{policy:>10}" for policy in POLICIES) + f"{'bound':>10}")
    for capacity in sorted({max(trace.blocks // divisor, 1) for divisor in (16, 8, 4, 2)}):
        rates = {policy: run(alike, one_tier(capacity), policy).metrics["hit_rate"] for policy in POLICIES}
        if rates["lru"] != curve.at(capacity):
            raise AssertionError("the engine and the stack distances disagree")
        bound = min_hits(alike, capacity) / alike.accesses
        print(f"{capacity:10,}" + "".join(f"{rates[policy]:10.3f}" for policy in POLICIES) + f"{bound:10.3f}")


def prefetch_table() -> None:
    """Latency of the prefetching policy, waited for or overlapped with compute."""
    print("\npredictive, ms per access      without prefetch   with prefetch")
    for name in ("prefetch_friendly", "adversarial_prefetch"):
        trace = workload(name)
        for overlap in (False, True):
            rules = {"overlap": overlap, "compute_s": 0.002 if overlap else 0.0}
            ms = [
                run(trace, laboratory(1, 4, prefetch=prefetch, **rules), "predictive").metrics[
                    "avg_latency_ms"
                ]
                for prefetch in (False, True)
            ]
            kind = "overlapped" if overlap else "waited for"
            print(f"{name:>20} {kind:>10} {ms[0]:15.3f} {ms[1]:15.3f}")


if __name__ == "__main__":
    one_tier_table(load_trace(sys.argv[1]) if len(sys.argv) > 1 else workload("rag_burst"))
    prefetch_table()
