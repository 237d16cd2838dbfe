"""Speeds, from what ``bench --json`` of the eviction environment, the lab and the serving world prints."""

from kv_cache_rl.reports.documents.markdown import number, table
from kv_cache_rl.reports.tables import markdown_table


def speeds(found: dict) -> str:
    """Every measured number beside its target and its peer, and the machine in the last line."""
    rows = []
    for one in found["measured"]:
        target = "-" if one["target"] is None else number(one["target"])
        met = {True: "yes", False: "**no**", None: "-"}[one["met"]]
        ratio = f"{one['ratio']:.3g} x {one['peer']}" if one["ratio"] else "-"
        rows.append([one["name"], f"{number(one['value'])} {one['unit']}".strip(), target, met, ratio])
    heads = ["measured", "value", "target", "met", "times better than its peer"]
    facts = ("processor", "cores", "python", "numpy", "numba")
    machine = ", ".join(f"{name} {found['machine'][name]}" for name in facts)
    return f"{table(heads, rows)}\n\nMachine: {machine}."


def misses(found: dict) -> str:
    """Misses of the lab and of libCacheSim by policy, and what differs."""
    rows = []
    for one in found["misses"]:
        policy = f"{one['policy']}{', sizes differ' if one['sizes_differ'] else ''}"
        counts = [f"{one[column]:,}" for column in ("misses", "their_misses")]
        rows.append([policy, one["theirs"], *counts, one["differs"] or "nothing"])
    columns = {"policy": "left", "there": "left", "misses": "right", "misses there": "right"}
    return markdown_table(columns | {"what libCacheSim does otherwise": "left"}, rows).rstrip("\n")


TABLES = {
    "speeds-eviction": (speeds, "bench/eviction.json"),
    "speeds-hierarchy": (speeds, "bench/hierarchy.json"),
    "speeds-order": (speeds, "bench/order.json"),
    "speeds-trees": (speeds, "bench/trees.json"),
    "speeds-scale": (speeds, "bench/scale.json"),
    "speeds-libcachesim": (speeds, "bench/libcachesim.json"),
    "misses-libcachesim": (misses, "bench/libcachesim.json"),
    "speeds-serving": (speeds, "bench/serving.json"),
}
