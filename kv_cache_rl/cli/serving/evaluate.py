"""``serving evaluate``: agents x tasks on held-out seeds, beside the fluid bound."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import chat_options, options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import OUTPUT, AsJson, Markdown, Workers, command_line, names_of
from kv_cache_rl.cli.saved import refuse_replacing, stoppable
from kv_cache_rl.cli.serving import chat
from kv_cache_rl.cli.serving.options import Rho, Settings, Tasks, Ticks, Trace, scenario_of
from kv_cache_rl.cli.serving.play import (
    BASE,
    LLM,
    Agents,
    agents_of,
    identity,
    play,
    recorded,
    refuse_agents_files,
)
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.extras import need

if TYPE_CHECKING:
    from kv_cache_rl.experiments.serving.evaluate import Cell
    from kv_cache_rl.sim.serving.spec import Scenario

REMEDY = "Its results are kept once it names the files it comes from, in an attribute `weights`"
"""For an agent whose state no digest covers."""
Out = Annotated[Path, options.out("Folder for finished episodes; an evaluation interrupted there goes on.")]


def run_evaluate(
    policy: Agents = None,
    task: Tasks = None,
    seeds: Annotated[int, options.seeds("How many of the held-out test seeds, at most 100.")] = 20,
    trace: Trace = None,
    rho: Rho = None,
    ticks: Ticks = None,
    set_: Settings = None,
    out: Out = Path("runs/serving/evaluate"),
    model: chat_options.Model = None,
    base_url: chat_options.BaseUrl = None,
    api_key_var: chat_options.KeyVar = None,
    max_tokens: chat_options.MaxTokens = None,
    temperature: chat_options.Temperature = None,
    price_in: chat_options.PriceIn = None,
    price_out: chat_options.PriceOut = None,
    price_cached: chat_options.PriceCached = None,
    max_concurrent: chat_options.MaxConcurrent = None,
    timeout: chat_options.Timeout = None,
    max_retries: chat_options.MaxRetries = None,
    patience: chat_options.Patience = None,
    workers: Workers = None,
    plot: Annotated[Path | None, options.plot("Draw the scores")] = None,
    telemetry: Annotated[
        Path | None,
        options.option(
            OUTPUT, "--telemetry", help="Folder for every tick of every episode, as Parquet with a data card."
        ),
    ] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare agents on the same held-out seeds, beside the fluid bound.

    Scores with 95 % t intervals and paired differences to lru.

    A finished episode is played again where the agent's code, what it holds or its weights have changed.

    Example: kv-cache-rl serving evaluate --policy lru,stability,oracle --task medium --seeds 20

    Your own: kv-cache-rl serving evaluate --agent lru --agent my_agents.py:Patient

    A chat model: kv-cache-rl serving evaluate --policy lru,llm --model qwen3 --base-url http://127.0.0.1:8000/v1
    """
    from kv_cache_rl.experiments.serving.evaluate import LEAST_SEEDS, Cell, evaluate, held_out
    from kv_cache_rl.experiments.workers import cores
    from kv_cache_rl.reports.serving.tables import TOO_SHORT, results, rich_table
    from kv_cache_rl.reports.serving.tables import markdown as as_markdown
    from kv_cache_rl.sim.serving.spec import TASKS

    names, chosen = agents_of(policy), held_out(seeds)
    refuse_agents_files(names, {"--plot": plot})
    target = chat.target_of(
        names,
        model,
        base_url,
        api_key_var,
        {"max_tokens": max_tokens, "temperature": temperature},
        {"timeout": timeout, "max_retries": max_retries, "seconds": patience},
        (price_in, price_out, price_cached),
        max_concurrent,
    )
    ticks = chat.bounded(target, ticks)
    scenarios = [scenario_of(name, trace, rho, ticks, set_) for name in names_of(task) or TASKS]
    options.picture(plot)
    plan = None if telemetry is None else planned(telemetry, scenarios, names, chosen)
    found_out = {name: identity(name) for name in names if name != LLM}
    for name, one in found_out.items():
        if one.digest is None:
            typer.echo(f"{name} is played anew and not kept: {one.trouble}. {REMEDY}", err=True)
    with Bar("episodes", as_json) as bar:

        def go_on() -> str:
            return f"{bar.done:,} of {bar.total:,} episodes are saved in {out}; go on with: {command_line()}"

        with stoppable(out, go_on):
            known = {name: one.digest for name, one in found_out.items()}
            rows = evaluate(
                *(list(found_out), scenarios, chosen, play, out, workers or cores(), bar),
                identity=known.__getitem__,
            )
            rows += chat.evaluated(target, scenarios, chosen, out, max_concurrent, bar)
    if telemetry is not None and plan is not None:
        failed_ = {(row["task"], row["agent"], row["seed"]) for row in rows if row["error"]}
        cells = [Cell(name, one, seed, known[name]) for one in scenarios for name in known for seed in chosen]
        whole = [cell for cell in cells if (cell.scenario.task, cell.agent, cell.seed) not in failed_]
        if whole:
            record(whole, telemetry, plan, workers or cores(), as_json)
        else:
            typer.echo(f"every episode failed, and {telemetry} gets no telemetry", err=True)
    rows.sort(key=lambda row: names.index(row["agent"]))  # stable: by task, agent, seed
    rows.sort(key=lambda row: [one.task for one in scenarios].index(row["task"]))
    found, told = results(rows, BASE), chat.said(rows, target)
    if plot is not None and all(row["error"] for row in rows):
        typer.echo(f"every episode failed, and {plot} is not drawn", err=True)
    elif plot is not None:
        draw(found, plot)
    if as_json:
        print_json(
            {"base": BASE, "seeds": chosen, "results": [one.to_json() for one in found], "episodes": rows}
            | ({"chat": told} if target else {})
        )
    elif markdown:
        typer.echo(as_markdown(found, BASE), nl=False)
    else:
        table = rich_table(found, BASE, f"serving: {len(names)} agents, seeds {chosen[0]} to {chosen[-1]}")
        console().print(table)
        short = {row["task"]: TOO_SHORT for row in rows if row["report"] and not row["report"]["work_bound"]}
        for name, why in short.items():
            console().print(f"{name}: {why}", soft_wrap=True)
        for sentence in told:
            console().print(sentence, style="yellow", soft_wrap=True, markup=False)
        if seeds < LEAST_SEEDS:
            console().print(f"{seeds} seeds are few: published numbers have at least {LEAST_SEEDS}")
    failed = sorted({f"{row['agent']} on {row['task']}: {row['error']}" for row in rows if row["error"]})
    for error in failed:
        typer.echo(f"failed {error}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def planned(
    folder: Path, scenarios: Sequence["Scenario"], names: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """What the folder of the telemetry will be of, before anything is played.

    Raises:
        BadInput: none of the agents can be recorded, or the folder holds something else.
        MissingExtra: what writes Parquet is not installed.
    """
    need("--telemetry", "datasets")
    from kv_cache_rl.experiments.serving.telemetry import DATA, PLAN, plan_of

    agents = [name for name in names if name != LLM]
    if not agents:
        raise BadInput(
            f"--telemetry records agents that play here, and {LLM} does not; add one, such as "
            f"--policy {BASE}, or leave --telemetry out"
        )
    plan = plan_of(scenarios, agents, seeds)
    refuse_replacing(folder / PLAN, plan, "--telemetry")
    if not (folder / PLAN).exists() and (folder / DATA).is_dir() and any((folder / DATA).iterdir()):
        raise BadInput(
            f"{folder / DATA} holds files that do not say what they are of; give another --telemetry, or "
            "delete the folder"
        )
    return plan


def record(cells: list["Cell"], folder: Path, plan: Mapping[str, Any], workers: int, quiet: bool) -> None:
    """Plays the episodes decision by decision, and writes their ticks."""
    from kv_cache_rl.experiments.serving.telemetry import written

    with Bar("telemetry", quiet) as bar, stoppable(folder, lambda: f"go on with: {command_line()}"):
        paths = written(cells, recorded, folder, command_line(), plan, workers, bar)
    size = sum(path.stat().st_size for path in paths)
    typer.echo(f"telemetry: {counted(len(paths), 'episode')}, {amount(size)} in {folder}", err=True)


def draw(found: list, path: Path) -> None:
    from kv_cache_rl.reports.canvas import save
    from kv_cache_rl.reports.serving.scores import score_figure

    save(score_figure(found, BASE), path)
