"""``stability validate``: the predicted service rates against those at which the simulator's queues turn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kv_cache_rl.cli import options
from kv_cache_rl.cli.options import WORKLOAD, AsJson, Fast, Workers, names_of
from kv_cache_rl.cli.saved import refuse_replacing
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.extras import need
from kv_cache_rl.files import write_json

if TYPE_CHECKING:
    from rich.console import Console

RESULTS = "validation.json"


def run_validate(
    workload: Annotated[
        list[str] | None,
        options.option(
            WORKLOAD,
            "--workload",
            "-w",
            help="A workload by name; by comma or repeated. Default: all five.",
        ),
    ] = None,
    trace: Annotated[
        list[Path] | None,
        options.trace(
            "Measure on this trace file, instead of the workload fitted to its kind; repeat for several."
        ),
    ] = None,
    seed: Annotated[int, options.seed("Draws arrivals and lengths.", high=2**31 - 1)] = 0,
    fast: Fast = False,
    workers: Workers = None,
    out: Annotated[
        Path | None, options.out(f"Folder for {RESULTS}, boundary.png and hysteresis.png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict the service rate of five workloads, and measure it in the simulator.

    Measured is the rate at which the queue turns; the gap is explained.

    Example: kv-cache-rl stability validate --fast --out runs/stability
    """
    from kv_cache_rl.experiments.stability.hysteresis import FULL_LOOP, QUICK_LOOP, hysteresis
    from kv_cache_rl.experiments.stability.validation import FULL, QUICK, chosen_workloads, golden, validate
    from kv_cache_rl.experiments.workers import cores

    if out is not None:
        need("drawing figures into --out", "matplotlib")
        refuse_replacing(out / RESULTS, {"seed": seed, "fast": fast})
    used = workers or cores()
    workloads = chosen_workloads(names_of(workload), [str(path) for path in trace or ()])
    with Bar("boundaries", as_json) as bar:
        rows = validate(workloads, seed, QUICK if fast else FULL, used, bar)
    with Bar("hysteresis", as_json) as bar:
        loop = hysteresis(seed, *(QUICK_LOOP if fast else FULL_LOOP), workers=used, progress=bar)
    found: dict[str, Any] = {
        "seed": seed,
        "fast": fast,
        "rows": [row.to_json() for row in rows],
        "golden": golden(),
        "hysteresis": loop.to_json(),
    }
    found["files"] = [str(path) for path in written(found, out)] if out else []
    if as_json:
        print_json(found)
    else:
        tell(found)


def written(found: dict[str, Any], folder: Path) -> list[Path]:
    """The results and the figures, in a folder."""
    from kv_cache_rl.reports.stability import plots

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    write_json(path, found)
    return [path, *plots(found, folder)]


def tell(found: dict[str, Any]) -> None:
    """Everything, on the terminal."""
    out = console()
    for row in found["rows"]:
        if row["transformation"]:
            out.print(f"{row['workload']}: {row['source']}", soft_wrap=True)
            out.print(f"  {'; '.join(row['transformation'])}", soft_wrap=True)
    tell_boundaries(found["rows"], out)
    tell_causes(found["rows"], out)
    tell_golden(found["golden"], out)
    tell_loop(found["hysteresis"], out)
    for path in found["files"]:
        out.print(path, soft_wrap=True)


def tell_boundaries(rows: list[dict], out: "Console") -> None:
    """Predicted and simulated, side by side."""
    from kv_cache_rl.reports.tables import plain_table

    columns = {"workload": "left", "E[g]": "right", "δ": "right", "b, ms": "right", "μ predicted": "right"}
    columns |= {"simulated": "right", "95 %": "right", "gap": "right", "optimistic": "right", "gap ": "right"}
    columns |= {"median b": "right", "gap  ": "right"}
    caption = (
        "requests per second · simulated: where the queue turns from draining to growing, admission by "
        "projected use · optimistic: admission of whatever fits, recompute preemption · median b: μ by "
        "the median iteration instead of the mean, which misses the prefill that other iterations carry"
    )
    table = plain_table("Theory against simulation", columns, caption)
    for row in rows:
        low, high = row["reserve"]["interval"]
        table.add_row(
            row["workload"],
            f"{row['mean_footprint']:,.0f}",
            f"{row['delta']:.3f}",
            f"{row['batch_ms']:.1f}",
            f"{row['predicted']:.3f}",
            f"{row['simulated']:.3f}",
            f"{low:.3f}-{high:.3f}",
            signed(row["gap"]),
            f"{row['optimistic']['simulated']:.3f}",
            signed(row["optimistic"]["gap"]),
            f"{row['predicted_by_median_batch']:.3f}",
            signed(row["gap_by_median_batch"]),
        )
    out.print(table)


def tell_causes(rows: list[dict], out: "Console") -> None:
    """What simulated / predicted is the product of, for all three admission rules."""
    from kv_cache_rl.reports.tables import plain_table

    columns = {
        "workload": "left",
        "admission": "left",
        "gap": "right",
        "memory filled": "right",
        "formula / held": "right",
    }
    columns |= {"b / mean b": "right", "preemptions": "right", "growth from empty begins": "right"}
    caption = (
        "1 + gap is memory filled x formula / held x b / mean b, which are measured on other seeds · "
        "held: token-iterations of a request, whole blocks and preempted work included · footprint: "
        "literal reservation of every request's final footprint"
    )
    table = plain_table("Why", columns, caption)
    for row in rows:
        for rule in ("reserve", "optimistic", "footprint"):
            column = row[rule]
            factors = [f"{value:.3f}" for value in column["factors"].values()]
            swept = column["swept_bracket"]
            begins = (
                "-"
                if swept is None
                else " - ".join("?" if at is None else f"{at / row['predicted']:.2f} μ" for at in swept)
            )
            name = row["workload"] if rule == "reserve" else ""
            preempted = f"{column['preemptions_per_request']:.2f}"
            table.add_row(name, rule, signed(column["gap"]), *factors, preempted, begins)
    out.print(table)


def tell_golden(rows: list[dict], out: "Console") -> None:
    """The paper's numbers, and ours for the same."""
    from kv_cache_rl.reports.tables import plain_table

    columns = {
        "workload": "left",
        "E[g] exact": "right",
        "published": "right",
        "off": "right",
        "b implied, ms": "right",
    }
    columns |= {
        "μ exact": "right",
        "published ": "right",
        "off ": "right",
        "their server": "right",
        "their gap": "right",
    }
    caption = "published footprints are sample means; b follows from the published rate and footprint"
    table = plain_table("Published golden values (arXiv:2605.04595)", columns, caption)
    for row in rows:
        table.add_row(
            row["workload"],
            f"{row['footprint']:,.0f}",
            f"{row['published_footprint']:,.0f}",
            signed(row["footprint_off"], 2),
            f"{row['implied_batch_ms']:.1f}",
            f"{row['rate']:.3f}",
            f"{row['published_rate']:.3f}",
            signed(row["rate_off"], 2),
            f"{row['published_measured']:.3f}",
            signed(row["published_gap"]),
        )
    out.print(table)


def tell_loop(loop: dict, out: "Console") -> None:
    """Where the service collapsed and recovered, and where theory says so."""
    region = loop["bistable_between"]
    theory = "at no rate" if region is None else f"from {region[0]:.2f} to {region[1]:.2f}/s"
    out.print(f"Hysteresis with returning users: two stable states by theory {theory}", soft_wrap=True)
    for said, name in (
        ("most history lost on the way up", "collapsed_at"),
        ("found again on the way down", "recovered_at"),
    ):
        rates = ", ".join("never" if rate is None else f"{rate:.2f}" for rate in loop[name])
        out.print(f"  {said} at {rates}/s", soft_wrap=True)


def signed(share: float, digits: int = 1) -> str:
    """A gap in per cent, with its sign."""
    return f"{100 * share:+.{digits}f} %"
