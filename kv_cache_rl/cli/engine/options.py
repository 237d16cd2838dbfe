"""What the engine commands share: where the engine's package is, and the pool it is given."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import WORKLOAD, command_line, option

if TYPE_CHECKING:
    from kv_cache_rl.experiments.engine.folder import Config
    from kv_cache_rl.experiments.engine.plan import Plan
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

ENGINE = "Engine"
"""Panel of a command's help: how the engine is run."""
PACKAGE, FOLDER = "kv_cache_vllm", "engines/kv_cache_vllm"
MOST_BLOCKS = 2**20
SHARED = "workload:shared_prefixes"
TINY = "tiny"
"""In place of a model: one made of its config.json, without weights."""

Merge = Annotated[
    int,
    option(WORKLOAD, "--merge", help="So many blocks of the trace are one of the engine.", min=1, max=2**20),
]
Blocks = Annotated[
    str, option(ENGINE, "--blocks", help="Of the pool: a number, or a share of all different blocks (25%).")
]
BlockSize = Annotated[
    int,
    option(
        ENGINE,
        "--engine-block-size",
        help="Tokens that the engine computes for a block of the trace; on CPUs a multiple of 32.",
        min=1,
        max=2**16,
    ),
]


def requests_option(help: str, **limits: Any) -> Any:
    """``--requests``: how many of a trace, or a log of them."""
    return option(WORKLOAD, "--requests", help=help, **limits)


def engine_module(name: str, command: str) -> Any:
    """A module of the package that drives vLLM, which has an environment of its own.

    Raises BadInput where vLLM or the package is not installed beside this Python.
    """
    missing = [what for what in ("vllm", PACKAGE) if find_spec(what) is None]
    if missing:
        raise BadInput(
            f"{command} needs {' and '.join(missing)}, not installed for {sys.executable}; in a checkout run "
            f"`make engine` and then {FOLDER}/.venv/bin/kv-cache-rl {command}"
        )
    return import_module(f"{PACKAGE}.{name}")


def trace_of(text: str, format: str | None, selection: str | None, quiet: bool) -> "tuple[Trace, dict]":
    """The trace of a name and what identifies it; beside the lab's own the workload `shared_prefixes`.

    Raises Refused where there is none.
    """
    from kv_cache_rl.cli.hierarchy.options import read_trace, source_at
    from kv_cache_rl.experiments.engine.workloads import shared_prefixes

    kind, *pairs = text.split(",")
    if kind != SHARED:
        source = source_at(text, format, selection, None)
        return read_trace(source, quiet=quiet), source.to_json()
    if format is not None or selection is not None:
        raise BadInput(f"--format and --selection are for trace files; {text} is made here, leave them out")
    given: dict[str, int] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in ("requests", "sessions", "seed") or key in given or not value.isdecimal():
            raise BadInput(f"{pair!r} in {text!r} is no parameter; write requests=, sessions= or seed=NUMBER")
        given[key] = int(value)
    return shared_prefixes(**given), {"workload": "shared_prefixes", "options": given}


def share_of(text: str) -> float | None:
    """What a share in per cent (`25%`) is of the whole; None for what is no share."""
    share = text.removesuffix("%")
    return float(share) / 100 if text.endswith("%") and share.replace(".", "", 1).isdecimal() else None


def pool_of(text: str, plan: "Plan") -> int:
    """Blocks of a pool: a number, or a share of the plan's working set with the two blocks that an engine
    needs besides: its null block, and the one that a request fills in part.

    Raises BadInput for no such number, and for a pool that cannot hold the longest request.
    """
    number = text.replace("_", "").replace(",", "")
    if (share := share_of(text)) is not None:
        blocks = round(share * plan.working_set) + 2
    elif number.isdecimal():
        blocks = int(number)
    else:
        raise BadInput(f"--blocks {text} is no pool; write blocks (700) or a share of the working set (10%)")
    if blocks > MOST_BLOCKS:
        raise BadInput(f"--blocks {text} is more than any engine has; give at most {MOST_BLOCKS:,}")
    longest = plan.longest
    least = -(-longest.total // plan.block_tokens) + 1
    if blocks < least:
        raise BadInput(
            f"a pool of {blocks:,} blocks cannot hold request {longest.number}, which needs {least:,} with "
            f"vLLM's null block; give --blocks {least} or more"
        )
    return blocks


def watermark_of(text: str) -> float:
    """The share of a pool in `--watermark`. Raises BadInput for none, and for the whole pool."""
    share = share_of(text)
    if share is None or share >= 1:
        raise BadInput(f"--watermark {text} is no share of the pool; write 0% to below 100% (5%)")
    return share


def config_of(
    plan: "Plan", engine: str, source: dict[str, Any], pool: int, seed: int, **how: Any
) -> "Config":
    """What a recording of a plan says of itself: one request at a time at a tiny model, unless `how` says
    otherwise of a field of `Config`."""
    from kv_cache_rl.experiments.engine.folder import Config

    usual: dict[str, Any] = {
        "max_num_seqs": 1,
        "token_budget": plan.step_tokens,
        "at": "once",
        "rate": 1.0,
        "model": TINY,
    }
    return Config(
        engine=engine,
        trace=plan.name,
        source=source,
        command=command_line(),
        requests=len(plan.requests),
        blocks=pool,
        block_tokens=plan.block_tokens,
        trace_block_tokens=plan.trace_block_tokens,
        seed=seed,
        lengthened=plan.lengthened,
        working_set=plan.working_set,
        **(usual | how),
    )


def folder_of(path: Path | None) -> Path | None:
    """A model's folder. Raises BadInput where it has no config.json."""
    if path is not None and not (path / "config.json").is_file():
        raise BadInput(f"--model {path} has no config.json; give the folder of a Hugging Face model")
    return path
