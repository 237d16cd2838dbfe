"""``export-sft``: expert dialogues for supervised fine-tuning."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    NumExamples,
    Seed,
    Split,
    Trace,
    how_many,
    select_scenarios,
)
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import OUTPUT, AsJson
from kv_cache_rl.cli.terminal import print_json, track
from kv_cache_rl.extras import need
from kv_cache_rl.sim.eviction import ORACLE


def run_export(
    out: Annotated[Path, options.out("The parquet file to write.")],
    policy: Annotated[str, options.policy("The expert: oracle, or a policy by name.")] = ORACLE,
    difficulty: Difficulty = "all",
    split: Split = "train",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    min_normalized: Annotated[
        float, options.option(OUTPUT, "--min-normalized", help="Leave out dialogues that score below this.")
    ] = -1.0,
    as_json: AsJson = False,
) -> None:
    """Write expert dialogues as a parquet file with the columns messages and tools, ready for SFT trainers.

    Example: kv-cache-rl export-sft --out expert.parquet --policy oracle --num-examples 600
    """
    need("export-sft", "datasets")
    from datasets import Dataset, disable_progress_bars

    from kv_cache_rl.adapters.expert import expert_row
    from kv_cache_rl.cli.eviction.baselines import play
    from kv_cache_rl.reports.eviction.tables import oracle_outcomes
    from kv_cache_rl.sim.eviction import DECIDERS

    choose("expert", policy, [ORACLE, *DECIDERS])
    if out.is_dir():
        raise BadInput(f"{out} is a folder; give the name of a parquet file")
    scenarios = select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, trace)
    rows = []
    for scenario in track(scenarios, "dialogues", as_json):
        outcome = oracle_outcomes([scenario])[0] if policy == ORACLE else play(scenario, policy)
        if (outcome.normalized or 0.0) >= min_normalized:
            rows.append(
                expert_row(scenario, policy, outcome.log, outcome.reward or 0.0, outcome.normalized or 0.0)
            )
    if not rows:
        raise BadInput(
            f"none of the {len(scenarios)} dialogues reaches --min-normalized {min_normalized}; lower it"
        )
    disable_progress_bars()
    out.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(str(out))
    facts = {
        "file": str(out),
        "dialogues": len(rows),
        "bytes": out.stat().st_size,
        "left_out": len(scenarios) - len(rows),
    }
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{len(rows)} dialogues in {out} ({facts['bytes']:,} bytes), {facts['left_out']} left out")
