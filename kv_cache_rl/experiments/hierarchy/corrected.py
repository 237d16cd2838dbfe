"""kv-hierarchy-lab's headline claims under this lab's own engine, as JSON.

``python -m kv_cache_rl.experiments.hierarchy.corrected > results/hierarchy/corrected.json``
"""

import json

from kv_cache_rl.sim.hierarchy import laboratory, run, workload
from kv_cache_rl.sim.hierarchy.peer.history import PEER_POLICIES
from kv_cache_rl.sim.hierarchy.peer.reproduce import CLAIMS, LATENCY, SCAN, SMALL, percent
from kv_cache_rl.sim.hierarchy.peer.reproduce import SWEEP_WORKLOADS as WORKLOADS
from kv_cache_rl.sim.hierarchy.peer.spec import PEER_SCENARIOS

REGRET = (6.0, 0.98, 24)
"""Weight, decay and horizon of `regret_aware`. Source: kv-hierarchy-lab at commit 222356d."""
COMPUTE_S = 0.002
"""Seconds of compute after each request, for the claim with transfers that overlap it."""


def cells(scenario: str, **rules) -> dict[tuple[str, str, str], dict]:
    """Metrics of every workload and policy in one of its scenarios, under the rules of this engine."""
    peer = PEER_SCENARIOS[scenario]
    tiers = laboratory(1, peer.divisor, footprint=peer.scheme, prefetch=peer.prefetch, **rules)
    return {
        (scenario, name, policy): run(workload(name), tiers, policy, regret=REGRET).metrics
        for name in WORKLOADS
        for policy in PEER_POLICIES
    }


def corrected() -> dict:
    """The value of every claim, by its name, and the prefetching one with transfers that overlap compute."""
    found = {cell: metrics for scenario in PEER_SCENARIOS for cell, metrics in cells(scenario).items()}
    overlapped = cells(SMALL, overlap=True, compute_s=COMPUTE_S)
    latency = [overlapped[SMALL, SCAN, policy][LATENCY] for policy in ("predictive", "cost_aware")]
    return {"claims": [claim.value(found) for claim in CLAIMS], "overlapped_latency_pct": percent(*latency)}


if __name__ == "__main__":
    print(json.dumps(corrected(), indent=1))
