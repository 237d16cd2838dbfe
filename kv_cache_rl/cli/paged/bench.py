"""``paged bench``: every promised figure beside its target, two plots and a JSON."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.measured import number, yes_or_no
from kv_cache_rl.cli.options import OUTPUT, AsJson, Check, Fast, names_of
from kv_cache_rl.cli.paged.options import Model, Seed, load_model, load_tokens, probe
from kv_cache_rl.cli.terminal import Bar, console, is_terminal, print_json
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.paged.measure.figures import Figure

PLOTS = {"throughput": "bench_throughput.png", "fragmentation": "bench_fragmentation.png"}
NAMES = (
    "memory", "throughput", "fragmentation", "beam", "parallel", "copy-on-write", "preemption", "attention",
    "quality", "gpu",
)  # fmt: skip
"""Parts of the bench, for a help that loads no torch: those of `paged.measure.figures.PARTS`."""
RESULTS = "bench.json"
TEXT_TOKENS = 20_000


def target(figure: "Figure") -> str:
    """The range a figure should be in, in words."""
    if figure.low is not None and figure.high is not None:
        return f"{figure.low:g} to {figure.high:g}"
    if figure.high is not None:
        return f"≤ {figure.high:g}"
    return "-" if figure.low is None else f"≥ {figure.low:g}"


def show(figures: list["Figure"], machine: dict) -> None:
    """All figures as a table."""
    columns = {
        "measured": "left",
        "value": "right",
        "unit": "left",
        "target": "right",
        "met": "right",
        "remark": "left",
    }
    table = plain_table("paged bench", columns)
    for figure in figures:
        value = "-" if figure.value is None else number(figure.value)
        met = yes_or_no(figure.met)
        table.add_row(figure.name, value, figure.unit, target(figure), met, figure.remark)
    out = console()
    out.print(table)
    out.print(", ".join(f"{key} {value}" for key, value in machine.items() if value), soft_wrap=True)


def drawn(data: dict, outdir: Path, headless: bool) -> list[Path]:
    """The plots of what was measured, written, and shown where there is a screen."""
    from kv_cache_rl.reports import paged
    from kv_cache_rl.reports.hierarchy import save

    draw = {"throughput": paged.throughput_figure, "fragmentation": paged.fragmentation_figure}
    files = [save(draw[part](data[part]), outdir / name) for part, name in PLOTS.items() if part in data]
    if not headless and is_terminal(sys.stdout):
        for path in files:
            typer.launch(str(path))
    return files


def run_bench(
    fast: Fast = False,
    headless: Annotated[
        bool, options.option(OUTPUT, "--headless", help="Write the plots, open none.")
    ] = False,
    out: Annotated[Path, options.out("Folder for the plots and bench.json.")] = Path("paged_bench"),
    outdir: Annotated[Path | None, typer.Option("--outdir", hidden=True, help="The same as --out.")] = None,
    part: Annotated[list[str] | None, options.part(NAMES)] = None,
    check: Check = False,
    model: Model = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure memory, throughput, fragmentation, sharing, preemption, attention and quality.

    One thread, CPU seconds; each figure stands beside its target.

    Example: kv-cache-rl paged bench --fast --headless --out paged_bench
    """
    folder = outdir or out
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; give a folder")
    decoder = load_model(model)
    from kv_cache_rl.cli.measured import machine_facts
    from kv_cache_rl.paged.measure.figures import PARTS, Setup, run_parts

    parts = [choose("part", name, PARTS) for name in names_of(part) or PARTS]
    if not PLOTS.keys().isdisjoint(parts):
        need(f"drawing {' and '.join(PLOTS)}", "matplotlib")
    probe(folder / RESULTS)
    setup = Setup(decoder, load_tokens(decoder, None, TEXT_TOKENS), seed, fast)
    figures: list[Figure] = []
    data: dict[str, dict] = {}
    with Bar("bench", as_json) as bar:
        bar(0, len(parts))
        for name, found, behind in run_parts(setup, parts):
            figures += found
            data[name] = behind
            bar(len(data), len(parts))
    machine = machine_facts()
    files = [str(path) for path in drawn(data, folder, headless)]
    head = {"model": decoder.geometry.name, "seed": seed, "fast": fast, "machine": machine}
    report = {**head, "figures": [figure.to_json() for figure in figures], "data": data}
    write_json(folder / RESULTS, report)
    files.append(str(folder / RESULTS))
    if as_json:
        print_json({**report, "files": files})
    else:
        show(figures, machine)
        typer.echo(f"written: {', '.join(files)}")
    missed = [figure.name for figure in figures if figure.met is False]
    if check and missed:
        typer.echo(f"missed: {'; '.join(missed)}", err=True)
        raise typer.Exit(FAILED)
