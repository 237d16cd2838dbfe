"""Tables of the lab beside a real engine, from ``engine compare --json``."""

from kv_cache_rl.reports import engine_policies
from kv_cache_rl.reports.documents.markdown import table
from kv_cache_rl.reports.engine import COLUMNS, STEPS, cells, step_cells

NAMES = {
    "cc_sessions_rle.jsonl.gz": "Claude Code",
    "conversation_trace.jsonl.gz": "Mooncake",
    "shared_prefixes": "`shared_prefixes`",
    "rag_burst": "`rag_burst`",
}
"""Trace as it is recorded → as a reader knows it."""


def comparison(found: dict) -> str:
    """Every recording, in the order of the traces, then of requests at once and pools."""
    heads = ["trace", *list(COLUMNS)[1:]]
    rows = _in_order(found["rows"])
    return table(heads, ([NAMES[row["config"]["trace"]], *cells(row)[1:]] for row in rows))


def _in_order(rows: list[dict]) -> list[dict]:
    names = list(NAMES)
    return sorted(
        rows,
        key=lambda row: (
            names.index(row["config"]["trace"]),
            row["config"]["max_num_seqs"],
            row["config"]["blocks"],
        ),
    )


def steps(found: dict) -> str:
    """Every recording beside the serving world, and beside the hierarchy lab in the engine's order."""
    starts = {row["recording"]: f"{row['equal']:,} of {row['starts']:,}" for row in found["rows"]}
    heads = ["trace", *list(STEPS)[1:], "hierarchy lab: starts equal"]
    lines = (
        [NAMES[row["config"]["trace"]], *step_cells(row)[1:], starts.get(row["recording"], "-")]
        for row in _in_order(found["steps"])
    )
    return table(heads, lines)


def steps_line(found: dict) -> str:
    """How many steps are equal, in one sentence."""
    rows = found["steps"]
    equal, of = (sum(row[name] for row in rows) for name in ("equal", "steps"))
    preempted = sum(row["preempted"] for row in rows)
    return (
        f"The serving world under vLLM's rules: {equal:,} of {of:,} steps equal in {len(rows)} recordings, "
        f"{preempted:,} preemptions among them."
    )


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


def policies(found: dict) -> str:
    """The policies of one trace, the one that finds most in the engine first."""
    rows = sorted(found["rows"], key=lambda row: -row["engine_rate"])
    return table(
        list(engine_policies.COLUMNS),
        ([f"`{row['policy']}`", *engine_policies.cells(row)[1:]] for row in rows),
    )


def verdict(found: dict) -> str:
    """Which policy beats LRU in the engine."""
    return found["verdict"]


def cost(found: dict) -> str:
    """What each policy costs a block."""
    heads = ["policy", "µs a block", "vLLM's own", "ratio", "of a step", "ms more for 128"]
    return table(
        heads,
        (
            [
                f"`{row['policy']}`",
                f"{row['block_us']:.1f}",
                f"{row['own_block_us']:.1f}",
                f"{row['ratio']:.1f}",
                f"{100 * row['of_a_step']:.2f} %",
                f"{128 * (row['block_us'] - row['own_block_us']) / 1000:.2f}",
            ]
            for row in found["rows"]
        ),
    )


def real_cost(found: dict) -> str:
    """What a policy costs more than vLLM's own queue, in steps of models of real sizes."""
    names = [row["policy"] for row in found["rows"]]
    more_us = {row["policy"]: row["block_us"] - row["own_block_us"] for row in found["rows"]}
    most = max(names, key=lambda name: more_us[name])
    chosen = dict.fromkeys(("lru", most))
    heads = ["model", "a step that", "takes", *(f"`{name}`: more, of it" for name in chosen)]
    rows = []
    for step in found["real_steps"]:
        for what, key, blocks in (
            ("reads 2,048 tokens, 128 blocks", "prefill_us", 128),
            ("decodes a token, a block every 16 steps", "decode_us", 1 / 16),
        ):
            shares = [f"{100 * blocks * more_us[name] / step[key]:.4f} %" for name in chosen]
            rows.append([step["model"], what, f"{step[key] / 1000:,.0f} ms", *shares])
    return table(heads, rows)


TABLES = {
    "engine-policies-claude": (policies, "engine/policies_claude_code.json"),
    "engine-policies-claude-verdict": (verdict, "engine/policies_claude_code.json"),
    "engine-policies-mooncake": (policies, "engine/policies_mooncake.json"),
    "engine-policies-mooncake-verdict": (verdict, "engine/policies_mooncake.json"),
    "engine-policies-cost": (cost, "engine/policies_cost.json"),
    "engine-policies-real-cost": (real_cost, "engine/policies_cost.json"),
    "engine-comparison": (comparison, "engine/comparison.json"),
    "engine-steps": (steps, "engine/steps.json"),
    "engine-steps-line": (steps_line, "engine/steps.json"),
    "engine-line": (one_line, "engine/comparison.json"),
    "engine-in-order": (in_order, "engine/comparison.json"),
    "engine-causes": (causes, "engine/comparison.json"),
}
