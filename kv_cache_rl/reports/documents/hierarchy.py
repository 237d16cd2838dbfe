"""Tables of the hierarchy lab, from what ``hierarchy replay --json`` and ``reproduce --json`` print."""

from statistics import fmean

from kv_cache_rl.reports.documents.markdown import table

BOUND = "belady"


def _rates(found: dict) -> dict[tuple[str, int], float]:
    return {(row["policy"], row["capacity"]): row["hit_rate"] for row in found["rows"]}


def real_traces(mooncake: dict, claude_code: dict) -> str:
    """Block hit rates in %, every policy at three capacities of both traces, best mean first."""
    sides = [_rates(mooncake), _rates(claude_code)]
    capacities = [list(dict.fromkeys(at for _, at in side)) for side in sides]
    policies = list(dict.fromkeys(policy for policy, _ in sides[0]))
    rates = {
        policy: [side[policy, at] for side, ats in zip(sides, capacities, strict=True) for at in ats]
        for policy in policies
    }
    order = sorted(policies, key=lambda policy: (policy != BOUND, -fmean(rates[policy])))
    names = {policy: f"`{policy}`" for policy in policies} | {
        BOUND: f"*bound: {mooncake['rows'][0]['bound']}*"
    }
    heads = ["policy", *(f"Mooncake, {at:,} blocks" for at in capacities[0])]
    heads += [f"Claude Code, {at:,}" for at in capacities[1]]
    return table(heads, ([names[p], *(f"{100 * rate:.1f}" for rate in rates[p])] for p in order))


def one_line(mooncake: dict) -> str:
    """The smallest capacity of the Mooncake trace in one sentence."""
    rates = _rates(mooncake)
    least = min(at for _, at in rates)
    return (
        f"On the prompts of Mooncake's conversation trace, with {least:,} blocks, `lru` finds "
        f"{100 * rates['lru', least]:.1f} % of the blocks, `arc` {100 * rates['arc', least]:.1f} %. "
        f"No policy can find more than {100 * rates[BOUND, least]:.1f} %."
    )


def claims(found: dict, corrected: dict) -> str:
    """The headline claims of kv-hierarchy-lab: published, its semantics, this lab's own engine."""
    rows = []
    for claim, value in zip(found["claims"], corrected["claims"], strict=True):
        unit = f" {claim['unit']}" if claim["unit"] else ""
        agrees = "yes" if claim["agrees"] else "**no**"
        numbers = (
            f"{claim['published']:g}{unit}",
            f"{claim['ours']:.6g}{unit}",
            agrees,
            f"{value:.4g}{unit}",
        )
        rows.append([claim["name"], *numbers])
    return table(["claim", "published", "its semantics, here", "agrees", "this lab's own engine"], rows)


def overlapped(corrected: dict) -> str:
    """What prefetching does to latency where transfers overlap compute."""
    return f"{corrected['overlapped_latency_pct']:+.1f} %"


def equal(found: dict) -> str:
    """How many rows are equal to the bit, in words."""
    return (
        f"{found['rows_equal']} of {found['rows']} sweep rows and {found['ablation']['runs']} ablation runs"
    )


TABLES = {
    "hierarchy-real": (real_traces, "hierarchy/mooncake.json", "hierarchy/claude_code.json"),
    "hierarchy-line": (one_line, "hierarchy/mooncake.json"),
    "hierarchy-claims": (claims, "hierarchy/reproduce.json", "hierarchy/corrected.json"),
    "hierarchy-overlapped": (overlapped, "hierarchy/corrected.json"),
    "hierarchy-equal": (equal, "hierarchy/reproduce.json"),
}
