"""``hierarchy curve``: hit rate by capacity, in bytes and in blocks, a line per policy under the bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import amount, counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import (
    ENDED,
    DecodeWrites,
    Format,
    JitterSeed,
    Sampled,
    Selection,
    TraceFile,
    policies_of,
    read_trace,
    source_at,
)
from kv_cache_rl.cli.options import TIERS, AsJson, Workers
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.experiments.hierarchy.capacity import Curves, Sampling


UNEVEN = "its pages differ in size: each counts as one of the mean; hierarchy replay --capacity counts bytes"


def run_curve(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None,
        options.policy("By comma or repeated; lru_ended: LRU that frees what a session held that has ended."),
    ] = None,
    capacity_range: Annotated[
        str | None,
        options.option(
            TIERS,
            "--capacity-range",
            help="FROM:TO in blocks, shares or bytes (10GB:400GB); default: 0.5% of the blocks to all.",
        ),
    ] = None,
    points: Annotated[
        int,
        options.option(
            TIERS, "--points", help="Capacities, evenly spaced in the logarithm.", min=1, max=1000
        ),
    ] = 16,
    sampled: Sampled = None,
    model: Annotated[
        str | None, options.geometry("Gives blocks the bytes of this model's cache", TIERS)
    ] = None,
    format: Format = None,
    selection: Selection = None,
    jitter_seed: JitterSeed = None,
    decode_writes: DecodeWrites = True,
    seed: Annotated[
        int | None, options.seed("Draws workload:NAME (default: its own seed) and `random` (0).")
    ] = None,
    workers: Workers = None,
    plot: Annotated[Path | None, options.plot("Draw the curves")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the hit rate of policies by capacity, in bytes and in blocks, under the bound.

    LRU is exact at every capacity from one pass; the bound and the other policies are replayed at each.

    Example: kv-cache-rl hierarchy curve trace.jsonl --policy lru,s3fifo --model qwen3-8b --plot curve.png
    """
    from kv_cache_rl.experiments.hierarchy.capacity import capacity_curves
    from kv_cache_rl.experiments.hierarchy.charges import how_charged
    from kv_cache_rl.experiments.hierarchy.sweep import warm_up
    from kv_cache_rl.experiments.workers import cores

    options.picture(plot)
    if sampled is not None and not 0 < sampled < 1:
        raise BadInput(f"--sampled is {sampled}; give a share above 0 and below 1, or leave it out")
    names = policies_of(policy, "lru,s3fifo,arc", more=(ENDED,))
    ends = None if capacity_range is None else ends_of(capacity_range)
    source, count = source_at(trace, format, selection, jitter_seed, decode_writes), workers or cores()
    read_trace(source, seed, as_json)
    if count > 1:
        warm_up()
    with Bar("curve", as_json) as bar:
        found = capacity_curves(source, names, ends, points, model, seed, count, bar, sampled)
    if plot is not None:
        draw(found, plot)
    charged = how_charged(found.trace, model, found.block_bytes or 0)
    if as_json:
        told = {"charged": charged} if charged else {}
        print_json(found.to_json() | told | {"plot": None if plot is None else str(plot)})
        return
    show(found, charged)
    if plot is not None:
        typer.echo(plot)


def ends_of(text: str) -> tuple[str, str]:
    """The two capacities of a range. Raises BadInput where there are not two."""
    low, colon, high = text.partition(":")
    if not (low.strip() and colon and high.strip()) or ":" in high:
        raise BadInput(f"--capacity-range {text}: write FROM:TO, such as 10GB:400GB, 100:20000 or 1%:50%")
    return low, high


def show(found: "Curves", charged: str) -> None:
    """The curves as a table, a row per capacity; `charged`: what a block is charged, in words."""
    size, trace = found.block_bytes, found.trace
    columns = {"capacity": "right"} if size else {}
    columns |= dict.fromkeys(("blocks", *found.rates, "bound"), "right")
    blocks = f"{trace.blocks:,} blocks" + (f" of {amount(size)}" if size else "")
    title = f"{trace.name}: {counted(trace.requests, 'request')}, {trace.accesses:,} block accesses, {blocks}"
    notes = [f"hits of all block accesses; bound: {found.bound_name}"]
    notes += [] if size else ["name a --model to have the capacities in bytes"]
    notes += [charged] if charged else []
    notes += [UNEVEN] if found.uneven else []
    notes += [] if found.sampling is None else [sampling_note(found.sampling)]
    table = plain_table(title, columns, "\n".join(notes))
    for index, capacity in enumerate(found.capacities):
        cells = [amount(size * capacity)] if size else []
        rates = [*(of[index] for of in found.rates.values()), found.bound[index]]
        table.add_row(*cells, f"{capacity:,}", *map(percent, rates))
    console().print(table)


def sampling_note(sampling: "Sampling") -> str:
    """How far off the sampled hit rates are, in words."""
    expected = ", ".join(f"{name} {100 * error:.2f}" for name, error in sampling.expected.items())
    return (
        f"{sampling.rate:g} of the blocks sampled for all but LRU and the bound; points of hit rate off, on "
        f"average: expected {expected}; measured lru {100 * sampling.lru:.2f}"
    )


def draw(found: "Curves", path: Path) -> None:
    """Draws the curves into a file."""
    from kv_cache_rl.reports.canvas import save
    from kv_cache_rl.reports.hierarchy.capacity import capacity_plot

    figure = capacity_plot(
        f"{found.trace.name}: hit rate by capacity",
        found.capacities,
        found.rates,
        found.bound,
        found.bound_name,
        found.exact,
        found.block_bytes,
    )
    save(figure, path)
