"""The results table: one row per tier and decider, with the floor and the best known beside them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kv_cache_rl.intervals import T_INTERVAL, Interval, mean_interval, paired_difference
from kv_cache_rl.reports.eviction.outcome import Outcome, from_report
from kv_cache_rl.reports.tables import markdown_table, plain_table
from kv_cache_rl.sim.eviction import DIFFICULTIES, ORACLE, Scenario, replay

FLOOR_ROW, ORACLE_ROW = "floor (best fixed rule)", f"{ORACLE} (best known)"


@dataclass(frozen=True, slots=True)
class Row:
    """Means over the good rollouts of one decider on one tier; failed ones are counted, never averaged in."""

    tier: str
    policy: str
    scenarios: int
    failed_rollouts: int
    reward: Interval | None
    normalized: Interval | None
    failures: Interval | None
    tokens: Interval | None
    calls_per_step: Interval | None

    def to_json(self) -> dict:
        means = {name: value.to_json() if value else None for name, value in self.means().items()}
        return {
            "tier": self.tier,
            "policy": self.policy,
            "scenarios": self.scenarios,
            "failed_rollouts": self.failed_rollouts,
            **means,
        }

    def means(self) -> dict[str, Interval | None]:
        return {
            "reward": self.reward,
            "normalized": self.normalized,
            "failures": self.failures,
            "tokens": self.tokens,
            "calls_per_step": self.calls_per_step,
        }


def tiers_of(outcomes: Iterable[Outcome]) -> list[str]:
    """The tiers present, easy first, then ``all`` where there is more than one."""
    present = {outcome.difficulty for outcome in outcomes}
    tiers = [tier for tier in DIFFICULTIES if tier in present] + sorted(present.difference(DIFFICULTIES))
    return [*tiers, "all"] if len(tiers) > 1 else tiers


def of_tier(outcomes: Iterable[Outcome], tier: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if tier in ("all", outcome.difficulty)]


def results_row(tier: str, policy: str, outcomes: Sequence[Outcome]) -> Row:
    """One row from the rollouts of one decider on one tier."""
    good = [outcome for outcome in outcomes if outcome.error is None and outcome.metrics is not None]

    def metric(name: str) -> Interval | None:
        return mean_interval([(outcome.metrics or {})[name] for outcome in good])

    return Row(
        tier=tier,
        policy=policy,
        scenarios=len(outcomes),
        failed_rollouts=len(outcomes) - len(good),
        reward=mean_interval([outcome.reward for outcome in good if outcome.reward is not None]),
        normalized=mean_interval([outcome.normalized for outcome in good if outcome.normalized is not None]),
        failures=metric("total_failures_metric"),
        tokens=metric("total_tokens_metric"),
        calls_per_step=metric("calls_per_step"),
    )


def floor_row(tier: str, scenarios: Sequence[Scenario]) -> Row:
    floor = mean_interval([scenario.floor for scenario in scenarios])
    zero = mean_interval([0.0 for _ in scenarios])
    return Row(tier, FLOOR_ROW, len(scenarios), 0, floor, zero, None, None, None)


def oracle_outcomes(scenarios: Iterable[Scenario]) -> list[Outcome]:
    """The stored best-known action logs, played again."""
    return [
        from_report(scenario, ORACLE_ROW, replay(scenario, scenario.best_log), scenario.best_log)
        for scenario in scenarios
    ]


def results_rows(outcomes: Sequence[Outcome], scenarios: Mapping[str, Scenario]) -> list[Row]:
    """All rows: per tier the floor, every decider in order of appearance, and the best known."""
    policies = list(dict.fromkeys(outcome.model for outcome in outcomes))
    played = list({outcome.scenario_id: None for outcome in outcomes if outcome.scenario_id in scenarios})
    known = [scenarios[key] for key in played]
    oracle = oracle_outcomes(known)
    rows = []
    for tier in tiers_of(outcomes):
        here = of_tier(outcomes, tier)
        references = [scenario for scenario in known if tier in ("all", scenario.difficulty)]
        if references:
            rows.append(floor_row(tier, references))
        for policy in policies:
            mine = [outcome for outcome in here if outcome.model == policy]
            if mine:
                rows.append(results_row(tier, policy, mine))
        if references:
            rows.append(results_row(tier, ORACLE_ROW, of_tier(oracle, tier)))
    return rows


def differences(outcomes: Sequence[Outcome]) -> list[dict]:
    """The first decider minus every other one, paired by scenario: mean reward difference with interval, per
    tier.
    """
    policies = list(dict.fromkeys(outcome.model for outcome in outcomes))
    found = []
    for tier in tiers_of(outcomes):
        rewards: dict[str, dict[str, float]] = {policy: {} for policy in policies}
        for outcome in of_tier(outcomes, tier):
            if outcome.reward is not None:
                rewards[outcome.model][outcome.scenario_id] = outcome.reward
        for other in policies[1:]:
            difference = paired_difference(rewards[policies[0]], rewards[other])
            if difference is not None:
                found.append(
                    {"tier": tier, "policy": policies[0], "against": other, "reward": difference.to_json()}
                )
    return found


def difference_sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """The paired differences on the widest tier, in words; of more than four deciders the three best are
    compared.
    """
    policies = list(dict.fromkeys(outcome.model for outcome in outcomes))
    if len(policies) > 4:
        rows = [results_row("all", policy, [o for o in outcomes if o.model == policy]) for policy in policies]
        rewards = {row.policy: row.reward.mean for row in rows if row.reward is not None}
        best = sorted(rewards, key=lambda policy: -rewards[policy])[:3]
        outcomes = [outcome for policy in best for outcome in outcomes if outcome.model == policy]
    found = differences(outcomes)
    widest = found[-1]["tier"] if found else ""
    return [
        f"{entry['policy']} minus {entry['against']} on the same {entry['reward']['n']} scenarios "
        f"({widest}): {entry['reward']['mean']:+.3f} reward, {interval_words(entry['reward'])}"
        for entry in found
        if entry["tier"] == widest and entry["reward"]["low"] is not None
    ]


def interval_words(reward: Mapping) -> str:
    """The interval of a difference, or that there are too few scenarios for one."""
    if reward["n"] < FEWEST:
        return f"too few for an interval (from {FEWEST} on)"
    return f"95 % interval {reward['low']:+.3f} to {reward['high']:+.3f}"


COLUMNS: dict[str, Callable[[float], str]] = {
    "reward": lambda value: f"{value:+.3f}",
    "normalized": lambda value: f"{value:+.2f}",
    "failures": lambda value: f"{value:.1f}",
    "tokens": lambda value: f"{value:,.0f}",
    "calls_per_step": lambda value: f"{value:.2f}",
}
"""How each mean is written."""

HEADINGS = {"tier": "left", "policy": "left"} | dict.fromkeys(
    ("n", "failed", "reward", "normalised", "failures", "tokens served", "calls/step"), "right"
)
"""Heading → where its column stands."""


FEWEST = 5
"""Scenarios from which on an interval is shown: below, Student's t makes it wider than the scores can be."""


def cell(mean: Interval | None, name: str) -> str:
    """``+0.123 ± 0.045``, ``+0.123 (n = 2)`` for a few values, a dash where there is none."""
    if mean is None:
        return "-"
    text = COLUMNS[name](mean.mean)
    if mean.n < FEWEST:
        return f"{text} (n = {mean.n})" if mean.half_width else text
    return text if not mean.half_width else f"{text} ± {COLUMNS[name](mean.half_width).lstrip('+')}"


def cells(row: Row) -> list[str]:
    """A row as text, in the order of `HEADINGS`."""
    means = [cell(mean, name) for name, mean in row.means().items()]
    return [row.tier, row.policy, str(row.scenarios), str(row.failed_rollouts), *means]


def rich_table(rows: Sequence[Row], title: str):
    """The rows as a rich table, a rule between tiers."""
    table = plain_table(title, HEADINGS, f"± is the {T_INTERVAL} over scenarios")
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].tier != row.tier
        style = "dim" if row.policy in (FLOOR_ROW, ORACLE_ROW) else "red" if row.failed_rollouts else None
        table.add_row(*cells(row), end_section=last, style=style)
    return table


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    return markdown_table(HEADINGS, map(cells, rows))
