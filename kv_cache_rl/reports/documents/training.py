"""Tables of the language model that learned the eviction environment, from ``python -m training summary``."""

from kv_cache_rl.reports.documents.markdown import spread, table

HEADS = ("player", "easy", "medium", "hard", "all", "failures", "refused calls", "replies without calls")
_SIGNED = "{:+.2f}"


def scores(found: dict) -> str:
    """Normalised scores by tier of the models and of every decider, best first."""
    by_player: dict[str, dict[str, dict]] = {}
    for row in found["rows"]:
        by_player.setdefault(row["model"], {})[row["tier"]] = row
    ranked = sorted(by_player.items(), key=lambda item: -item[1]["all"]["normalized"]["mean"])
    return table(HEADS, (_row(name, rows, name in found["models"]) for name, rows in ranked))


def _row(name: str, rows: dict[str, dict], is_model: bool) -> list[str]:
    whole = rows["all"]
    called = f"**`{name}`**" if is_model else f"`{name}`"
    by_tier = [spread(rows[tier]["normalized"], _SIGNED) for tier in ("easy", "medium", "hard", "all")]
    refused = f"{whole['invalid_calls'] / max(whole['calls'], 1):.1%}"
    silent = f"{whole['replies_without_calls'] / whole['windows']:.1%}" if is_model else "-"
    return [called, *by_tier, f"{whole['failures']['mean']:.1f}", refused, silent]


def paired(found: dict) -> str:
    """Each model minus the others and the deciders that matter, over all tiers."""
    rows = [
        [
            f"`{one['model']}`",
            f"`{one['against']}`",
            spread(one["normalized"], "{:+.3f}"),
            f"{one['normalized']['n']}",
        ]
        for one in found["differences"]
        if one["tier"] == "all"
    ]
    return table(("model", "minus", "normalised, paired by scenario", "scenarios"), rows)


def rl(found: dict) -> str:
    """What the first model gained on the second by reward, in words."""
    gain = _gaps(found)[found["models"][1]]
    return f"{spread(gain, '{:+.3f}')}, paired by {gain['n']} scenarios"


def _gaps(found: dict) -> dict[str, dict]:
    """The first model minus every other player, over all tiers."""
    return {
        one["against"]: one["normalized"]
        for one in found["differences"]
        if one["tier"] == "all" and one["model"] == found["models"][0]
    }


def stages(found: dict) -> str:
    """What each training was asked, how long it took, and where it began and ended."""
    rows = []
    for stage in found["stages"]:
        plan, first, last = stage["plan"], stage["points"][0], stage["points"][-1]
        what = "loss" if plan["kind"] == "sft" else "score"
        unit = "examples" if plan["kind"] == "sft" else "episodes"
        rows.append(
            [
                f"`{stage['name']}`", plan["kind"].upper(), f"{last[unit]:,} {unit}", f"{plan['batch']}",
                f"{plan['rate']:g}", f"{last['seconds'] / 60:.0f}",
                f"{what} {first[what]:.2f} to {last[what]:.2f}",
            ]
        )  # fmt: skip
    return table(("run", "kind", "seen", "batch", "rate", "minutes", "from, to"), rows)


def tried(found: dict) -> str:
    """What the wordings of the trials came to."""
    rows = []
    for trial in found["wordings"]:
        verbs, played = trial.get("verbs"), trial.get("played")
        rows.append(
            [
                trial["wording"],
                f"{trial['examples']:,}",
                f"{verbs['loss']:.2f}" if verbs else "-",
                f"{verbs['right']:.0%}" if verbs else "-",
                f"{played['normalized']:+.2f}" if played else "-",
                f"{played['refused'] / played['calls']:.0%}" if played else "-",
            ]
        )
    return table(("wording", "examples", "loss of a verdict", "right", "normalised", "refused"), rows)


def line(found: dict) -> str:
    """What the first model came to, and what it gained on those before it and on deciders, in words."""
    model, *before = found["models"]
    (whole,) = (row for row in found["rows"] if row["model"] == model and row["tier"] == "all")
    gaps = {
        name: spread(gap, _SIGNED) + (f" ({gap['n']} scenarios)" if gap["n"] < whole["scenarios"] else "")
        for name, gap in _gaps(found).items()
    }
    gains = ", ".join(f"{gaps[name]} against `{name}`" for name in before)
    refused = whole["invalid_calls"] / whole["calls"]
    return (
        f"On {whole['scenarios']} scenarios `{model}` scores {spread(whole['normalized'], _SIGNED)}: "
        f"{gains}, {gaps['keep']} against doing nothing, {gaps['lru']} against `lru`, {gaps['learned']} "
        f"against its teacher. {refused:.1%} of its calls are refused."
    )


def cost(found: dict) -> str:
    """What all supervised trainings took."""
    stages = [stage for stage in found["stages"] if stage["plan"]["kind"] == "sft"]
    last = [stage["points"][-1] for stage in stages]
    seen, minutes = sum(point["examples"] for point in last), sum(point["seconds"] for point in last) / 60
    rate = last[-1]["examples"] / last[-1]["seconds"]
    return (
        f"the {len(stages)} supervised trainings saw {seen:,} decisions in {minutes:.0f} minutes; the last, "
        f"with several heads a row, {3600 * rate:,.0f} an hour"
    )


def rl_cost(found: dict) -> str:
    """What the course by reward took."""
    (stage,) = (stage for stage in found["stages"] if stage["plan"]["kind"] == "rl")
    last, steps = stage["points"][-1], stage["steps"]
    return (
        f"{steps} steps, {last['episodes']} episodes, {last['seconds'] / 60:.0f} minutes: "
        f"{last['seconds'] / last['episodes']:.0f} seconds an episode"
    )


TABLES = {
    "lm-line": (line, "training/evaluation.json"),
    "lm-cost": (cost, "training/course.json"),
    "lm-scores": (scores, "training/evaluation.json"),
    "lm-paired": (paired, "training/evaluation.json"),
    "lm-rl-cost": (rl_cost, "training/course.json"),
    "lm-rl": (rl, "training/evaluation.json"),
    "lm-tried": (tried, "training/tried.json"),
    "lm-stages": (stages, "training/course.json"),
}
