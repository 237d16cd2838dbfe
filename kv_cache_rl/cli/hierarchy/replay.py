"""``hierarchy replay``: policies on one trace, in one tier or several, with the bound beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import (
    BELADY,
    Calibration,
    Capacity,
    DecodeWrites,
    Format,
    JitterSeed,
    Selection,
    TraceFile,
    WarmUp,
    calibration_at,
    policies_of,
    read_trace,
    source_at,
)
from kv_cache_rl.cli.hierarchy.over_time import draw, to_draw
from kv_cache_rl.cli.hierarchy.rows import (
    hits_rows,
    offload_line,
    refuse_beside_hits,
    refuse_idle,
    refuse_precision,
    replay_rows,
    written_blocks,
)
from kv_cache_rl.cli.hierarchy.sizes import moved_in, size_in
from kv_cache_rl.cli.options import OUTPUT, RULES, TIERS, AsJson, Hardware, names_of
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.spec import Scenario
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

FREE = "name a --model: the bytes of these blocks are not known, and transfers count as free"


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
        rooms = dict.fromkeys(capacity_of(value, trace) for value in capacities)  # 8MiB may be 4 blocks
        return [tiers_of({"gpu": room}, **rules) for room in rooms]
    sizes: dict[str, int] = {}
    for pair in tiers:
        name, equals, value = pair.partition("=")
        if not equals or name in sizes:
            raise BadInput(
                f"--tiers {pair}: write each tier once as NAME=CAPACITY, such as gpu=80GB,host=1TB"
            )
        sizes[name] = capacity_of(value, trace)
    return [tiers_of(sizes, **rules)]


def show(rows: Sequence[dict], trace: "Trace", free: bool, more: Sequence[str]) -> None:
    """The rows as a table, the bound under each scenario.

    Args:
        free: whether transfers take no time.
        more: notes under it, such as what a block is charged.
    """
    timed = any("avg_latency_ms" in row and len(row["tiers"]) > 1 for row in rows)
    tiers = list(rows[0]["tiers"])
    top = f"{tiers[0]} hits" if len(tiers) > 1 else "hit rate"
    lower = {f"{tier} hits": "right" for tier in tiers[1:]} | ({"reached": "right"} if tiers[1:] else {})
    columns = {"policy": "left", "capacity": "right", top: "right", **lower}
    columns |= {"regret": "right", "misses": "right"}
    if timed:
        columns |= {"ms/request": "right", "p99 ms": "right", "moved": "right"}
    names = sorted({row["bound"] for row in rows if row["bound"]})
    of = f"{tiers[0]} hits" if lower else "hit rate"
    notes = [f"regret: points of {of} below the bound ({'; '.join(names)})"] if names else []
    notes += ["reached: found in a tier and not computed anew"] if lower else []
    notes += [FREE] if free else []
    notes += more
    table = plain_table(title_of(trace), columns, "\n".join(notes) or None)
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1]["tiers"] != row["tiers"]
        cells = [row["policy"], size_in(row["capacity"], trace), percent(row["hit_rate"])]
        cells += below_cells(row)
        cells.append(percent(row["regret_to_bound"]))
        cells.append(f"{row['miss_count']:,}")
        if timed:
            ms = [f"{row[key]:,.4g}" if key in row else "-" for key in ("avg_latency_ms", "latency_p99_ms")]
            cells += [*ms, moved_in(row["bytes_moved"], trace) if "bytes_moved" in row else "-"]
        bounded = last and row["bound"] and row["policy"] != BELADY
        table.add_row(*cells, end_section=last and not bounded)
        if bounded:
            rest = [
                f"{round((1 - row['bound_hit_rate']) * row['accesses']):,}",
                *(["-"] * 3 if timed else []),
            ]
            name, rate = f"{BELADY} (bound)", percent(row["bound_hit_rate"])
            blank = ["-"] * len(lower)
            cells = [name, size_in(row["capacity"], trace), rate, *blank, percent(0.0), *rest]
            table.add_row(*cells, style="dim", end_section=True)
    console().print(table)
    for row in rows:
        if "offload" in row:
            console().print(offload_line(row), soft_wrap=True)


def title_of(trace: "Trace") -> str:
    """What is replayed: how much, what decoding writes, what does not count."""
    parts = [counted(trace.requests, "request"), f"{trace.accesses:,} block accesses"]
    if trace.writes is not None:
        parts.append(f"{written_blocks(trace):,} blocks written by decoding")
    if trace.warm_up:
        parts.append(f"after a warm-up of {counted(trace.warm_up, 'request')}")
    return f"{trace.name}: {', '.join(parts)}"


def below_cells(row: dict) -> list[str]:
    """The hits of each lower tier and what reached the model without being computed; none for one tier."""
    lower = list(row["tiers"])[1:]
    if not lower:
        return []
    if "offload" not in row:
        return ["-"] * (len(lower) + 1)
    return [*(percent(row["tier_hit_rate"][tier]) for tier in lower), percent(row["reached_rate"])]


def run_replay(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None,
        options.policy(
            "By comma or repeated; belady: the bound; "
            "lru_ended: LRU that frees what a session held that has ended."
        ),
    ] = None,
    format: Format = None,
    selection: Selection = None,
    jitter_seed: JitterSeed = None,
    decode_writes: DecodeWrites = True,
    warm_up: WarmUp = None,
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
        options.geometry("Gives blocks the bytes of this model's cache", TIERS),
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
    hits_only: Annotated[
        bool,
        options.option(
            OUTPUT,
            "--hits-only",
            help="Count the hits of page accesses in one tier and nothing else: 4 bytes of memory an access.",
        ),
    ] = False,
    plot: Annotated[
        Path | None, options.plot("Draw hits, latency and the use of the tiers over time")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a trace under policies: hit rates, latencies, bytes, and the regret to the bound.

    One policy at one capacity gives one JSON object, several give {"rows": [...]}.

    Example: kv-cache-rl hierarchy replay workload:rag_burst --policy lru,sieve,belady --capacity 20,40
    """
    import numpy as np

    from kv_cache_rl.core.calibrations import calibration_named
    from kv_cache_rl.experiments.hierarchy.charges import how_charged, with_model
    from kv_cache_rl.experiments.hierarchy.settings import (
        Bytes,
        free_transfers,
        in_blocks,
        parse_capacity,
        uneven,
    )
    from kv_cache_rl.sim.hierarchy.spec import measured_already
    from kv_cache_rl.sim.hierarchy.traces.warm_up import warmed

    options.picture(plot)
    names, source = policies_of(policy), source_at(trace, format, selection, jitter_seed, decode_writes)
    rules: dict[str, Any] = {
        "footprint": footprint,
        "squeeze": squeeze,
        "prefetch": prefetch,
        "overlap": overlap,
    }
    rules |= {"compute_s": compute_s, "recompute": recompute, "promotion": promotion, "reserve": reserve}
    rules |= {"hardware": hardware} if hardware else {}
    rules |= {"calibration": calibration_at(calibration)}
    if hardware and calibration_named(rules["calibration"]).hardware is not None:
        raise BadInput(measured_already(hardware, calibration))
    wanted, levels = names_of(capacity), names_of(tiers)
    if hits_only:
        more = {"tiers": levels, "model": model, "warm_up": warm_up, "plot": plot, "time_line": time_line}
        refuse_beside_hits(more | {"by_sequence": by_sequence, "prompt_only": not decode_writes}, rules)
    loaded = read_trace(source, seed, as_json, source.accesses if hits_only else None)
    in_bytes = [isinstance(parse_capacity(value), Bytes) for value in wanted]
    if not model and uneven(loaded) and len(set(in_bytes)) > 1:
        raise BadInput(
            f"--capacity {','.join(wanted)}: the pages of {loaded.name} differ in size, so blocks and bytes "
            "are two caches; give either, in a command each"
        )
    own = levels or any(in_bytes)
    sized = with_model(loaded, model) if model else loaded if own else in_blocks(loaded)
    sized = warmed(sized, warm_up) if warm_up is not None else sized
    scenarios = scenarios_of(sized, wanted, levels, rules)
    if not (model or own):
        refuse_precision(loaded, rules)
    if not hits_only:
        refuse_idle(sized, scenarios[0], names, time_line, by_sequence)
    drawn = to_draw(names, scenarios) if plot is not None else []
    with Bar("replay", as_json) as bar:
        if hits_only:
            rows = hits_rows(sized, scenarios, names, bar)
        else:
            rows = replay_rows(sized, scenarios, names, seed or 0, time_line, by_sequence, bar)
    if plot is not None:
        draw(sized, scenarios[0], drawn, seed or 0, plot, as_json)
    charged = how_charged(sized, model, int(np.max(sized.page_bytes)))
    if as_json:
        told = {"charged": charged} if charged else {}
        rows = [row | told for row in rows]
        print_json(rows[0] if len(rows) == 1 else {"rows": rows})
        return
    notes = [charged] if charged else []
    means = [one for one in levels if not isinstance(parse_capacity(one.partition("=")[2]), Bytes)]
    if means and uneven(sized):
        notes.append(f"{', '.join(means)}: blocks of the pages' mean size")
    show(rows, sized, any(free_transfers(sized, scenario) for scenario in scenarios), notes)
    if plot is not None:
        typer.echo(plot)
