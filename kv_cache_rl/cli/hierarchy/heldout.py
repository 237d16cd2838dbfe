"""``hierarchy heldout``: policies tuned on one half of the sessions and compared on the other."""

from typing import Annotated

from kv_cache_rl.cli import options
from kv_cache_rl.cli.hierarchy.options import (
    DecodeWrites,
    Format,
    JitterSeed,
    Selection,
    TraceFile,
    policies_of,
    read_trace,
    source_at,
)
from kv_cache_rl.cli.options import RUNNING, AsJson
from kv_cache_rl.cli.terminal import Bar, console, percent, print_json
from kv_cache_rl.reports.tables import plain_table


def run_heldout(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None, options.policy("Compared with lru; by comma or repeated; default: s3fifo.")
    ] = None,
    seed: Annotated[
        list[int] | None,
        options.seed("Halves the sessions; repeat for several halvings. Default: 0, 1, 2."),
    ] = None,
    resamples: Annotated[
        int, options.option(RUNNING, "--resamples", help="Bootstrap resamples.", min=100)
    ] = 2000,
    format: Format = None,
    selection: Selection = None,
    jitter_seed: JitterSeed = None,
    decode_writes: DecodeWrites = True,
    as_json: AsJson = False,
) -> None:
    """Tune policies on one half of the sessions and compare them on the other.

    At capacities where the LRU curve is steep, with paired intervals.

    Near-duplicate sessions (shared blocks, or first requests of equal lengths) stay in one half.

    A workload:NAME is one session, and has no halves.

    Example: kv-cache-rl hierarchy heldout conversation_trace.jsonl --policy sieve,s3fifo --seed 0 --seed 1
    """
    from kv_cache_rl.experiments.hierarchy.heldout import held_out

    names = policies_of(policy, "s3fifo", more=())
    loaded = read_trace(source_at(trace, format, selection, jitter_seed, decode_writes), None, as_json)
    with Bar("held out", as_json) as bar:
        found = held_out(
            loaded, names, seeds=tuple(dict.fromkeys(seed or (0, 1, 2))), resamples=resamples, progress=bar
        )
    if as_json:
        print_json({**found, "trace": loaded.name, "rows": [row.to_json() for row in found["rows"]]})
        return
    columns = {
        "of infinite": "right",
        "capacity": "right",
        "policy": "left",
        "hit rate": "right",
        "minus lru": "right",
    }
    columns |= {"regret": "right", "tuned to": "left"}
    title = (
        f"{loaded.name}: {found['sequences']:,} sessions in {found['clusters']:,} clusters, seeds "
        f"{found['seeds']}"
    )
    caption = f"in brackets: {found['interval']}; regret: to {found['rows'][0].bound}"
    table = plain_table(title, columns, caption)
    for index, row in enumerate(found["rows"]):
        last = index + 1 == len(found["rows"]) or found["rows"][index + 1].level != row.level
        tuned = "; ".join(
            dict.fromkeys(", ".join(f"{k} {v}" for k, v in tuning.items()) for tuning in row.tuning)
        )
        difference = "-" if row.policy == "lru" else interval(row.against_lru, signed=True)
        cells = [row.policy, interval(row.hit_rate), difference, percent(row.regret_to_bound), tuned]
        table.add_row(f"{row.level:.0%}", f"{row.capacity:,}", *cells, end_section=last)
    console().print(table)


def interval(value, signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    text = f"{100 * value.mean:{form}}"
    return text if value.low is None else f"{text} [{100 * value.low:{form}}, {100 * value.high:{form}}]"
