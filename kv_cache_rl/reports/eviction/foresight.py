"""What foreknowledge is worth: gains of the planner, in normalised scores, paired by scenario."""

from collections.abc import Mapping, Sequence

from kv_cache_rl.intervals import paired_difference
from kv_cache_rl.reports.eviction.tables import interval_words

KINDS = {
    "view": "planning from the view alone",
    "future": "the same search in the true future",
    "model": "planning in episodes of its own model",
}
"""Kind of a check -> what it is."""


def gains(rows: Sequence[Mapping], beside: Mapping[str, Mapping[str, float]]) -> list[dict]:
    """By how much the planner scores more than each decider on the scenarios as they are, and than its base
    in each check.

    Args:
        rows: what `experiments.eviction.foresight.planned` returns.
        beside: decider -> scenario id -> normalised score.
    """
    found = []
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        ours = {row["scenario"]: row["normalized"] for row in of_kind}
        base = {row["scenario"]: row["base"] for row in of_kind}
        for name, theirs in beside.items() if kind == "view" else [("tuned", base)]:
            difference = paired_difference(ours, dict(theirs))
            if difference is not None:
                found.append(
                    {
                        "kind": kind,
                        "against": name,
                        "gain": difference.to_json(),
                        "seconds": round(sum(row["cpu_s"] for row in of_kind) / len(of_kind), 3),
                    }
                )
    return found


def sentence(gain: Mapping) -> str:
    """One gain in words."""
    return (
        f"{KINDS[gain['kind']]}: {gain['gain']['mean']:+.2f} normalised over {gain['against']} "
        f"({interval_words(gain['gain'])}), {gain['seconds']:.2g} CPU seconds a window"
    )
