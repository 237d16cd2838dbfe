"""``serving evaluate``: agents x tasks on held-out seeds, beside the fluid bound."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson, Markdown, Workers, command_line, names_of
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.serving.options import Rho, Settings, Tasks, Ticks, Trace, scenario_of
from kv_cache_rl.cli.serving.play import BASE, Agents, agents_of, identity, play, refuse_agents_files
from kv_cache_rl.cli.terminal import Bar, console, print_json

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
    workers: Workers = None,
    plot: Annotated[Path | None, options.plot("Draw the scores")] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """Compare agents on the same held-out seeds, beside the fluid bound.

    Scores with 95 % t intervals and paired differences to lru.

    A finished episode is played again where the agent's code, what it holds or its weights have changed.

    Example: kv-cache-rl serving evaluate --policy lru,stability,oracle --task medium --seeds 20

    Your own: kv-cache-rl serving evaluate --agent lru --agent my_agents.py:Patient
    """
    from kv_cache_rl.experiments.serving.evaluate import LEAST_SEEDS, evaluate, held_out
    from kv_cache_rl.experiments.workers import cores
    from kv_cache_rl.reports.serving.tables import TOO_SHORT, results, rich_table
    from kv_cache_rl.reports.serving.tables import markdown as as_markdown
    from kv_cache_rl.sim.serving.spec import TASKS

    if as_json and markdown:
        raise BadInput("--json and --markdown are two forms of one table; give one")
    names, chosen = agents_of(policy), held_out(seeds)
    refuse_agents_files(names, {"--plot": plot})
    scenarios = [scenario_of(name, trace, rho, ticks, set_) for name in names_of(task) or TASKS]
    options.picture(plot)
    found_out = {name: identity(name) for name in names}
    for name, one in found_out.items():
        if one.digest is None:
            typer.echo(f"{name} is played anew and not kept: {one.trouble}. {REMEDY}", err=True)
    with Bar("episodes", as_json) as bar:

        def go_on() -> str:
            return f"{bar.done:,} of {bar.total:,} episodes are saved in {out}; go on with: {command_line()}"

        with stoppable(out, go_on):
            known = {name: one.digest for name, one in found_out.items()}
            rows = evaluate(names, scenarios, chosen, play, out, workers or cores(), bar, known.__getitem__)
    found = results(rows, BASE)
    if plot is not None:
        draw(found, plot)
    if as_json:
        print_json(
            {"base": BASE, "seeds": chosen, "results": [one.to_json() for one in found], "episodes": rows}
        )
    elif markdown:
        typer.echo(as_markdown(found, BASE), nl=False)
    else:
        table = rich_table(found, BASE, f"serving: {len(names)} agents, seeds {chosen[0]} to {chosen[-1]}")
        console().print(table)
        short = {row["task"]: TOO_SHORT for row in rows if row["report"] and not row["report"]["work_bound"]}
        for name, why in short.items():
            console().print(f"{name}: {why}", soft_wrap=True)
        if seeds < LEAST_SEEDS:
            console().print(f"{seeds} seeds are few: published numbers have at least {LEAST_SEEDS}")
    failed = sorted({f"{row['agent']} on {row['task']}: {row['error']}" for row in rows if row["error"]})
    for error in failed:
        typer.echo(f"failed {error}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def draw(found: list, path: Path) -> None:
    from kv_cache_rl.reports.canvas import save
    from kv_cache_rl.reports.serving.scores import score_figure

    save(score_figure(found, BASE), path)
