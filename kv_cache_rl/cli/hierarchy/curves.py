"""``hierarchy mrc``: the whole LRU miss-ratio curve, exact and from a sample, beside the bound."""

from typing import Annotated

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import (
    Capacity,
    DecodeWrites,
    Format,
    JitterSeed,
    Sampled,
    Selection,
    TraceFile,
    read_trace,
    source_at,
)
from kv_cache_rl.cli.hierarchy.rows import written_blocks
from kv_cache_rl.cli.options import POLICIES, AsJson, names_of
from kv_cache_rl.cli.terminal import console, percent, print_json, waiting
from kv_cache_rl.reports.tables import plain_table

STEPS = (1, 2, 3, 5)
"""Where the default capacities lie in each decade."""


def default_capacities(blocks: int) -> list[int]:
    """Round numbers from 1 to all blocks, and all blocks."""
    below = [step * 10**power for power in range(len(str(blocks))) for step in STEPS]
    return [capacity for capacity in below if capacity < blocks] + [blocks]


def run_mrc(
    trace: TraceFile,
    capacity: Capacity = None,
    sampled: Sampled = None,
    bound: Annotated[
        bool,
        options.option(POLICIES, "--bound/--no-bound", help="Also give MIN, which knows the future."),
    ] = True,
    format: Format = None,
    selection: Selection = None,
    jitter_seed: JitterSeed = None,
    decode_writes: DecodeWrites = True,
    seed: Annotated[
        int | None,
        options.seed("Draws workload:NAME (default: its own seed) and the blocks of the sampled curve (0)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the hit rate of LRU by capacity, from one pass over the trace, and the bound.

    Also estimated from a sample of the blocks, with its error, where --sampled is given.

    Example: kv-cache-rl hierarchy mrc workload:zipf,pages=5000,accesses=200000 --sampled 0.1
    """
    from kv_cache_rl.experiments.hierarchy.settings import Bytes, capacity_of, in_blocks, parse_capacity
    from kv_cache_rl.sim.hierarchy.curves.bound import bound_name, min_curve
    from kv_cache_rl.sim.hierarchy.curves.runs import lru_curve, pieces
    from kv_cache_rl.sim.hierarchy.curves.sampled import mean_error, sampled_curve

    if sampled is not None and not 0 < sampled <= 1:
        raise BadInput(f"--sampled is {sampled}; give a share above 0, at most 1")
    sized = [value for value in names_of(capacity) if isinstance(parse_capacity(value), Bytes)]
    if sized:
        raise BadInput(
            f"--capacity {sized[0]}: stack distances count blocks; give blocks or a share, or bytes to "
            "hierarchy curve or hierarchy replay"
        )
    source = source_at(trace, format, selection, jitter_seed, decode_writes)
    loaded = in_blocks(read_trace(source, seed, as_json))
    given = dict.fromkeys(capacity_of(value, loaded) for value in names_of(capacity))
    wanted = list(given) or default_capacities(loaded.blocks)
    with waiting("stack distances", as_json):
        cut = pieces(loaded)
        exact = lru_curve(loaded, cut)
    found: dict = {
        "trace": loaded.name,
        "requests": loaded.requests,
        "accesses": loaded.accesses,
        "blocks": loaded.blocks,
        "written_blocks": written_blocks(loaded),
    }
    found |= {
        "capacities": wanted,
        "hit_rate": [exact.at(capacity) for capacity in wanted],
        "infinite": float(exact.hit_rate[-1]),
    }
    if sampled is not None:
        try:
            estimate = sampled_curve(loaded, sampled, seed or 0)
        except ValueError as wrong:
            raise BadInput(str(wrong)) from None
        found["sampled"] = {
            "rate": sampled,
            "hit_rate": [estimate.at(capacity) for capacity in wanted],
            "expected_error": estimate.error,
            "error": mean_error(estimate, exact),
        }
    if bound:
        with waiting("MIN", as_json):
            curve = min_curve(loaded, wanted, cut)
        found["bound"] = {"name": bound_name(loaded), "hit_rate": [curve.at(capacity) for capacity in wanted]}
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict) -> None:
    columns = {"capacity": "right", "LRU": "right"}
    series = [found["hit_rate"]]
    notes = []
    if "sampled" in found:
        sample = found["sampled"]
        columns[f"sampled {sample['rate']:g}"] = "right"
        series.append(sample["hit_rate"])
        expected, error = (f"{100 * sample[key]:.3f}" for key in ("expected_error", "error"))
        notes.append(
            f"sampled: mean absolute error {error} points of hit rate, {expected} expected from the sample "
            "alone"
        )
    if "bound" in found:
        columns["bound"] = "right"
        series.append(found["bound"]["hit_rate"])
        notes.append(f"bound: {found['bound']['name']}")
    title = f"{found['trace']}: {found['accesses']:,} block accesses, {found['blocks']:,} blocks"
    title += f", decoding writes {found['written_blocks']:,}" if found["written_blocks"] else ""
    table = plain_table(title, columns, "\n".join(notes) or None)
    for index, capacity in enumerate(found["capacities"]):
        table.add_row(f"{capacity:,}", *(percent(rates[index]) for rates in series))
    console().print(table)
