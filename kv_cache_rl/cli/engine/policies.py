"""``engine policies``: policies of the lab inside a real vLLM, beside what the lab says of them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.engine.options import (
    Blocks,
    BlockSize,
    Merge,
    config_of,
    engine_module,
    pool_of,
    requests_option,
    trace_of,
)
from kv_cache_rl.cli.exits import FAILED
from kv_cache_rl.cli.hierarchy.options import Format, Selection, TraceFile
from kv_cache_rl.cli.options import AsJson, Check, command_line, names_of
from kv_cache_rl.cli.terminal import Bar, console, print_json

DEFAULT = ("lru", "fifo", "lfu", "s3fifo", "sieve", "gdsf", "ttl")


def run_policies(
    trace: TraceFile,
    policy: Annotated[
        list[str] | None,
        options.policy(f"Of the lab, by comma, with parameters after colons; default: {','.join(DEFAULT)}."),
    ] = None,
    format: Format = None,
    selection: Selection = None,
    requests: Annotated[
        int | None, requests_option("Ask only the first so many of what was read.", min=1)
    ] = None,
    merge: Merge = 1,
    seed: Annotated[int, options.seed("Draws the token ids.", high=2**20)] = 0,
    blocks: Blocks = "25%",
    engine_block_size: BlockSize = 32,
    out: Annotated[Path | None, options.out("Also write the rows to this JSON file.")] = None,
    check: Check = False,
    as_json: AsJson = False,
) -> None:
    """Have policies decide inside a real vLLM, one request at a time, and print what the lab predicted.

    "Lab" is the prediction over vLLM's pool, "replay" what `hierarchy replay` finds of the same requests.

    Example: kv-cache-rl engine policies workload:rag_burst --policy lru,s3fifo --blocks 25%
    """
    from kv_cache_rl.experiments.engine.plan import plan_of
    from kv_cache_rl.experiments.engine.policies import beside
    from kv_cache_rl.files import write_json
    from kv_cache_rl.reports.engine_policies import verdict
    from kv_cache_rl.sim.hierarchy.policies import parsed

    options.writable(out, "--out")
    chosen = names_of(policy) or list(DEFAULT)
    for name in chosen:
        parsed(name)
    vllm = engine_module("record", "engine policies")
    engine = vllm.version()  # says with how many threads, which comes before vLLM is imported
    decided = engine_module("scheduler", "engine policies")
    loaded, source = trace_of(str(trace), format, selection, as_json)
    plan = plan_of(loaded, engine_block_size, merge, requests)
    pool, rows = pool_of(blocks, plan), list[dict[str, Any]]()
    with Bar("requests", as_json) as bar, TemporaryDirectory() as scratch:
        for at, name in enumerate(chosen):
            config = config_of(plan, engine, source, pool, seed, policy=name)

            def told(done: int, total: int, before: int = at) -> None:
                bar(before * total + done, len(chosen) * total)

            with decided.policy(name):
                pace = vllm.Pace("once", 1.0)
                done = vllm.record(plan, config, Path(scratch) / f"{at}", pace, told=told, **decided.CHOSEN)
            rows.append(beside(plan, config, done, name).to_json())
    found = {"command": command_line(), "engine": engine, "trace": plan.name, "source": source}
    found |= {"blocks": pool, "working_set": plan.working_set, "verdict": verdict(rows), "rows": rows}
    if out is not None:
        write_json(out, found)
    if as_json:
        print_json(found)
    else:
        show(found)
        if out is not None:
            typer.echo(out)
    if check and any(row["equal"] < row["requests"] for row in rows):
        raise typer.Exit(FAILED)


def show(found: dict[str, Any]) -> None:
    """The rows as a table, and under it which policy finds most and where the first request differs."""
    from kv_cache_rl.reports.engine_policies import said, table

    out = console()
    out.print(table(found))
    for line in said(found):
        out.print(line, soft_wrap=True, highlight=False, markup=False)
