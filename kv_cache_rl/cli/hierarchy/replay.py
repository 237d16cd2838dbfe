"""``hierarchy replay``: policies on one trace, in one tier or several, with the bound beside them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import (
    BELADY,
    ENDED,
    Calibration,
    Capacity,
    Format,
    JitterSeed,
    Selection,
    TraceFile,
    calibration_at,
    policies_of,
    read_trace,
    source_at,
)
from kv_cache_rl.cli.options import OUTPUT, RULES, TIERS, AsJson, Hardware, names_of
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.curves.runs import Pieces
    from kv_cache_rl.sim.hierarchy.spec import Scenario
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

RUN_LENGTH, ENGINE, BOUND = "run-length", "engine", "bound"


def scenarios_of(trace: "Trace", capacities: list[str], tiers: list[str], rules: dict) -> list["Scenario"]:
    """One scenario of one tier per capacity, or the one with these tiers.

    Raises BadInput where neither or both are given.
    """
    from kv_cache_rl.experiments.hierarchy.settings import capacity_of, tiers_of

    if bool(capacities) == bool(tiers):
        raise BadInput(
            "give either --capacity BLOCKS[,BLOCKS...] for a single tier, or --tiers gpu=80GB,host=1TB "
            "for several"
        )
    if capacities:
        return [tiers_of({"gpu": capacity_of(value, trace)}, **rules) for value in capacities]
    sizes: dict[str, int] = {}
    for pair in tiers:
        name, equals, value = pair.partition("=")
        if not equals or name in sizes:
            raise BadInput(
                f"--tiers {pair}: write each tier once as NAME=CAPACITY, such as gpu=80GB,host=1TB"
            )
        sizes[name] = capacity_of(value, trace)
    return [tiers_of(sizes, **rules)]


def replay_rows(
    trace: "Trace",
    scenarios: Sequence["Scenario"],
    policies: Sequence[str],
    seed: int,
    points: int,
    sequences: bool,
    bar: Bar,
) -> list[dict]:
    """A row per scenario and policy.

    LRU on one tier counted in blocks goes over runs, not blocks; the hits are the same.
    """
    from kv_cache_rl.sim.hierarchy.curves.runs import pieces

    lean = not (points or sequences)
    rows: list[dict] = []
    cut = pieces(trace) if trace.chained else None
    for scenario in scenarios:
        bound = bound_row(trace, scenario, cut)
        for policy in policies:
            if policy == BELADY:
                rows.append(bound)
            else:
                fast = lean and counts_blocks(trace, scenario)
                if policy == ENDED and not (fast and trace.chained):
                    raise BadInput(
                        f"{ENDED} counts hits of a prefix-tree trace in one tier of blocks, and nothing "
                        "else; use lru"
                    )
                row = (
                    run_length_row(trace, scenario, policy, cut)
                    if fast and policy in ("lru", ENDED)
                    else engine_row(trace, scenario, policy, seed, points, sequences)
                )
                rows.append(beside_bound(row, bound))
            bar(len(rows), len(scenarios) * len(policies))
    return rows


def counts_blocks(trace: "Trace", scenario: "Scenario") -> bool:
    """Whether a scenario is one tier with room for a number of equal blocks and nothing else."""
    plain = (
        scenario.footprint == scenario.squeeze == "fp16"
        and scenario.promotion == "top"
        and scenario.reserve == "none"
    )
    return plain and len(scenario.tiers) == 1 and isinstance(trace.page_bytes, int) and trace.page_bytes == 0


def head(trace: "Trace", scenario: "Scenario", policy: str, method: str) -> dict[str, Any]:
    from kv_cache_rl.experiments.hierarchy.settings import tier_capacities

    capacities = tier_capacities(scenario)
    return {
        "trace": trace.name,
        "policy": policy,
        "capacity": scenario.tiers[0].capacity,
        "tiers": capacities,
        "method": method,
    }


def hits_row(trace: "Trace", scenario: "Scenario", policy: str, method: str, hits: int) -> dict[str, Any]:
    """A row of a method that counts hits and nothing else."""
    rate = hits / trace.accesses
    counts = {
        "accesses": trace.accesses,
        "hit_rate": rate,
        "overall_hit_rate": rate,
        "miss_count": trace.accesses - hits,
    }
    return {**head(trace, scenario, policy, method), **counts}


def run_length_row(trace: "Trace", scenario: "Scenario", policy: str, cut: "Pieces | None") -> dict[str, Any]:
    from kv_cache_rl.sim.hierarchy.curves.runs import lru

    return hits_row(
        trace, scenario, policy, RUN_LENGTH, lru(trace, scenario.tiers[0].capacity, cut, policy == ENDED)
    )


def bound_row(trace: "Trace", scenario: "Scenario", cut: "Pieces | None") -> dict[str, Any]:
    """What no policy that fetches on demand can beat in the fastest tier."""
    from kv_cache_rl.experiments.hierarchy.cells import bound_capacity
    from kv_cache_rl.sim.hierarchy.curves.bound import min_hits

    name, blocks = bound_capacity(trace, scenario)
    row = hits_row(trace, scenario, BELADY, BOUND, min_hits(trace, blocks, cut))
    return {**row, "bound": name, "bound_hit_rate": row["hit_rate"], "regret_to_bound": 0.0}


def engine_row(
    trace: "Trace", scenario: "Scenario", policy: str, seed: int, points: int, sequences: bool
) -> dict[str, Any]:
    from kv_cache_rl.sim.hierarchy.engine import run

    done = run(trace, scenario, policy, seed=seed)
    more: dict[str, Any] = {"time_line": done.time_line(points)} if points else {}
    if sequences:
        more["by_sequence"] = {name: column.tolist() for name, column in done.by_sequence().items()}
    return {**head(trace, scenario, policy, ENGINE), **done.metrics, **more}


def beside_bound(row: dict[str, Any], bound: dict[str, Any]) -> dict[str, Any]:
    """The row with the bound; without one where pages came before they were asked for."""
    if row.get("prefetch_requests"):
        return {**row, "bound": None, "bound_hit_rate": None, "regret_to_bound": None}
    rate = bound["hit_rate"]
    return {**row, "bound": bound["bound"], "bound_hit_rate": rate, "regret_to_bound": rate - row["hit_rate"]}


def show(rows: Sequence[dict], trace: "Trace") -> None:
    """The rows as a table, the bound under each scenario."""
    timed = any("avg_latency_ms" in row and len(row["tiers"]) > 1 for row in rows)
    columns = {
        "policy": "left",
        "capacity": "right",
        "hit rate": "right",
        "regret": "right",
        "misses": "right",
    }
    if timed:
        columns |= {"ms/request": "right", "p99 ms": "right", "bytes moved": "right"}
    names = sorted({row["bound"] for row in rows if row["bound"]})
    caption = f"regret: points of hit rate below the bound ({'; '.join(names)})" if names else None
    table = plain_table(
        f"{trace.name}: {trace.requests:,} requests, {trace.accesses:,} block accesses", columns, caption
    )
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1]["tiers"] != row["tiers"]
        cells = [
            row["policy"],
            f"{row['capacity']:,}",
            percent(row["hit_rate"]),
            percent(row["regret_to_bound"]),
        ]
        cells.append(f"{row['miss_count']:,}")
        if timed:
            ms = [f"{row[key]:,.4g}" if key in row else "-" for key in ("avg_latency_ms", "latency_p99_ms")]
            cells += [*ms, f"{row['bytes_moved']:,}" if "bytes_moved" in row else "-"]
        bounded = last and row["bound"] and row["policy"] != BELADY
        table.add_row(*cells, end_section=last and not bounded)
        if bounded:
            rest = [
                f"{round((1 - row['bound_hit_rate']) * row['accesses']):,}",
                *(["-"] * 3 if timed else []),
            ]
            name, rate = f"{BELADY} (bound)", percent(row["bound_hit_rate"])
            table.add_row(
                name, f"{row['capacity']:,}", rate, percent(0.0), *rest, style="dim", end_section=True
            )
    console().print(table)


def run_replay(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None,
        options.policy(
            "By comma or repeated; belady: the bound; lru_ended: LRU that knows when a session has ended."
        ),
    ] = None,
    format: Format = None,
    selection: Selection = None,
    jitter_seed: JitterSeed = None,
    seed: Annotated[
        int | None, options.seed("Draws workload:NAME (default: its own seed) and `random` (0).")
    ] = None,
    capacity: Capacity = None,
    tiers: Annotated[
        list[str] | None,
        options.option(
            TIERS,
            "--tiers",
            help="Several tiers, of gpu, peer_gpu, host, nvme: gpu=80GB,host=1TB or in blocks.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        options.model("Gives blocks the bytes of this model's cache: llama-3.1-8b.", TIERS),
    ] = None,
    footprint: Annotated[
        str,
        options.option(
            RULES,
            "--footprint",
            help="Precision that pages are stored in: fp16, fp8, int8, int4, int2.",
        ),
    ] = "fp16",
    squeeze: Annotated[
        str,
        options.option(
            RULES, "--squeeze", help="Compress victims down to this before they leave: fp16, int8, int4."
        ),
    ] = "fp16",
    prefetch: Annotated[
        bool,
        options.option(RULES, "--prefetch", help="Let a policy that predicts fetch pages ahead."),
    ] = False,
    overlap: Annotated[
        bool,
        options.option(RULES, "--overlap", help="Demotions and prefetches cross while the GPU computes."),
    ] = False,
    compute_s: Annotated[
        float,
        options.option(RULES, "--compute-s", help="Seconds of compute after each request.", min=0),
    ] = 0.0,
    recompute: Annotated[
        bool, options.option(RULES, "--recompute", help="Compute anew what takes longer to load.")
    ] = False,
    promotion: Annotated[
        str,
        options.option(
            RULES,
            "--promotion",
            help="Where a page found below goes: top, or one step up (page traces).",
        ),
    ] = "top",
    reserve: Annotated[
        str,
        options.option(
            RULES,
            "--reserve",
            help="Keep free on top ahead of demand: none, 5%, 10%, 20%, or stability.",
        ),
    ] = "none",
    hardware: Hardware = None,
    calibration: Calibration = "literature",
    time_line: Annotated[
        int,
        options.option(
            OUTPUT,
            "--time-line",
            help="Also hit rate and latency in so many parts of the run (--json).",
            min=0,
        ),
    ] = 0,
    by_sequence: Annotated[
        bool,
        options.option(OUTPUT, "--by-sequence", help="Also give the hits of every session (--json)."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replay a trace under policies: hit rates, latencies, bytes, and the regret to the bound.

    One policy at one capacity gives one JSON object, several give {"rows": [...]}.

    Example: kv-cache-rl hierarchy replay workload:rag_burst --policy lru,sieve,belady --capacity 20,40
    """
    from kv_cache_rl.experiments.hierarchy.settings import Bytes, in_blocks, parse_capacity, with_model

    names, source = policies_of(policy), source_at(trace, format, selection, jitter_seed)
    rules: dict[str, Any] = {
        "footprint": footprint,
        "squeeze": squeeze,
        "prefetch": prefetch,
        "overlap": overlap,
    }
    rules |= {"compute_s": compute_s, "recompute": recompute, "promotion": promotion, "reserve": reserve}
    rules |= {"hardware": hardware} if hardware else {}
    rules |= {"calibration": calibration_at(calibration)}
    wanted, levels = names_of(capacity), names_of(tiers)
    loaded = read_trace(source, seed, as_json)
    own = levels or any(isinstance(parse_capacity(value), Bytes) for value in wanted)
    sized = with_model(loaded, model) if model else loaded if own else in_blocks(loaded)
    scenarios = scenarios_of(sized, wanted, levels, rules)
    with Bar("replay", as_json) as bar:
        rows = replay_rows(sized, scenarios, names, seed or 0, time_line, by_sequence, bar)
    if as_json:
        print_json(rows[0] if len(rows) == 1 else {"rows": rows})
    else:
        show(rows, sized)
