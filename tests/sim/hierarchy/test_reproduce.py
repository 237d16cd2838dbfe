"""The peer's sweep and ablation again: claims, verdicts on its text, and its void comparisons."""

import copy

import pytest

from kv_cache_rl.sim.hierarchy.peer.ablation import (
    SEEDS,
    VARIANTS,
    ablation_runs,
    aggregate,
    check_statements,
    slower_than_lru,
)
from kv_cache_rl.sim.hierarchy.peer.reproduce import cells_of, check_claims, compare, read_golden
from kv_cache_rl.sim.hierarchy.peer.voids import hidden_prefetch, size_jitter, void_policies, void_prefetch
from kv_cache_rl.sim.hierarchy.spec import HierarchyError


def test_the_sweep_has_the_digest_of_the_peers_rows(sweep):
    comparison = compare(sweep)
    assert (comparison.rows, comparison.rows_equal, comparison.against) == (210, 210, "digest")


def test_one_changed_bit_is_found_and_named(sweep):
    golden, changed = cells_of(sweep), copy.deepcopy(sweep)
    changed[7]["metrics"]["avg_latency_ms"] *= 1 + 2**-52
    comparison = compare(changed, golden)
    assert comparison.rows_equal == 209
    (difference,) = comparison.differences
    assert difference.cell == ("small_fp16_prefetch", "rag_burst", "windowed_recency")
    assert difference.metric == "avg_latency_ms"
    assert compare(changed).rows_equal is None


def test_missing_rows_are_differences(sweep):
    comparison = compare(sweep[1:], cells_of(sweep))
    assert (comparison.rows, comparison.rows_equal) == (209, 209)
    assert comparison.differences[0].metric == "row"


def test_every_headline_claim_is_reproduced_as_published(sweep):
    checks = {check.name: check for check in check_claims(cells_of(sweep))}
    assert len(checks) == 10
    assert all(check.agrees and check.golden is None for check in checks.values())
    assert checks["rag_burst, half capacity: misses of lru"].ours == 212


@pytest.mark.parametrize("content", [{}, {"rows": [[1]], "metric_columns": [], "tiers_base": []}])
def test_what_is_no_golden_file_is_explained(content, tmp_path):
    with pytest.raises(HierarchyError, match="holds no golden rows"):
        read_golden(content)
    with pytest.raises(HierarchyError, match=r"cannot be read.*give the path"):
        read_golden(tmp_path / "absent.json")
    for text in ('{"rows": [', "[" * 100_000, "9" * 5000):
        (tmp_path / "cut.json").write_text(text)
        with pytest.raises(HierarchyError, match=r"cut\.json holds no golden rows"):
            read_golden(tmp_path / "cut.json")


def test_in_12_of_35_cells_all_policies_tie(sweep):
    void = void_policies(cells_of(sweep))
    assert (len(void.void), void.of) == (12, 35)
    assert {name for _, name in void.void} == {
        "chat_continuation",
        "periodic_reuse",
        "long_tail_mix",
        "prefetch_friendly",
    }


def test_38_of_42_rows_ignore_the_prefetch_switch(sweep):
    void = void_prefetch(cells_of(sweep))
    assert (len(void.void), void.of) == (38, 42)


def test_the_gain_of_cost_aware_on_periodic_reuse_is_made_of_size_jitter():
    rows = {row.policy: row for row in size_jitter(("lru", "cost_aware"))}
    assert rows["cost_aware"].latency_ms < rows["lru"].latency_ms
    assert rows["cost_aware"].equal_latency_ms == rows["lru"].equal_latency_ms
    assert (rows["cost_aware"].misses, rows["cost_aware"].equal_misses, rows["lru"].equal_misses) == (
        285,
        320,
        320,
    )


def test_hidden_prefetches_would_turn_the_peers_conclusion_round():
    against = hidden_prefetch().against_cost_aware
    assert round(against["charged"], 1) == 29.2
    assert round(against["hidden"]) == -32
    assert round(against["copies hidden"], 1) == 1.3


def test_the_ablation_is_198_runs_and_66_means(ablation):
    assert len(ablation) == len(ablation_runs()) == 198
    assert {row["seed"] for row in ablation} == set(SEEDS)
    means = aggregate(ablation)
    assert len(means) == 66
    keys = [(row["scenario"], row["workload"], row["policy"]) for row in means]
    assert keys == sorted(keys)


def test_the_best_variant_is_not_the_one_the_text_names(ablation):
    means = aggregate(ablation)
    best = min(
        (row for row in means if row["scenario"] == "constrained" and row["workload"] == "adversarial_burst"),
        key=lambda row: row["avg_latency_ms_mean"],
    )
    assert best["policy"] == "regret_aware_w12.0_h64"
    assert (round(best["avg_latency_ms_mean"], 3), round(best["avg_latency_ms_std"], 3)) == (5.782, 0.066)


def test_where_the_text_leaves_its_numbers_is_found_from_the_runs(ablation):
    verdicts = check_statements(aggregate(ablation))
    assert [(verdict.says, verdict.remark) for verdict in verdicts if not verdict.agrees] == [
        (
            "adversarial_burst, constrained: the best variant",
            "disagrees; regret_aware_w12.0_h64: 5.78238",
        ),
        ("the same: its latency to that of lru, %", "disagrees; regret_aware_w1.0_h64: -3.454"),
        (
            "the same: of w=12, no horizon named",
            "agrees for regret_aware_w12.0_h8 only; "
            "regret_aware_w12.0_h8: 0.6126, regret_aware_w12.0_h24: 0.6016, regret_aware_w12.0_h64: 0.6042",
        ),
        (
            "the same: of w=1, no horizon named",
            "agrees for regret_aware_w1.0_h8 only; "
            "regret_aware_w1.0_h8: 0.5312, regret_aware_w1.0_h24: 0.5404, regret_aware_w1.0_h64: 0.5488",
        ),
    ]


def test_a_verdict_follows_the_numbers_it_is_given(ablation):
    means = aggregate(ablation)
    row = next(
        r
        for r in means
        if (r["scenario"], r["workload"], r["policy"]) == ("constrained", "adversarial_burst", "lru")
    )
    row["avg_latency_ms_mean"] = 7.0
    assert "disagrees; lru: 7.0000" in [verdict.remark for verdict in check_statements(means)]


def test_on_chat_every_variant_is_slower_than_lru(ablation):
    assert len(slower_than_lru(aggregate(ablation))) == 2 * len(VARIANTS) == 18
