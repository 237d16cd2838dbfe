"""``stability compare``: the controller as a decision maker against fixed thresholds."""

from typing import TYPE_CHECKING, Annotated

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import AsJson, Workers
from kv_cache_rl.cli.terminal import Bar, console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.experiments.stability.comparison import Episode

SHOWN = {
    "sla_misses": ("SLA misses", 100.0, "{:.1f} %"),
    "failures": ("failures", 100.0, "{:.1f} %"),
    "tokens_lost": ("tokens lost", 1.0, "{:,.0f}"),
    "forced_preemptions": ("preemptions", 1.0, "{:.1f}"),
    "score": ("score", 1.0, "{:.3f}"),
}
"""Metric → heading, factor, format."""


def run_compare(
    task: Annotated[str, options.task("easy, medium or hard.")] = "hard",
    seeds: Annotated[int, options.seeds("Episodes of each agent, the same for all.", low=2, high=50)] = 20,
    seed: Annotated[int, options.seed("First of the 100 test seeds that is played.", high=50)] = 0,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Compare the queueing controller (reserve mode) with fixed thresholds of GPU use on bursty traffic.

    Example: kv-cache-rl stability compare --task hard --seeds 20
    """
    from kv_cache_rl.experiments.stability.comparison import compare
    from kv_cache_rl.experiments.workers import cores
    from kv_cache_rl.sim.serving.spec import TASKS

    name = choose("task", task, TASKS)
    with Bar("episodes", as_json) as bar:
        episodes = compare(seeds, name=name, seed=seed, workers=workers or cores(), progress=bar)
    rows = compared(episodes)
    if as_json:
        print_json({"task": name, "seeds": seeds, "seed": seed, "rows": rows})
    else:
        show(rows, name, seeds)


def compared(episodes: "dict[str, list[Episode]]") -> list[dict]:
    """Per agent: means with intervals, and the paired difference controller minus agent."""
    from kv_cache_rl.intervals import mean_interval, paired_difference

    columns = {
        agent: {metric: {str(one.seed): float(getattr(one, metric)) for one in mine} for metric in SHOWN}
        for agent, mine in episodes.items()
    }
    controller = next(iter(columns))
    rows = []
    for agent, metrics in columns.items():
        row: dict = {"agent": agent}
        for metric, values in metrics.items():
            mean, against = (
                mean_interval(list(values.values())),
                paired_difference(columns[controller][metric], values),
            )
            row[metric] = mean.to_json() if mean else None
            row[f"{metric}_controller_minus_this"] = (
                against.to_json() if against and agent != controller else None
            )
        rows.append(row)
    return rows


def show(rows: list[dict], task: str, seeds: int) -> None:
    """Means with half-widths, and the paired differences below them."""
    from kv_cache_rl.reports.tables import plain_table

    out = console()
    columns = {"agent": "left"} | {heading: "right" for heading, _, _ in SHOWN.values()}
    caption = (
        "mean over episodes ± 95 % · SLA misses: completed late or never, of all that arrived · failures: "
        "dropped, rejected or unfinished · tokens lost: history not found by those who came back for it, "
        "and KV of forced preemptions"
    )
    table = plain_table(f"{task}, {counted(seeds, 'seed')}", columns, caption)
    for row in rows:
        table.add_row(row["agent"], *(cell(row[metric], metric) for metric in SHOWN))
    for row in rows[1:]:
        cells = (cell(row[f"{metric}_controller_minus_this"], metric) for metric in SHOWN)
        table.add_row(f"{rows[0]['agent']} - {row['agent']}", *cells)
    out.print(table)


def cell(value: dict, metric: str) -> str:
    """A mean with the half-width of its interval."""
    _, factor, form = SHOWN[metric]
    half = factor * (value["high"] - value["mean"])
    return f"{form.format(factor * value['mean'])} ± {form.format(half)}"
