"""``engine offload``: the lab's host tier beside vLLM's own, key by key."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.engine.options import ENGINE, engine_module, share_of
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.hierarchy.options import Format, Selection, TraceFile, read_trace, source_at
from kv_cache_rl.cli.options import AsJson, command_line, names_of
from kv_cache_rl.cli.terminal import Bar, console, print_json
from kv_cache_rl.reports.tables import plain_table


def run_offload(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None,
        options.policy("Of the host tier: lru, arc, or another of the lab's, by comma; default: lru,arc."),
    ] = None,
    format: Format = None,
    selection: Selection = None,
    gpu: Annotated[
        str,
        options.option(ENGINE, "--gpu", help="Room on the GPU: blocks (700), or a share of all (10%)."),
    ] = "10%",
    host: Annotated[
        list[str] | None,
        options.host("Room of the host tier, alike; by comma; default: 25%,50%.", ENGINE),
    ] = None,
    out: Annotated[Path | None, options.out("Also write the rows to this JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve a trace with a host tier of the lab and with vLLM's CPUOffloadingManager; compare the keys.

    Under lru and arc these are two implementations; else vLLM's manager asks the lab's policy.

    Example: kv-cache-rl engine offload workload:rag_burst --policy lru,arc --host 25%
    """
    from kv_cache_rl.experiments.engine.arc_rules import PlainArc
    from kv_cache_rl.experiments.engine.offload import LabHost, likeness, offloaded, paths
    from kv_cache_rl.files import write_json
    from kv_cache_rl.sim.hierarchy.policies import POLICIES

    options.writable(out, "--out")
    policies = [choose("policy", name, POLICIES) for name in names_of(policy) or ["lru", "arc"]]
    engine = engine_module("host", "engine offload")
    loaded = read_trace(source_at(str(trace), format, selection, None), quiet=as_json)
    requests = list(paths(loaded))
    different = len({block for path in requests for block in path})
    rooms = [room(text, different, "--host") for text in names_of(host) or ["25%", "50%"]]
    top, rows = room(gpu, different, "--gpu"), list[dict[str, Any]]()
    with Bar("host tiers", as_json) as bar:
        for at, (name, blocks) in enumerate((name, blocks) for name in policies for blocks in rooms):
            bar(at, len(policies) * len(rooms))
            lab = offloaded(requests, top, LabHost(name, blocks))
            theirs = offloaded(requests, top, engine.EngineHost(engine.named(name), blocks))
            rows.append({"policy": name, "gpu_blocks": top, "host_blocks": blocks})
            rows[-1] |= {"engine_policy": engine.named(name)} | likeness(lab, theirs).to_json()
            if name == "arc":
                ruled = offloaded(requests, top, PlainArc(blocks))
                rows[-1]["equal_by_its_rules"] = likeness(ruled, theirs).equal
    found = {"command": command_line(), "engine": engine.version(), "trace": loaded.name}
    found |= {"blocks": different, "accesses": sum(map(len, requests)), "rows": rows}
    if out is not None:
        write_json(out, found)
    if as_json:
        print_json(found)
        return
    show(found)
    if out is not None:
        typer.echo(out)


def room(text: str, different: int, option: str) -> int:
    """Blocks of a tier: a number, or a share of all different ones. Raises BadInput for neither."""
    if (share := share_of(text)) is not None:
        blocks = round(share * different)
    elif text.isdecimal():
        blocks = int(text)
    else:
        raise BadInput(f"{option} {text} is no room; write blocks (700) or a share of all blocks (10%)")
    if not 0 < blocks < 2**24:
        raise BadInput(f"{option} {text}: {blocks:,} of {different:,} blocks; give 1 to {2**24 - 1:,}")
    return blocks


def show(found: dict[str, Any]) -> None:
    """The rows as a table, and under it where the first differences lie."""
    columns = {"policy": "left", "host blocks": "right", "requests equal": "right"}
    columns |= {"found below, lab": "right", "vLLM": "right", "stored, lab": "right", "vLLM ": "right"}
    title = f"{found['trace']}: {found['accesses']:,} block accesses, host tier of the lab and of "
    title += found["engine"]
    table = plain_table(title, columns)
    for row in found["rows"]:
        equal = f"{row['equal']:,} of {row['requests']:,}"
        counts = [f"{row[key]:,}" for key in ("lab_host", "engine_host", "lab_stored", "engine_stored")]
        table.add_row(row["policy"], f"{row['host_blocks']:,}", equal, *counts)
    out = console()
    out.print(table)
    for row in found["rows"]:
        if row["first"]:
            out.print(f"{row['policy']}, {row['host_blocks']:,} blocks: {row['first']}", soft_wrap=True)
        if row.get("equal_by_its_rules") is not None:
            ruled = f"{row['equal_by_its_rules']:,} of {row['requests']:,}"
            out.print(f"arc by vLLM's three rules, {row['host_blocks']:,} blocks: {ruled} requests equal")
