"""Tables of the lab beside a real engine, from ``engine compare --json``."""

from kv_cache_rl.reports.documents.markdown import table
from kv_cache_rl.reports.engine import COLUMNS, cells

NAMES = {
    "cc_sessions_rle.jsonl.gz": "Claude Code",
    "conversation_trace.jsonl.gz": "Mooncake",
    "shared_prefixes": "`shared_prefixes`",
    "rag_burst": "`rag_burst`",
}
"""Trace as it is recorded → as a reader knows it."""


def comparison(found: dict) -> str:
    """Every recording, in the order of the traces, then of requests at once and pools."""
    names = list(NAMES)
    rows = sorted(
        found["rows"],
        key=lambda row: (
            names.index(row["config"]["trace"]),
            row["config"]["max_num_seqs"],
            row["config"]["blocks"],
        ),
    )
    heads = ["trace", *list(COLUMNS)[1:]]
    return table(heads, ([NAMES[row["config"]["trace"]], *cells(row)[1:]] for row in rows))


def one_line(found: dict) -> str:
    """How many requests are equal, one at a time and beside each other, in one sentence."""
    rows = found["rows"]
    alone = [row for row in rows if row["config"]["max_num_seqs"] == 1]
    beside = [row for row in rows if row["order"] == "as scheduled"]
    counts = [
        (sum(row["equal"] for row in part), sum(row["starts"] for row in part)) for part in (alone, beside)
    ]
    (equal, of), (also, more) = counts
    engine = rows[0]["config"]["engine"].replace("vllm", "vLLM").removesuffix(".0")
    return (
        f"The lab against {engine}: {equal:,} of {of:,} requests equal, and {also:,} of {more:,} where "
        "several run at once and the lab follows the engine's order of taking and freeing blocks."
    )


def in_order(found: dict) -> str:
    """How far hit rates are apart where requests run at once and the lab takes them one by one, in words."""
    points = sorted(
        abs(row["points"])
        for row in found["rows"]
        if row["config"]["max_num_seqs"] > 1 and row["order"] == "in order"
    )
    return f"{points[0]:.2f} to {points[-1]:.2f} points"


def causes(found: dict) -> str:
    """Why requests differ, over all recordings."""
    counts: dict[str, int] = {}
    for row in found["rows"]:
        for cause, count in row["causes"].items():
            counts[cause] = counts.get(cause, 0) + count
    return table(["cause", "requests"], ([cause, f"{count:,}"] for cause, count in counts.items()))


TABLES = {
    "engine-comparison": (comparison, "engine/comparison.json"),
    "engine-line": (one_line, "engine/comparison.json"),
    "engine-in-order": (in_order, "engine/comparison.json"),
    "engine-causes": (causes, "engine/comparison.json"),
}
