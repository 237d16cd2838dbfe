"""Tables of the eviction environment, from what ``kv-cache-rl baselines --json`` prints."""

from kv_cache_rl.reports.documents.markdown import spread, table
from kv_cache_rl.reports.eviction.foresight import KINDS

TIERS = ("easy", "medium", "hard")
SHORT = ("floor", "compress_int4", "lru", "gdsf", "weigh_value", "stability", "tuned", "learned", "oracle")
"""Rows of the table in the README."""


def _rows(found: dict, tier: str) -> dict[str, dict]:
    """Decider → its means; the two references go by the first word of their name."""
    return {row["policy"].split(" (")[0]: row for row in found["rows"] if row["tier"] == tier}


def _name(decider: str) -> str:
    names = {"floor": "*floor: best fixed rule*", "oracle": "*oracle: best known log*"}
    return names.get(decider, f"`{decider}`")


def _cell(row: dict) -> str:
    """Reward, normalised score and failures of one decider on one tier."""
    parts = [spread(row["reward"], "{:+.3f}"), f"{row['normalized']['mean']:+.2f}"]
    if row["failures"]:
        parts.append(f"{row['failures']['mean']:.1f}")
    return " · ".join(parts)


def tiers(found: dict) -> str:
    """Every decider on every tier: reward, normalised score, failures."""
    by_tier = {tier: _rows(found, tier) for tier in TIERS}
    heads = ["decider", *(f"{tier}: reward · normalised · failures" for tier in TIERS)]
    return table(heads, ([_name(d), *(_cell(by_tier[t][d]) for t in TIERS)] for d in by_tier["hard"]))


def hard(found: dict) -> str:
    """Eight rows of the hard tier."""
    rows = _rows(found, "hard")
    heads = ["decider", "reward, mean and 95 % interval", "score, floor 0, oracle 1", "failed requests"]
    return table(heads, (_short(name, rows[name]) for name in SHORT))


def _short(name: str, row: dict) -> list[str]:
    failures = f"{row['failures']['mean']:.1f}" if row["failures"] else "-"
    return [_name(name), spread(row["reward"], "{:+.3f}"), f"{row['normalized']['mean']:+.2f}", failures]


def planner(found: dict) -> str:
    """Normalised scores of the trained deciders, the planner and the oracle on every tier."""
    by_tier = {tier: _rows(found, tier) for tier in TIERS}
    rows = (
        [_name(who), *(spread(by_tier[tier][who]["normalized"], "{:+.2f}") for tier in TIERS)]
        for who in ("learned", "tuned", "planner", "oracle")
    )
    return table(["normalised score, mean and 95 % interval", *TIERS], rows)


def foresight(found: dict) -> str:
    """What the planner gains, and what its search gains in the true future and in its own model."""
    heads = ["normalised score gained by", "over", "mean and 95 % interval", "scenarios", "CPU s a window"]
    rows = (
        [
            KINDS[one["kind"]],
            f"`{one['against']}`",
            spread(one["gain"], "{:+.2f}"),
            f"{one['gain']['n']}",
            f"{one['seconds']:.2g}",
        ]
        for one in found["gains"]
    )
    return table(heads, rows)


def planner_line(found: dict) -> str:
    """How much of the gap to the oracle can be had without its foreknowledge, in one sentence."""
    gains = {one["kind"]: one["gain"] for one in found["gains"] if one["against"] == "tuned"}
    view, future = (spread(gains[kind], "{:+.3f}") for kind in ("view", "future"))
    return (
        f"A planner that knows no more than the view scores {view} beside `tuned`, and the same search in "
        f"the true future {future}."
    )


def one_line(found: dict) -> str:
    """The result of the hard tier in one sentence."""
    rows = _rows(found, "hard")
    fails = {name: f"{row['failures']['mean']:.1f}" for name, row in rows.items() if row["failures"]}
    return (
        f"on the hard tier `lru` fails {fails['lru']} requests an episode, `stability` {fails['stability']}, "
        f"the trained `learned` {fails['learned']}, and the best known log {fails['oracle']}."
    )


def real_line(found: dict) -> str:
    """The hard tier of real sessions in one sentence."""
    rows = _rows(found, "hard")
    reward = {
        name: spread(rows[name]["reward"], "{:+.3f}") for name in ("floor", "lookahead", "tuned", "oracle")
    }
    return (
        f"On hard windows of real Claude Code sessions the best fixed rule earns {reward['floor']}, "
        f"`lookahead` {reward['lookahead']}, `tuned` {reward['tuned']}, "
        f"the best known log {reward['oracle']}."
    )


def served(real: dict, generated: dict) -> str:
    """Tokens that the oracle serves on real and on generated scenarios."""
    ours, theirs = (_rows(found, "all")["oracle"]["tokens"]["mean"] for found in (real, generated))
    return f"the oracle serves {ours:,.0f} tokens an episode, against {theirs:,.0f} on the generated ones"


def training(found: dict) -> str:
    """Mean normalised scores of the trained deciders before training and where each was kept."""
    rows = []
    for name, record in found["deciders"].items():
        kept = next(point for point in record["curve"] if point["generation"] == record["kept"])
        for what, point in (("before", record["curve"][0]), ("kept", kept)):
            scores = [f"{_mean(point[part]):+.3f}" for part in ("learn", "select", "held_out")]
            rows.append([f"`{name}`, {what}", f"{point['generation']}", *scores])
    return table(["decider", "generation", "learned from", "train", "held out"], rows)


def committed(found: dict) -> str:
    """What constants that were tuned on the committed set earn beside those that ship."""
    record = found["deciders"]["tuned"]
    gain = spread(record["beside_shipped"]["test"], "{:+.2f}")
    return (
        f"After {record['training']['generations']} generations its constants earn {gain} beside the shipped "
        "ones on `test`."
    )


def _mean(by_tier: dict[str, float]) -> float:
    return sum(by_tier.values()) / len(by_tier)


TABLES = {
    "eviction-training": (training, "eviction/training.json"),
    "eviction-committed": (committed, "eviction/committed.json"),
    "eviction-tiers": (tiers, "eviction/baselines.json"),
    "eviction-hard": (hard, "eviction/baselines.json"),
    "eviction-planner": (planner, "eviction/planner.json"),
    "eviction-foresight": (foresight, "eviction/planner.json"),
    "eviction-planner-line": (planner_line, "eviction/planner.json"),
    "eviction-line": (one_line, "eviction/baselines.json"),
    "eviction-real-line": (real_line, "eviction/claude_code.json"),
    "eviction-claude-code": (tiers, "eviction/claude_code.json"),
    "eviction-mooncake": (tiers, "eviction/mooncake.json"),
    "eviction-served": (served, "eviction/claude_code.json", "eviction/baselines.json"),
}
