"""``landscape``: the floor, every decider and the oracle on fresh scenarios, selected and not."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.eviction.options import Seed, Trace
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import OUTPUT, WORKLOAD, AsJson
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.files import regular, write_json, write_whole

START, END = "<!-- measured: make landscape -->", "<!-- end of measured -->"
START_OF_TRACE = "<!-- measured: windows of a trace -->"


def run_landscape(
    per_tier: Annotated[int, options.option(WORKLOAD, "--per-tier", help="Scenarios per tier.", min=2)] = 30,
    seed: Seed = 4_000_037,
    trace: Trace = None,
    retuned: Annotated[
        Path | None,
        options.option(
            WORKLOAD, "--retuned", help="Raw numbers of a run with the same tuned: spares tuning it again."
        ),
    ] = None,
    page: Annotated[
        Path | None, options.option(OUTPUT, "--page", help="Rewrite the measured part of this Markdown page.")
    ] = None,
    out: Annotated[Path | None, options.out("Also write the raw numbers to this JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure on fresh scenarios whether looking at the cache pays.

    Floor, deciders, oracle, acceptance rate and ablations; exit 1 if a claim fails without a known reason.

    With a trace its windows are played, and the claims are those about the choice of tools and entries.

    Example: kv-cache-rl landscape --per-tier 200 --page scenarios/LANDSCAPE.md
    """
    from rich.markdown import Markdown
    from rich.progress import Progress

    from kv_cache_rl.experiments.eviction.landscape import read_retuned, run
    from kv_cache_rl.reports.eviction.landscape import broken, claims, markdown

    start = START if trace is None else START_OF_TRACE
    around = _around(page, start) if page is not None else None
    weights = read_retuned(retuned) if retuned is not None else None
    with Progress(console=console(), disable=as_json, transient=True) as bar:
        tasks: dict = {}

        def advance(tier: str, done: int) -> None:
            if tier not in tasks:
                tasks[tier] = bar.add_task(tier, total=per_tier)
            bar.update(tasks[tier], completed=done)

        raw = run(per_tier, seed, weights=weights, trace=trace, progress=advance)
    if out is not None:
        write_json(out, raw, indent=None)  # tens of thousands of numbers
    refuse_few(raw)
    found = claims(raw)
    text = markdown(raw)
    if page is not None and around is not None:
        write_whole(page, f"{around[0]}{start}\n{text}\n{END}{around[1]}".encode())
    if as_json:
        print_json({**raw, "claims": found})
    else:
        console().print(Markdown(text))
    if broken(found):
        raise typer.Exit(1)


def _around(page: Path, start: str) -> tuple[str, str]:
    """What stands before and after the measured part of `page`, which may be a new file."""
    try:
        with regular(page).open("a+", encoding="utf-8") as file:
            file.seek(0)
            head, rest = (file.read() or f"{start}\n{END}\n").split(start, 1)
        return head, rest.split(END, 1)[1]
    except (ValueError, IndexError):
        raise BadInput(
            f"{page}: has no lines {start!r} and {END!r}; add them where the tables belong"
        ) from None
    except OSError as error:
        raise BadInput(
            f"{page}: cannot be written ({error.strerror}); check the path and its permissions"
        ) from None


def refuse_few(raw: dict) -> None:
    """Raises BadInput where no scenario of a tier is one of those that claims are made of."""
    from kv_cache_rl.reports.eviction.landscape import selected

    for name, tier in raw["tiers"].items() if "trace" not in raw else ():
        if not selected(tier):
            raise BadInput(
                f"of {len(tier['floor'])} {name} scenarios the oracle is clearly above the floor in none, "
                "and claims are made of those; give a higher --per-tier"
            )
