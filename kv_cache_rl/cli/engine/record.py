"""``engine record``: a trace driven through a real vLLM, every step of which is written down."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.engine.options import (
    ENGINE,
    TINY,
    Blocks,
    BlockSize,
    Merge,
    config_of,
    engine_module,
    folder_of,
    pool_of,
    requests_option,
    trace_of,
    watermark_of,
)
from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.hierarchy.options import Format, Selection, TraceFile
from kv_cache_rl.cli.options import WORKLOAD, AsJson
from kv_cache_rl.cli.saved import stoppable
from kv_cache_rl.cli.terminal import Bar, print_json

if TYPE_CHECKING:
    from kv_cache_rl.experiments.engine.plan import Plan


def run_record(
    trace: TraceFile,
    out: Annotated[Path, options.out("The run folder to write.")],
    format: Format = None,
    selection: Selection = None,
    requests: Annotated[
        int | None,
        requests_option("Ask only the first so many of what was read.", min=1),
    ] = None,
    merge: Merge = 1,
    seed: Annotated[int, options.seed("Draws the token ids.", high=2**20)] = 0,
    at: Annotated[
        str,
        options.option(
            WORKLOAD,
            "--at",
            help="When requests come: once (all at the start), trace (at their times), step (before the "
            "engine's step of their time, the same on every machine).",
        ),
    ] = "once",
    rate: Annotated[
        float,
        options.rate(
            "With --at trace: seconds of the trace in one second. With --at step: steps in one second "
            "of the trace.",
            least=1e-6,
        ),
    ] = 1.0,
    blocks: Blocks = "50%",
    engine_block_size: BlockSize = 32,
    max_num_seqs: Annotated[
        int, options.option(ENGINE, "--max-num-seqs", help="Requests that run at once.", min=1, max=4096)
    ] = 1,
    token_budget: Annotated[
        int | None,
        options.token_budget("Tokens that a step computes at most; default: all of the longest prompt."),
    ] = None,
    no_prefix_caching: Annotated[
        bool,
        options.option(
            ENGINE, "--no-prefix-caching", help="Have requests find nothing of what others computed."
        ),
    ] = False,
    long_prefill: Annotated[
        int,
        options.option(
            ENGINE,
            "--long-prefill",
            help="Tokens of a prompt that a step computes at most while other requests are there; 0: any.",
            min=0,
        ),
    ] = 0,
    watermark: Annotated[
        str,
        options.option(
            ENGINE,
            "--watermark",
            help="Share of the pool that stays free where a request is admitted beside others (5%).",
        ),
    ] = "0%",
    model: Annotated[
        Path | None,
        options.model("Folder of a model with weights; default: a tiny Llama without.", ENGINE),
    ] = None,
    resume: Annotated[bool, options.resume("Go on with what --out holds, where that is exact.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drive a real vLLM with a trace, and write what it found, held and evicted.

    Prompts are made so that they share blocks exactly where the trace says so.

    Example: kv-cache-rl engine record workload:rag_burst --blocks 50% --out runs/rag
    """
    from kv_cache_rl.experiments.engine.checks import AT
    from kv_cache_rl.experiments.engine.plan import plan_of

    choose("time", at, AT)
    vllm, folder = engine_module("record", "engine record"), folder_of(model)
    if at == "once" and rate != 1.0:
        raise BadInput("--rate is for --at trace and --at step; leave it out")
    loaded, source = trace_of(str(trace), format, selection, as_json)
    plan = plan_of(loaded, engine_block_size, merge, requests)
    config = config_of(
        plan,
        vllm.version(folder is None),
        source,
        pool_of(blocks, plan),
        seed,
        max_num_seqs=max_num_seqs,
        token_budget=_budget(token_budget, plan, max_num_seqs),
        at=at,
        rate=rate,
        model=TINY if folder is None else folder.resolve().name,
        prefix_caching=not no_prefix_caching,
        long_prefill=_long_prefill(long_prefill, plan),
        watermark=watermark_of(watermark),
    )
    go_on = f"what is over is in {out}; go on with the same command and --resume"
    with Bar("requests", as_json) as bar, stoppable(out, lambda: go_on):
        done = vllm.record(plan, config, out, vllm.Pace(at, rate), folder, resume, bar)
    facts = {
        "run": str(out),
        "engine": config.engine,
        "requests": len(done),
        "blocks": config.blocks,
        "working_set": config.working_set,
        "lengthened": config.lengthened,
        "prompt_blocks": sum(one.prompt // config.block_tokens for one in done),
        "found": sum(one.found for one in done),
        "preempted": sum(one.preempted for one in done),
        "seconds": max(one.done_s for one in done),
    }
    if as_json:
        print_json(facts)
        return
    typer.echo(
        f"{config.engine}: {len(done):,} requests, {facts['found']:,} of {facts['prompt_blocks']:,} blocks "
        f"found, {facts['preempted']:,} preemptions, in {out}; next: kv-cache-rl engine compare {out}"
    )


def _long_prefill(given: int, plan: "Plan") -> int:
    """Tokens of a prompt in a step. Raises BadInput for more than the longest request has."""
    longest = plan.longest.total
    if given > longest:
        raise BadInput(
            f"--long-prefill {given} is more than the {longest:,} tokens of the longest request; give fewer, "
            "or leave it out"
        )
    return given


def _budget(given: int | None, plan: "Plan", max_num_seqs: int) -> int:
    """Tokens of a step. Raises BadInput for fewer than one a running request."""
    if given is None:
        return plan.step_tokens
    if given < max_num_seqs:
        raise BadInput(
            f"--token-budget {given} is less than a token for each of {max_num_seqs} requests; give more"
        )
    return given
