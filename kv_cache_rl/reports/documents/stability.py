"""Tables of the stability theory, from ``stability validate`` and ``stability compare --json``."""

from kv_cache_rl.reports.documents.markdown import spread, table


def _gap(share: float) -> str:
    return f"{100 * share:+.1f} %"


def validation(found: dict) -> str:
    """Five workloads: the predicted service rate, and the arrival rate at which the queue turns."""
    heads = (
        *(
            "workload",
            "E[g], token-iterations",
            "b̄, ms",
            "μ from the profile alone",
            "μ predicted",
            "simulated",
        ),
        *("gap", "gap, optimistic admission", "gap, final footprint reserved", "gap, median iteration"),
    )
    rows = (
        [
            row["workload"],
            f"{row['mean_footprint']:,.0f}",
            f"{row['batch_ms']:.1f}",
            f"{row['predicted_from_profile']:.3f}",
            f"{row['predicted']:.3f}",
            f"{row['simulated']:.3f}",
            _gap(row["gap"]),
            _gap(row["optimistic"]["gap"]),
            _gap(row["footprint"]["gap"]),
            _gap(row["gap_by_median_batch"]),
        ]
        for row in found["rows"]
    )
    return table(heads, rows)


def one_line(found: dict) -> str:
    """The gaps of all workloads in one sentence."""
    gaps = sorted(abs(100 * row["gap"]) for row in found["rows"])
    return (
        f"On {len(gaps)} workloads the queue of the simulated server begins to grow "
        f"{gaps[0]:.1f} to {gaps[-1]:.1f} % below the predicted rate."
    )


def optimistic(found: dict) -> str:
    """Preemptions per request under optimistic admission, in words."""
    counts = sorted(row["optimistic"]["preemptions_per_request"] for row in found["rows"])
    return f"{counts[0]:.1f} to {counts[-1]:.1f} times per request"


def footprint(found: dict) -> str:
    """Memory that stays empty where final footprints are reserved, in words."""
    empty = sorted(100 * (1 - row["footprint"]["factors"]["memory_filled"]) for row in found["rows"])
    return f"{empty[0]:.0f} to {empty[-1]:.0f} %"


COLUMNS = (
    ("SLA misses", "sla_misses", 100.0, "{:.1f}", " %"),
    ("failures", "failures", 100.0, "{:.1f}", " %"),
    ("tokens lost", "tokens_lost", 1.0, "{:,.0f}", ""),
    ("forced preemptions", "forced_preemptions", 1.0, "{:.1f}", ""),
    ("score", "score", 1.0, "{:.3f}", ""),
)
"""Heading, metric, factor, format, unit."""


def comparison(found: dict) -> str:
    """The controller against fixed marks and lru."""
    heads = ["agent", *(head for head, *_ in COLUMNS), "`stability` minus this: score"]
    rows = []
    for row in found["rows"]:
        cells = [spread(row[name], form, factor) + unit for _, name, factor, form, unit in COLUMNS]
        against = row["score_controller_minus_this"]
        rows.append([f"`{row['agent']}`", *cells, spread(against, "{:+.3f}") if against else "-"])
    return table(heads, rows)


TABLES = {
    "stability-validation": (validation, "stability/validation.json"),
    "stability-line": (one_line, "stability/validation.json"),
    "stability-optimistic": (optimistic, "stability/validation.json"),
    "stability-footprint": (footprint, "stability/validation.json"),
    "stability-comparison": (comparison, "stability/comparison.json"),
}
