"""Speeds, from what ``bench --json`` of the eviction environment, the lab and the serving world prints."""

from kv_cache_rl.reports.documents.markdown import number, table


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


TABLES = {
    "speeds-eviction": (speeds, "bench/eviction.json"),
    "speeds-hierarchy": (speeds, "bench/hierarchy.json"),
    "speeds-serving": (speeds, "bench/serving.json"),
}
