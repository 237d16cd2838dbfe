"""``hierarchy workload``: a synthetic workload written to a trace file."""

from pathlib import Path
from typing import Annotated

import typer

from kv_cache_rl.amounts import amount
from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import AsJson
from kv_cache_rl.cli.terminal import print_json


def run_workload(
    name: Annotated[
        str, typer.Argument(help="chat_continuation, rag_burst, ..., or zipf; also NAME,key=value,...")
    ],
    out: Annotated[
        Path,
        options.out(
            "The .jsonl file to write; packed if it ends in .gz, .bz2 or .xz. One that ends in "
            ".oracleGeneral is libCacheSim's binary trace."
        ),
    ],
    seed: Annotated[int | None, options.seed("Draws the workload; default: its own.")] = None,
    set_: Annotated[list[str] | None, options.pairs("A parameter, such as length=1000 or pages=200")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a synthetic workload to a file, which every hierarchy command reads.

    In the lab's own format, or in libCacheSim's for hundreds of millions of accesses.

    Example: kv-cache-rl hierarchy workload rag_burst --set length=1000 --out rag.jsonl
    """
    from kv_cache_rl.experiments.hierarchy.settings import page_total
    from kv_cache_rl.experiments.hierarchy.sources import PREFIX, parse_source
    from kv_cache_rl.sim.hierarchy.generate import WORKLOADS
    from kv_cache_rl.sim.hierarchy.traces.accesses import BINARY, Accesses, save_accesses
    from kv_cache_rl.sim.hierarchy.traces.lab_file import save

    name, *given = name.removeprefix(PREFIX).split(",")
    choose("workload", name, [*WORKLOADS, "zipf"])
    pairs = [*given, *(set_ or []), *([f"seed={seed}"] if seed is not None else [])]
    source = parse_source(",".join([PREFIX + name, *pairs]))
    trace = source.accesses() if out.suffix == BINARY else source.trace()
    if out.is_dir():
        raise BadInput(f"{out} is a folder; give a file")
    if isinstance(trace, Accesses):
        save_accesses(trace, out)
    else:
        save(trace, out)
    facts = {
        "file": str(out),
        "workload": name,
        "accesses": trace.accesses,
        "pages": trace.blocks,
        "page_bytes": page_total(trace),
    }
    if as_json:
        print_json(facts)
    else:
        typer.echo(
            f"{trace.accesses:,} accesses to {trace.blocks:,} pages ({amount(facts['page_bytes'])} at fp16) "
            f"in {out}"
        )
