"""The compatible engine against what kv-hierarchy-lab itself computed, to the bit (golden results)."""

import hashlib
import json
from pathlib import Path

import pytest

from kv_cache_rl.sim.hierarchy.generate import WORKLOADS, footprints, workload
from kv_cache_rl.sim.hierarchy.peer.replay import replay_peer
from kv_cache_rl.sim.hierarchy.peer.reproduce import (
    SWEEP_SHA256,
    cells_of,
    check_claims,
    compare,
    read_golden,
    row_line,
    sweep_cells,
)
from kv_cache_rl.sim.hierarchy.peer.spec import BASE_TIERS, DECODE_PENALTY_MS, PEER_SCENARIOS, PeerTier
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

GOLDEN = Path(__file__).parents[3] / "../shared/golden/hierarchy"
CASES = sorted(path.stem for path in GOLDEN.glob("case_*.json")) or ["case_tiny"]


def events_sha256(report, tiers):
    names = [tier.name for tier in tiers]
    place = lambda t: "-" if t is None else names[t]  # noqa: E731
    lines = [
        f"{e.step},{e.kind},{e.page},{place(e.source)},{place(e.destination)},{e.bytes}"
        for e in report.events
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def replay_case(case, result):
    tiers = [PeerTier(*tier) for tier in case["tiers"]]
    report = replay_peer(
        case["trace"],
        case["sizes"],
        tiers,
        result["policy"],
        schemes=case["schemes"],
        prefetch=case["prefetch_enabled"],
        max_prefetch_candidates=case["max_prefetch_candidates"],
        steps=case["steps"],
        parameters=result["params"],
    )
    return report, tiers


@pytest.mark.parametrize("name", CASES)
def test_every_access_event_and_metric_of_a_golden_case_is_the_same(golden, name):
    case = golden(name)
    for result in case["results"]:
        if "error" in result:
            with pytest.raises(HierarchyError, match=r"page 1 has 4,000 bytes, tier t0 holds 3,000"):
                replay_case(case, result)
            continue
        report, tiers = replay_case(case, result)
        assert report.served_by == result["served_by"]
        assert len(report.events) == result["events"]
        assert events_sha256(report, tiers) == result["events_sha256"]
        assert [list(level) for level in report.residency] == result["final_residency"]
        assert json.dumps(report.metrics) == json.dumps(
            result["metrics"]
        )  # as text: the order of keys counts
        pages = [page for level in report.residency for page in level]
        assert len(pages) - len(set(pages)) == result["pages_resident_in_two_tiers_at_end"]


def test_every_workload_has_the_golden_accesses_and_sizes(golden):
    lists = golden("workloads_default")
    assert lists.keys() == WORKLOADS.keys()
    for name, expected in lists.items():
        trace = workload(name)
        assert trace.run_start.tolist() == expected["trace"]
        for scheme in DECODE_PENALTY_MS:
            assert footprints(trace.page_bytes, scheme).tolist() == expected[f"sizes_{scheme}"]


def test_the_tables_are_those_of_the_golden_sweep(golden):
    rows = golden("default_sweep_metrics")
    assert [list(tier) for tier in BASE_TIERS] == rows["tiers_base"]
    divided = {1: "capacity", 2: "capacity//2", 4: "capacity//4"}
    assert {n: [divided[s.divisor], s.scheme, s.prefetch] for n, s in PEER_SCENARIOS.items()} == rows[
        "scenarios"
    ]
    assert sweep_cells() == [tuple(row[:3]) for row in rows["rows"]]


def test_all_210_rows_are_equal_to_the_bit(golden, sweep):
    comparison = compare(sweep, read_golden(golden("default_sweep_metrics")))
    assert (comparison.rows, comparison.rows_equal, comparison.differences) == (210, 210, ())


def test_the_digest_in_the_code_is_that_of_the_golden_rows(golden):
    cells = read_golden(golden("default_sweep_metrics"))
    lines = "\n".join(row_line(cell, metrics) for cell, metrics in cells.items())
    assert hashlib.sha256(lines.encode()).hexdigest() == SWEEP_SHA256
    assert [row_line(cell, metrics) for cell, metrics in cells.items()] == [
        json.dumps(row) for row in golden("default_sweep_metrics")["rows"]
    ]


def test_golden_and_our_rows_give_the_same_values_for_every_claim(golden, sweep):
    checks = check_claims(cells_of(sweep), read_golden(golden("default_sweep_metrics")))
    assert all(check.golden == check.ours and check.agrees for check in checks)
