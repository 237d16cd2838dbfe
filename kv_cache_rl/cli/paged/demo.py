"""``paged demo``: what paging promises, checked on the real model before your eyes."""

from typing import TYPE_CHECKING

import typer

from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.paged.options import Model, Seed, load_model, load_tokens
from kv_cache_rl.cli.terminal import Bar, console, print_json, styled
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.paged.measure.checks import Check

DONE = "All demos completed successfully!"
TEXT_TOKENS = 600


def plain(check: "Check") -> dict:
    """A check as plain values."""
    names = ("name", "value", "low", "high", "unit", "remark", "passed")
    return {name: getattr(check, name) for name in names}


def limits(check: "Check") -> str:
    """The range a check must keep, in words."""
    if check.low == check.high:
        return f"= {check.low:g}"
    return f"≤ {check.high:g}" if check.low == 0 else f"{check.low:g} to {check.high:g}"


def show(name: str, checks: list["Check"]) -> None:
    """A part of the demo as a table."""
    table = plain_table(
        name,
        {"check": "left", "measured": "right", "limit": "right", "": "left", "ok": "left", "remark": "left"},
    )
    for check in checks:
        table.add_row(
            check.name,
            f"{check.value:.4g}",
            limits(check),
            check.unit,
            "ok" if check.passed else styled(("FAILED", "red")),
            check.remark,
        )
    console().print(table)


def run_demo(model: Model = None, seed: Seed = 0, as_json: AsJson = False) -> None:
    """Check on the real model what paging promises.

    Correctness, memory, copy-on-write beams, swap and recompute, quantised blocks.

    Exit 1 where a check fails. With --model all of it runs on that checkpoint.

    Example: kv-cache-rl paged demo --seed 1
    """
    decoder = load_model(model)
    text = [*decoder.tokenizer.opening, *load_tokens(decoder, None, TEXT_TOKENS)]
    from kv_cache_rl.paged.measure.checks import PARTS, run_checks

    found: dict[str, list[Check]] = {}
    with Bar("demo", as_json) as bar:
        for name, checks in run_checks(decoder, text, seed):
            found[name] = checks
            bar(len(found), len(PARTS))
            if not as_json:
                show(name, checks)
    failed = [check.name for checks in found.values() for check in checks if not check.passed]
    if as_json:
        parts = {name: [plain(check) for check in checks] for name, checks in found.items()}
        print_json({"model": decoder.geometry.name, "seed": seed, "parts": parts, "failed": failed})
    if failed:
        typer.echo(f"failed: {'; '.join(failed)}", err=True)
        raise typer.Exit(FAILED)
    if not as_json:
        typer.echo(DONE)
