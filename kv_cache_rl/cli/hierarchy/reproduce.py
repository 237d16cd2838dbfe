"""``hierarchy reproduce``: the seed project's published numbers, golden ones and ours, side by side."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.measured import yes_or_no
from kv_cache_rl.cli.options import WORKLOAD, AsJson, Workers
from kv_cache_rl.cli.terminal import Bar, console, print_json, styled
from kv_cache_rl.reports.tables import plain_table

SHOWN = 20
"""Differences that are printed; --json has all."""


def reproduced(golden: Path | None, workers: int, bar: Bar) -> dict:
    """The sweep and the ablation run again, compared with golden rows, claims and text."""
    from kv_cache_rl.experiments.workers import mapped
    from kv_cache_rl.sim.hierarchy.peer import ablation, reproduce, voids

    reference = reproduce.read_golden(golden) if golden else None
    cells, runs = reproduce.sweep_cells(), ablation.ablation_runs()
    total = len(cells) + len(runs)

    def apply(work, items) -> list:
        return mapped(work, items, workers, lambda _: bar(bar.done + 1, total))

    rows = reproduce.sweep_rows(apply)
    found = reproduce.cells_of(rows)
    means = ablation.aggregate(ablation.ablation_rows(apply))
    hidden = voids.hidden_prefetch()
    return {
        **asdict(reproduce.compare(rows, reference)),
        "claims": [asdict(check) for check in reproduce.check_claims(found, reference)],
        "ablation": {
            "runs": len(runs),
            "statements": [asdict(verdict) for verdict in ablation.check_statements(means)],
            "slower_than_lru": ablation.slower_than_lru(means),
        },
        "void": {
            "policies": asdict(voids.void_policies(found)),
            "prefetch": asdict(voids.void_prefetch(found)),
        },
        "size_jitter": [asdict(row) for row in voids.size_jitter()],
        "hidden_prefetch": asdict(hidden) | {"against_cost_aware": hidden.against_cost_aware},
    }


def show(found: dict) -> None:
    out = console()
    columns = (
        {"claim": "left"}
        | dict.fromkeys(("published", "golden", "ours"), "right")
        | {"unit": "left", "agrees": "left"}
    )
    table = plain_table("kv-hierarchy-lab's headline claims", columns)
    for claim in found["claims"]:
        golden = "-" if claim["golden"] is None else f"{claim['golden']:.6g}"
        agrees = yes_or_no(claim["agrees"])
        table.add_row(
            claim["name"], f"{claim['published']:g}", golden, f"{claim['ours']:.6g}", claim["unit"], agrees
        )
    out.print(table)
    equal = found["rows_equal"]
    out.print(
        f"rows equal to the bit: {equal if equal is not None else 'not all'} of {found['rows']} (against "
        f"{found['against']})"
    )
    for one in found["differences"][:SHOWN]:
        what = f" {', '.join(one['cell'])}: {one['metric']} golden {one['golden']}, ours {one['ours']}"
        out.print(styled("  ", ("differs", "red"), what))
    verdicts = found["ablation"]["statements"]
    table = plain_table(
        f"its regret ablation ({found['ablation']['runs']} runs): what its text says, and its own numbers",
        {"the text": "left", "states": "right", "the numbers": "left"},
    )
    for verdict in verdicts:
        table.add_row(verdict["says"], str(verdict["stated"]), verdict["remark"])
    out.print(table)
    slower = found["ablation"]["slower_than_lru"]
    out.print(
        f"left out of the text: on chat_continuation {len(slower)} of 18 regret variants are slower than lru"
    )
    void = found["void"]
    out.print(
        f"void comparisons of its sweep: {len(void['policies']['void'])} of {void['policies']['of']} cells "
        f"tie; {len(void['prefetch']['void'])} of {void['prefetch']['of']} rows that ignore the prefetch "
        "switch"
    )
    jitter = {row["policy"]: row for row in found["size_jitter"]}
    mine, base = jitter["cost_aware"], jitter["lru"]
    out.print(
        f"periodic_reuse, quarter capacity: cost_aware misses {mine['misses']}, lru {base['misses']}; with "
        f"pages of equal size {mine['equal_misses']} and {base['equal_misses']}"
    )
    against = ", ".join(
        f"{name} {value:+.1f} %" for name, value in found["hidden_prefetch"]["against_cost_aware"].items()
    )
    out.print(f"prefetch_friendly, latency of predictive against cost_aware by what is waited for: {against}")


def run_reproduce(
    golden: Annotated[
        Path | None,
        options.option(
            WORKLOAD,
            "--golden",
            help="Golden rows (default_sweep_metrics.json); default: their digest.",
        ),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Run kv-hierarchy-lab's sweep and ablation again, bit for bit.

    210 rows and 198 runs; exit 1 if a row differs.

    Example: kv-cache-rl hierarchy reproduce --json
    """
    from kv_cache_rl.experiments.workers import cores

    with Bar("reproduce", as_json) as bar:
        found = reproduced(golden, workers or cores(), bar)
    if as_json:
        print_json(found)
    else:
        show(found)
    if found["rows_equal"] != found["rows"]:
        raise typer.Exit(FAILED)
