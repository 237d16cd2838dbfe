"""Tries a rank without editing the package, in plain Python: print and breakpoints work inside the engine.

    python examples/add_a_policy.py [workload]

How to add the policy for good: docs/extending/adding_a_policy.md.
"""

import os
import sys

os.environ["NUMBA_DISABLE_JIT"] = "1"  # before numba is imported: nothing is compiled, nothing is cached

from kv_cache_rl.core.candidates import Column
from kv_cache_rl.policies import rank as ranks

built_in = ranks.rank


def uses_per_byte(c):
    """Least used for the memory it takes."""
    return c[Column.USES] / max(c[Column.SIZE], 1.0)


def rank(policy, c):
    """The package's dispatch, with one entry more."""
    return uses_per_byte(c) if policy == ranks.RANK_IDS["uses_per_byte"] else built_in(policy, c)


# Before the engine is imported, which takes both from here.
ranks.RANKS["uses_per_byte"] = ranks.Rank(uses_per_byte)
ranks.RANK_IDS["uses_per_byte"] = len(ranks.RANK_IDS)
ranks.rank = rank

from kv_cache_rl.sim.hierarchy import min_hits, one_tier, run, workload  # noqa: E402


def main(name: str) -> None:
    trace = workload(name)
    total = int(trace.page_bytes.sum())
    policies = ("uses_per_byte", "lru", "lfu", "gdsf", "largest_first")
    print(f"{name}: hit rate in one tier that holds this share of all pages")
    print(f"{'share':>8}" + "".join(f"{policy:>15}" for policy in policies) + f"{'bound':>15}")
    for share in (0.1, 0.2, 0.3, 0.5):
        capacity = int(share * total)
        rates = [run(trace, one_tier(capacity), policy).metrics["hit_rate"] for policy in policies]
        # Pages differ in size: with all of them as small as the smallest, MIN bounds whatever is possible.
        bound = min_hits(trace, capacity // int(trace.page_bytes.min())) / trace.accesses
        print(f"{share:8.0%}" + "".join(f"{rate:15.3f}" for rate in rates) + f"{bound:15.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "rag_burst")
