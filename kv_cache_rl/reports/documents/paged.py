"""Tables of paged attention, from ``paged bench`` (bench.json) and ``paged calibrate`` (calibration.json)."""

from kv_cache_rl.reports.documents.markdown import number, table

EXACT = "fp16"
SMALL_ERROR = 0.1
"""Attention error up to which the law holds. Source: paged/measure/quality.py."""


def _range(figure: dict) -> str:
    low, high = figure["low"], figure["high"]
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if high is not None:
        return f"≤ {high:g}"
    return "-" if low is None else f"≥ {low:g}"


def figures(found: dict) -> str:
    """Every measured figure beside its target."""
    met = {True: "yes", False: "**no**", None: "-"}
    rows = []
    for one in found["figures"]:
        value = "-" if one["value"] is None else f"{number(one['value'])} {one['unit']}".strip()
        name = one["name"].replace("|", "\\|")
        rows.append([name, value, _range(one), met[one["met"]], one["remark"] or "-"])
    return table(["measured", "value", "target", "met", "remark"], rows)


def one_line(found: dict) -> str:
    """Two figures in one sentence."""
    value = {one["name"]: one["value"] for one in found["figures"]}
    waste = value["memory: waste, ShareGPT-like lengths, block 16"]
    held = value["fragmentation: requests held at once, paged / longest reserved"]
    return (
        f"Paging wastes {waste:.1f} % of the memory and holds {held:.1f} times as many requests as reserving "
        "the longest length."
    )


def schemes(found: dict) -> str:
    """What fewer bits cost: bytes, error, divergence, seconds."""
    rows = []
    for name, one in sorted(found["schemes"].items(), key=lambda item: item[1]["attention_error"]):
        if name != EXACT:
            seconds = [f"{1e9 * one[key]:.1f}" for key in ("encode_s_per_byte", "decode_s_per_byte")]
            error, kl, nats = one["attention_error"], one["kl"], one["delta_nll"]
            cells = [
                f"{one['multiplier']:.3f}",
                f"{error:.1e}",
                f"{kl:.1e}",
                f"{nats:+.1e}",
                ", ".join(seconds),
            ]
            rows.append([name, *cells])
    heads = ("scheme", "bytes of fp16", "attention error e", "KL, nats", "change of nats per token")
    return table([*heads, "quantise, restore: ns per fp16 byte"], rows)


def law(found: dict) -> str:
    """The law between attention error and divergence, in words."""
    one = found["notes"]["law"]
    return (
        f"KL = c e² with c = {one['factor']:.4f} where e is at most {SMALL_ERROR:g} "
        f"(R² {one['r_squared']:.3f}, {one['points']} schemes; "
        f"a free exponent would be {one['exponent']:.2f})"
    )


TABLES = {
    "paged-figures": (figures, "paged/bench.json"),
    "paged-line": (one_line, "paged/bench.json"),
    "paged-schemes": (schemes, "paged/calibration.json"),
    "paged-law": (law, "paged/calibration.json"),
}
