"""``export-sft``: expert dialogues for supervised fine-tuning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.amounts import amount
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
from kv_cache_rl.files import write_whole
from kv_cache_rl.sim.eviction import ORACLE


def writer_of(out: Path) -> Callable[[list[dict], Path], None]:
    """What writes a file of that name. Raises Refused for a folder, another ending, or a missing package."""
    if out.is_dir():
        raise BadInput(f"{out} is a folder; give the name of a file, .parquet or .jsonl")
    if out.suffix.lower() == ".jsonl":
        return write_lines
    if out.suffix.lower() != ".parquet":
        raise BadInput(f"{out} is neither .parquet nor .jsonl; give a name that ends in one of them")
    need("export-sft", "datasets")
    import datasets

    if not hasattr(datasets, "Json"):
        raise BadInput(
            f"datasets {datasets.__version__} has no JSON columns, so every message would get null fields, "
            "which chat templates trip over; pip install -U datasets, or write a .jsonl file"
        )
    return write_parquet


def write_lines(rows: list[dict], out: Path) -> None:
    write_whole(out, "".join(json.dumps(row) + "\n" for row in rows).encode())


def write_parquet(rows: list[dict], out: Path) -> None:
    """Messages as JSON columns: as structures each would have every field of all roles, most of them null."""
    from datasets import Dataset, Features, Json, List, Value, disable_progress_bars

    disable_progress_bars()
    texts = dict.fromkeys(("scenario_id", "difficulty", "expert", "tools"), Value("string"))
    numbers = dict.fromkeys(("reward", "normalized"), Value("float64"))
    columns = {**texts, **numbers, "messages": List(Json())}
    features = Features({name: columns[name] for name in rows[0]})
    Dataset.from_list(rows, features=features).to_parquet(str(out))


def run_export(
    out: Annotated[Path, options.out("The file to write: .parquet, or .jsonl for JSON Lines.")],
    policy: Annotated[str, options.policy("The expert: oracle, or a policy by name.")] = ORACLE,
    difficulty: Difficulty = "all",
    split: Split = "train",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    min_normalized: Annotated[
        float, options.option(OUTPUT, "--min-normalized", help="Leave out dialogues that score below this.")
    ] = -1.0,
    arguments: Annotated[
        str,
        options.option(
            OUTPUT,
            "--arguments",
            help="How calls hold their arguments: object, which chat templates take, or text (prime-rl).",
        ),
    ] = "object",
    as_json: AsJson = False,
) -> None:
    """Write expert dialogues as a file with the columns messages and tools, ready for SFT trainers.

    A message has the fields of its role only, none of them null.

    In a parquet file messages are JSON columns, which datasets.load_dataset reads back as objects.

    Templates that take one call a message (Llama 3.1) refuse most of them.

    Example: kv-cache-rl export-sft --out expert.parquet --policy oracle --num-examples 600
    """
    write = writer_of(out)
    from kv_cache_rl.adapters.expert import expert_row
    from kv_cache_rl.cli.eviction.baselines import play
    from kv_cache_rl.reports.eviction.tables import oracle_outcomes
    from kv_cache_rl.sim.eviction import DECIDERS

    choose("expert", policy, [ORACLE, *DECIDERS])
    as_text = choose("form of --arguments", arguments, ["object", "text"]) == "text"
    scenarios = select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, trace)
    rows = []
    for scenario in track(scenarios, "dialogues", as_json):
        outcome = oracle_outcomes([scenario])[0] if policy == ORACLE else play(scenario, policy)
        if (outcome.normalized or 0.0) >= min_normalized:
            score = (outcome.reward or 0.0, outcome.normalized or 0.0)
            rows.append(expert_row(scenario, policy, outcome.log, *score, as_text))
    if not rows:
        raise BadInput(
            f"none of the {len(scenarios)} dialogues reaches --min-normalized {min_normalized}; lower it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write(rows, out)
    facts = {
        "file": str(out),
        "dialogues": len(rows),
        "bytes": out.stat().st_size,
        "left_out": len(scenarios) - len(rows),
    }
    if as_json:
        print_json(facts)
    else:
        typer.echo(f"{len(rows)} dialogues in {out} ({amount(facts['bytes'])}), {facts['left_out']} left out")
