"""``hierarchy sweep`` and ``hierarchy ablation``: many replays on all cores or on Ray, resumed where they
stopped.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.amounts import amount
from kv_cache_rl.cli import options
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.hierarchy.options import Ray
from kv_cache_rl.cli.options import OUTPUT, RULES, AsJson, Workers, command_line
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json, styled
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.experiments.hierarchy.definition import Sweep

FREE = "the bytes of its blocks are not known, and transfers count as free; give the scenario a model"
Out = Annotated[
    Path, options.out("Folder for the rows and the artifacts; a sweep interrupted there goes on.")
]
Seeds = Annotated[
    list[int] | None,
    options.seed("Seeds instead of those of the definition; repeat for several."),
]


def swept(sweep: "Sweep", out: Path, workers: int | None, ray: str | None, quiet: bool) -> list[dict]:
    """The rows of a sweep, finished in its folder.

    Raises Interrupted, or BadInput where the disk takes no more, with what is saved.
    """
    from kv_cache_rl.experiments.hierarchy.sweep import run_sweep
    from kv_cache_rl.experiments.workers import cores

    with Bar(sweep.name, quiet) as bar:

        def go_on() -> str:
            rows = f"{bar.done:,} of {bar.total:,} rows"
            return f"{rows} are saved in {out}; the same command goes on from there"

        with stoppable(out, go_on):
            return run_sweep(sweep, out, workers or cores(), ray, command_line(), bar)


def facts(sweep: "Sweep", rows: Sequence[dict], out: Path, also: Sequence[str] = ()) -> dict:
    """What came of a sweep, for --json; `also`: files that were written beside those of every sweep."""
    from kv_cache_rl.experiments.hierarchy.artifacts import written
    from kv_cache_rl.experiments.hierarchy.comparisons import void_counts
    from kv_cache_rl.experiments.journal import JOURNAL

    return {
        "sweep": sweep.name,
        "folder": str(out),
        "rows": len(rows),
        "failed_rows": sum(row["error"] is not None for row in rows),
        "void": void_counts(rows),
        "files": sorted({JOURNAL, *written(sweep), *also}),
    }


def tell(found: dict, rows: Sequence[dict]) -> None:
    """What came of a sweep, on the terminal."""
    out = console()
    out.print(best_table(rows))
    void = found["void"]
    out.print(
        f"void comparisons: {void['policies']['void']} of {void['policies']['of']} cells in which all "
        f"policies tie, {void['prefetch']['void']} of {void['prefetch']['of']} rows that ignore the "
        "prefetch switch"
    )
    out.print(f"{found['rows']:,} rows in {found['folder']}: {', '.join(found['files'])}", soft_wrap=True)
    for name in sorted({row["workload"] for row in rows if row.get("free_transfers")}):
        out.print(f"{name}: {FREE}", soft_wrap=True)
    for error in sorted({row["error"] for row in rows if row["error"]}):
        out.print(styled(("failed", "red"), f" {error}"), soft_wrap=True)


def best_table(rows: Sequence[dict]):
    """Per scenario and workload: the policy with the lowest latency, means over the seeds, and what lru and
    the bound have.
    """
    cells: dict[tuple, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["metrics"]:
            cells[row["scenario"], row["workload"]][row["policy"]].append(row)
    columns = {"scenario": "left", "workload": "left", "fastest": "left"}
    columns |= dict.fromkeys(
        ("ms/request", "hit rate", "reached", "lru ms", "lru hit rate", "bound"), "right"
    ) | {"void": "left"}
    table = plain_table(
        "fastest policy, mean over seeds",
        columns,
        "hit rate: of the fastest tier; reached: found in a tier and not computed anew; "
        "void: nothing is compared there, see void_reason in results.json",
    )
    for (scenario, workload), policies in sorted(cells.items()):
        latency = {name: mean_of(mine, "avg_latency_ms") for name, mine in policies.items()}
        best = min(latency, key=lambda name: (latency[name], name))
        lru = policies.get("lru", [])
        bounds = [row["bound_hit_rate"] for row in policies[best] if row["bound_hit_rate"] is not None]
        void = sorted(set.intersection(*(set(row["void"]) for row in policies[best])))
        reference = (
            [f"{latency['lru']:.4g}", percent(mean_of(lru, "overall_hit_rate"))] if lru else ["-", "-"]
        )
        mine = [f"{latency[best]:.4g}", percent(mean_of(policies[best], "overall_hit_rate"))]
        mine.append(percent(reached_of(policies[best])))
        tied = "all" if "policies" in void else best
        table.add_row(
            scenario,
            workload,
            tied,
            *mine,
            *reference,
            percent(fmean(bounds) if bounds else None),
            ", ".join(void),
        )
    return table


def reached_of(rows: Sequence[dict]) -> float | None:
    """Mean share of accesses that no model computed; None under semantics that do not count it."""
    from kv_cache_rl.sim.hierarchy.score import reached_rate

    rates = [reached_rate(row["metrics"]) for row in rows if "recompute_rate" in row["metrics"]]
    return fmean(rates) if rates else None


def mean_of(rows: Sequence[dict], metric: str) -> float:
    return fmean(row["metrics"][metric] for row in rows)


def run_sweep_command(
    definition: Annotated[
        Path | None,
        typer.Argument(
            help="A sweep definition (TOML); default: the committed scenarios/hierarchy/default.toml."
        ),
    ] = None,
    out: Out = Path("runs/hierarchy/sweep"),
    seed: Seeds = None,
    workers: Workers = None,
    ray: Ray = None,
    keys: Annotated[
        bool,
        options.option(OUTPUT, "--keys", help="Print every key that a definition may have, and end."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replay workloads x scenarios x policies x seeds, and go on where it stopped.

    One core, all cores and Ray give the same rows; exit 1 if a row failed.

    A definition has name, about, seeds, policies, [[workloads]] and [[scenarios]]; --keys explains them all.

    Example: kv-cache-rl hierarchy sweep --out runs/hierarchy/default --seed 7
    """
    from kv_cache_rl.experiments.hierarchy.definition import committed, read_sweep

    if keys:
        tell_keys(as_json)
        return
    sweep = read_sweep(definition or committed("default"))
    finish(sweep.over(tuple(dict.fromkeys(seed))) if seed else sweep, out, workers, ray, as_json)


def tell_keys(as_json: bool) -> None:
    """Prints the keys of a definition."""
    from kv_cache_rl.experiments.hierarchy.keys import TABLES, key_rows

    if as_json:
        print_json({"keys": [{"where": where, "key": name} | asdict(key) for where, name, key in key_rows()]})
        return
    for where, keys in TABLES.items():
        columns = dict.fromkeys(("key", "kind", "default", "example", "meaning"), "left")
        table = plain_table(f"keys {where}", columns)
        for name, key in keys.items():
            table.add_row(name, key.kind, key.default, key.example, key.says)
        console().print(table)


def finish(sweep: "Sweep", out: Path, workers: int | None, ray: str | None, as_json: bool) -> None:
    rows = swept(sweep, out, workers, ray, as_json)
    found = facts(sweep, rows, out)
    if as_json:
        print_json(found)
    else:
        tell(found, rows)
    if found["failed_rows"]:
        raise typer.Exit(FAILED)


def run_ablation(
    semantics: Annotated[
        str,
        options.option(
            RULES, "--semantics", help="default, or kv-hierarchy-lab: the seed project's own 198 runs."
        ),
    ] = "default",
    out: Out = Path("runs/hierarchy/ablation"),
    seed: Seeds = None,
    workers: Workers = None,
    ray: Ray = None,
    as_json: AsJson = False,
) -> None:
    """Run the regret ablation: weight x horizon, mean ± std over three seeds.

    On three workloads and two scenarios.

    Example: kv-cache-rl hierarchy ablation --semantics kv-hierarchy-lab --out runs/hierarchy/ablation
    """
    from kv_cache_rl.experiments.hierarchy.ablation import FLAT, MEANS, RAW, regret_ablation, write_tables
    from kv_cache_rl.experiments.hierarchy.settings import LAB, SEMANTICS
    from kv_cache_rl.sim.hierarchy.peer.ablation import SEEDS, check_statements

    choose("semantics", semantics, SEMANTICS)
    sweep = regret_ablation(semantics, tuple(dict.fromkeys(seed or SEEDS)))
    rows = swept(sweep, out, workers, ray, as_json)
    means = write_tables(out, rows)
    complete = semantics == LAB and sweep.seeds == SEEDS
    verdicts = check_statements(means) if complete else []
    found = facts(sweep, rows, out, (RAW, FLAT, MEANS)) | {
        "semantics": semantics,
        "seeds": list(sweep.seeds),
        "means": means,
    }
    found["statements"] = [
        {"says": v.says, "stated": v.stated, "agrees": v.agrees, "remark": v.remark} for v in verdicts
    ]
    if as_json:
        print_json(found)
        return
    console().print(means_table(means, found))
    for verdict in verdicts:
        mark = ("✓", "green") if verdict.agrees else ("✗", "red")
        console().print(styled(mark, f" {verdict.says}: {verdict.remark}"), soft_wrap=True)


def means_table(means: Sequence[dict], found: dict):
    columns = {"scenario": "left", "workload": "left", "policy": "left"}
    columns |= dict.fromkeys(("ms/request", "hit rate", "misses", "moved"), "right") | {"void": "left"}
    title = f"regret ablation, {found['semantics']} semantics, seeds {', '.join(map(str, found['seeds']))}"
    several = len(found["seeds"]) > 1
    caption = "± is the sample standard deviation over the seeds" if several else None
    table = plain_table(title, columns, caption)
    for line in means:

        def cell(metric: str, text: Callable[[float], str], line: dict = line) -> str:
            spread = f" ± {text(line[f'{metric}_std'])}" if several else ""
            return f"{text(line[f'{metric}_mean'])}{spread}"

        names = [line[key] for key in ("scenario", "workload", "policy")]
        numbers = [cell(metric, "{:.3f}".format) for metric in ("avg_latency_ms", "overall_hit_rate")]
        numbers += [cell("miss_count", "{:,.0f}".format), cell("bytes_moved", amount)]
        table.add_row(*names, *numbers, ", ".join(line["void"]))
    return table
