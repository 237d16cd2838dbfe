"""Replays every policy over small traces; `python -m tests.golden.hierarchy` writes what came of them into
replays.json, and nothing else does.
"""

import hashlib
import json
import sys
from pathlib import Path

from kv_cache_rl.sim.hierarchy import POLICIES, one_tier, physical, run, workload, zipf

FILE = Path(__file__).parent / "replays.json"
sys.path.insert(0, str(Path(__file__).parents[2] / "sim" / "hierarchy"))

from stepping import rng_of, tree_trace  # noqa: E402

TRACES = {
    "pages": lambda seed: workload("mixed_locality", pages=96, length=1_500, seed=seed),
    "zipf": lambda seed: zipf(400, 20_000, skew=0.8, seed=seed, page_bytes=4_096),
    "tree": lambda seed: tree_trace(rng_of(seed), requests=300, largest=512),
}
TIERS = {"one": (0.3,), "three": (0.1, 0.15, 0.3)}
"""Capacities in parts of the bytes of all pages."""
RULES = {
    "plain": {},
    "overlapped": {"overlap": True, "prefetch": True, "compute_s": 2e-5},
    "squeezed": {"squeeze": "int4", "recompute": True, "reserve": "stability"},
    "stepwise": {"promotion": "step", "reserve": "10%"},
}
CASES = (
    ("pages", "one", "plain"), ("zipf", "one", "plain"), ("tree", "one", "plain"),
    ("pages", "three", "overlapped"), ("pages", "three", "squeezed"), ("pages", "three", "stepwise"),
    ("tree", "three", "overlapped"), ("tree", "three", "squeezed"),
)  # fmt: skip


def replay(trace: str, tiers: str, rules: str, policy: str, seed: int = 11) -> dict:
    """Trace, tiers, rules, policy and seed, and what came of them."""
    replayed = TRACES[trace](seed)
    total = int(replayed.page_bytes.sum())
    gpu, *below = (int(part * total) for part in TIERS[tiers])
    scenario = physical(gpu, 0, *below, **RULES[rules]) if below else one_tier(gpu, **RULES[rules])
    done = run(replayed, scenario, policy, seed=seed)
    columns = (done.state.latency, done.state.hits, done.state.served)
    return {
        "trace": trace,
        "tiers": tiers,
        "rules": rules,
        "policy": policy,
        "seed": seed,
        "columns_sha256": hashlib.sha256(b"".join(column.tobytes() for column in columns)).hexdigest(),
        "metrics": done.metrics,
    }


if __name__ == "__main__":
    replays = [replay(*case, policy) for case in CASES for policy in POLICIES]
    FILE.write_text("[\n" + ",\n".join(json.dumps(one) for one in replays) + "\n]\n")
    print(f"{FILE}: {len(replays)} replays")
