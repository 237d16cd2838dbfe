"""``export-sft``: expert dialogues for supervised fine-tuning."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import (
    Difficulty,
    History,
    NumExamples,
    Seed,
    Split,
    Trace,
    View,
    choose_history,
    choose_view,
    how_many,
    select_scenarios,
)
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import OUTPUT, POLICIES, AsJson, names_of
from kv_cache_rl.cli.terminal import print_json, track
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_whole
from kv_cache_rl.sim.eviction import ORACLE

if TYPE_CHECKING:
    from kv_cache_rl.sim.eviction import Scenario


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
    texts = dict.fromkeys(("scenario_id", "difficulty", "expert", "player", "tools"), Value("string"))
    numbers = {**dict.fromkeys(("reward", "normalized"), Value("float64")), "window": Value("int64")}
    columns = {**texts, **numbers, "messages": List(Json())}
    features = Features({name: columns[name] for name in rows[0]})
    Dataset.from_list(rows, features=features).to_parquet(str(out))


@dataclass(frozen=True, slots=True)
class Samples:
    """The form of the samples."""

    view: str
    history: str
    as_text: bool


def episode_rows(
    scenarios: Sequence["Scenario"], policy: str, least: float, asked: Samples, quiet: bool
) -> tuple[list[dict], int]:
    """The samples of whole episodes that score at least so much, and how many episodes do not."""
    from kv_cache_rl.adapters.expert import expert_row, expert_windows, window_row
    from kv_cache_rl.cli.eviction.baselines import play_expert

    rows, left_out = [], 0
    for scenario in track(scenarios, "dialogues", quiet):
        outcome = play_expert(scenario, policy, asked.view)
        score = {"reward": outcome.reward or 0.0, "normalized": outcome.normalized or 0.0}
        if score["normalized"] < least:
            left_out += 1
        elif asked.history == "full":
            rows.append(
                expert_row(scenario, policy, outcome.log, **score, as_text=asked.as_text, view=asked.view)
            )
        else:
            windows = expert_windows(scenario, outcome.log, asked.as_text, asked.view)
            rows += [window_row(scenario, policy, k, one, **score) for k, one in enumerate(windows, 1)]
    return rows, left_out


def decision_rows(
    scenarios: Sequence["Scenario"], expert: str, players: list[str], many: int, seed: int, asked: Samples
) -> list[dict]:
    """So many windows of episodes that `players` play, drawn by seed, each answered by the expert.

    Raises BadInput where there are fewer, and for an expert that answers only on its own way.
    """
    import numpy as np

    from kv_cache_rl.adapters.expert import expert_windows, window_row
    from kv_cache_rl.cli.eviction.baselines import play_expert
    from kv_cache_rl.sim.eviction import DECIDERS

    if expert == ORACLE and players != [ORACLE]:
        raise BadInput(
            "the oracle's log answers only the windows that the oracle plays; give --player oracle, or a "
            "policy as --policy"
        )
    played = [(scenario, player) for scenario in scenarios for player in players]
    windows = [(k, window) for k, (scenario, _) in enumerate(played) for window in range(scenario.steps)]
    if many > len(windows):
        source = f"{counted(len(scenarios), 'scenario')}, played by {counted(len(players), 'player')}"
        raise BadInput(
            f"--decisions {many} is more than the {counted(len(windows), 'window')} of {source}; lower it, "
            "or raise --num-examples"
        )
    label = None if expert == ORACLE else DECIDERS[expert]()
    drawn = sorted(np.random.default_rng(seed).choice(len(windows), many, replace=False).tolist())
    chosen: dict[int, list[int]] = {}
    for index in drawn:
        chosen.setdefault(windows[index][0], []).append(windows[index][1])
    rows = []
    for k, wanted in chosen.items():
        scenario, player = played[k]
        log = play_expert(scenario, player, asked.view).log
        samples = expert_windows(scenario, log, asked.as_text, asked.view, label)
        rows += [window_row(scenario, expert, w + 1, samples[w], player=player) for w in wanted]
    return rows


def run_export(
    out: Annotated[Path, options.out("The file to write: .parquet, or .jsonl for JSON Lines.")],
    policy: Annotated[str, options.policy("The expert: oracle, or a policy by name.")] = ORACLE,
    view: View = None,
    history: History = None,
    decisions: Annotated[
        int | None,
        options.option(
            OUTPUT,
            "--decisions",
            help="So many single windows instead of episodes, drawn by --seed, each answered by the expert.",
            min=1,
        ),
    ] = None,
    player: Annotated[
        list[str] | None,
        options.option(
            POLICIES,
            "--player",
            help="What plays up to those windows, by comma or repeated; default: the expert.",
        ),
    ] = None,
    difficulty: Difficulty = "all",
    split: Split = "train",
    num_examples: NumExamples = None,
    seed: Seed = 42,
    trace: Trace = None,
    min_normalized: Annotated[
        float | None,
        options.option(
            OUTPUT, "--min-normalized", help="Leave out episodes that score below this; default -1."
        ),
    ] = None,
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

    A sample is an episode, with --history window one window, with --decisions one drawn window.

    It shows the brief view unless told otherwise, as the environment does.

    A message has the fields of its role only, none of them null.

    In a parquet file messages are JSON columns, which datasets.load_dataset reads back as objects.

    Templates that take one call a message (Llama 3.1) refuse most of them.

    Example: kv-cache-rl export-sft --out expert.parquet --policy oracle --num-examples 600
    """
    write = writer_of(out)
    from kv_cache_rl.sim.eviction import DECIDERS

    known = [ORACLE, *DECIDERS]
    choose("expert", policy, known)
    players = [choose("player", name, known) for name in names_of(player)]
    as_text = choose("form of --arguments", arguments, ["object", "text"]) == "text"
    asked = Samples(
        choose_view(view, "brief"), choose_history(history, "window" if decisions else "full"), as_text
    )
    refuse_together(decisions, players, asked.history, min_normalized)
    scenarios = select_scenarios(difficulty, split, how_many(num_examples, difficulty), seed, trace)
    left_out = 0
    if decisions:
        rows = decision_rows(scenarios, policy, players or [policy], decisions, seed, asked)
    else:
        least = -1.0 if min_normalized is None else min_normalized
        rows, left_out = episode_rows(scenarios, policy, least, asked, as_json)
    if not rows:
        raise BadInput(
            f"none of {counted(len(scenarios), 'dialogue')} reaches --min-normalized {min_normalized}; "
            "lower it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write(rows, out)
    facts = {
        "file": str(out),
        "view": asked.view,
        "history": asked.history,
        "samples": len(rows),
        "dialogues": 0 if decisions else len(scenarios) - left_out,
        "bytes": out.stat().st_size,
        "left_out": left_out,
    }
    if as_json:
        print_json(facts)
    else:
        alone = bool(decisions) or asked.history == "window"
        made, left = counted(len(rows), "window" if alone else "dialogue"), counted(left_out, "dialogue")
        typer.echo(f"{made} in {out} ({amount(facts['bytes'])}), {left} left out")


def refuse_together(
    decisions: int | None, players: list[str], history: str, min_normalized: float | None
) -> None:
    """Raises BadInput for options that do not fit together."""
    if decisions is None:
        if players:
            raise BadInput("--player is given without --decisions; give the number of windows to draw")
        return
    if history != "window":
        raise BadInput(
            "--decisions makes samples of one window, so --history full does not fit; leave it out"
        )
    if min_normalized is not None:
        raise BadInput("--min-normalized is about whole episodes, not --decisions; leave one of them out")
