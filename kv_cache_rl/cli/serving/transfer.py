"""``serving transfer``: learned agents where they were not trained: users of traces, half the memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson, Markdown, Workers, command_line
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.serving.options import Ticks, agent, scenario_of
from kv_cache_rl.cli.serving.play import BASE, LLM, OWN, agents_of, identity, play
from kv_cache_rl.cli.terminal import Bar, console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.sim.serving.spec import Scenario

AMONG = ("lru", "stability", "watermark_90", "qlearning", "neural", "ppo")
LOADS = (0.7, 1.0)
"""Of the users of a trace: below what the server can serve, and all of it."""
TASKS = ("medium", "hard")


def run_transfer(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Traces whose users are replayed: any format with times."),
    ] = None,
    policy: Annotated[
        list[str] | None,
        agent(f"By comma or repeated; all: every one but llm; default: {', '.join(AMONG)}. {OWN}"),
    ] = None,
    seeds: Annotated[int, options.seeds("How many of the held-out test seeds, at most 100.")] = 20,
    ticks: Ticks = None,
    out: Annotated[
        Path, options.out("Folder for finished episodes; an evaluation interrupted there goes on.")
    ] = Path("runs/serving/transfer"),
    workers: Workers = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """Play agents where they were not trained: users of traces at two loads, and half the GPU blocks.

    Scores with 95 % t intervals, paired differences to stability. Default: learned agents and rivals.

    Example: kv-cache-rl serving transfer conversation_trace.jsonl.gz --seeds 20
    """
    from kv_cache_rl.experiments.serving.evaluate import evaluate, held_out
    from kv_cache_rl.experiments.workers import cores
    from kv_cache_rl.reports.serving.transfer import markdown as as_markdown
    from kv_cache_rl.reports.serving.transfer import rich_table, rows_of

    names, chosen = agents_of(policy or list(AMONG)), held_out(seeds)
    if LLM in names:
        raise BadInput(f"{LLM} plays in kv-cache-rl serving evaluate and simulate alone; leave it out")
    worlds = worlds_of(traces or [], ticks)
    known = {name: identity(name).digest for name in names}
    with Bar("episodes", as_json) as bar:

        def go_on() -> str:
            return f"{bar.done:,} of {bar.total:,} episodes are saved in {out}; go on with: {command_line()}"

        with stoppable(out, go_on):
            arguments = names, list(worlds.values()), chosen, play, out, workers or cores(), bar
            episodes = evaluate(*arguments, known.__getitem__)
    many = len(names) * len(chosen)
    parts = {world: episodes[k * many : (k + 1) * many] for k, world in enumerate(worlds)}
    rows = rows_of(parts)
    if as_json:
        print_json({"command": command_line(), "seeds": chosen, "rows": rows})
    elif markdown:
        typer.echo(as_markdown(rows), nl=False)
    else:
        console().print(rich_table(rows, f"serving, elsewhere: seeds {chosen[0]} to {chosen[-1]}"))
    failed = sorted({f"{row['agent']}: {row['error']}" for row in episodes if row["error"]})
    for error in failed:
        typer.echo(f"failed {error}", err=True)
    if failed:
        raise typer.Exit(FAILED)


def worlds_of(traces: list[Path], ticks: int | None) -> "dict[str, Scenario]":
    """What is played, by name: each trace at each load, then each task with half the memory."""
    from kv_cache_rl.reports.serving.tables import labels_of

    found: dict[str, Any] = {}
    labels = labels_of(str(trace) for trace in traces)
    for trace in dict.fromkeys(traces):
        for load in LOADS:
            found[f"{labels[str(trace)]}, load {load:g}"] = scenario_of("hard", trace, load, ticks, None)
    for name in TASKS:
        half = scenario_of(name, None, None, ticks, None).gpu_blocks // 2
        found[f"{name}, {half:,} GPU blocks"] = scenario_of(name, None, None, ticks, [f"gpu_blocks={half}"])
    return found


assert BASE in AMONG
