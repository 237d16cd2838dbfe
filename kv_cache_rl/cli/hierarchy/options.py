"""Options that several hierarchy commands share, and the traces, policies and capacities they name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import (
    POLICIES,
    RUNNING,
    SERVICE,
    TIERS,
    WORKLOAD,
    names_of,
    option,
    trace_format,
)
from kv_cache_rl.cli.terminal import waiting
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import NotJson, read_json

if TYPE_CHECKING:
    from kv_cache_rl.experiments.hierarchy.sources import Source
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

BELADY = "belady"
ENDED = "lru_ended"
"""LRU that frees the blocks of a session that has ended."""

TraceFile = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A trace file of any format, or workload:NAME[,key=value]."),
]
Format = Annotated[
    str | None,
    trace_format(("claude-code", "mooncake", "bailian", "libcachesim", "oracle-general", "kv-events", "lab")),
]
Selection = Annotated[
    str | None,
    option(
        WORKLOAD,
        "--selection",
        help="Claude Code sessions: all (over 8 hours, the default) or headroom (60 within an hour).",
    ),
]
JitterSeed = Annotated[
    int | None,
    option(
        WORKLOAD,
        "--jitter-seed",
        help="Spread requests on a clock of whole seconds or coarser over their tick, drawn with this seed.",
        min=0,
    ),
]
DecodeWrites = Annotated[
    bool,
    option(
        WORKLOAD,
        "--decode-writes/--prompt-only",
        help="Whether blocks that decoding wrote are in the cache, as in an engine, or prompts alone count.",
    ),
]
WarmUp = Annotated[
    str | None,
    option(
        WORKLOAD,
        "--warm-up",
        help="Leave out of the metrics what comes first: accesses (1000), a share (20%) or seconds (600s).",
    ),
]
Capacity = Annotated[
    list[str] | None,
    option(
        TIERS,
        "--capacity",
        help="Of a single tier: blocks (5000) or a share (25%); of a replay also bytes (2MB), which pages "
        "have or a model gives. By comma or repeated.",
    ),
]
Sampled = Annotated[
    float | None,
    option(
        POLICIES,
        "--sampled",
        help="Estimate hit rates from this share of the blocks (SHARDS), and say how far off that is.",
    ),
]
Ray = Annotated[
    str | None,
    option(
        RUNNING,
        "--ray",
        help="Run on the Ray cluster at this address (HOST:PORT, ray://HOST:PORT, auto), or local.",
    ),
]
Calibration = Annotated[
    str,
    option(
        SERVICE,
        "--calibration",
        help="Bytes, seconds and divergences of precisions: literature, measured-cpu, or a file.",
    ),
]


def calibration_at(text: str) -> str:
    """The name of a calibration, that of a file once it is read. Raises BadInput for neither."""
    from kv_cache_rl.core.calibration import Calibration
    from kv_cache_rl.core.calibrations import CALIBRATIONS, register

    path = Path(text)
    if not (path.suffix.lower() == ".json" or path.is_file()):
        return choose("calibration", text, CALIBRATIONS)
    try:
        return register(Calibration.from_json(read_json(path), text))
    except NotJson as broken:
        raise BadInput(f"{broken}; make one with kv-cache-rl paged calibrate --out FILE.json") from None


def policies_of(
    values: list[str] | None, default: str = "lru", more: Sequence[str] = (ENDED, BELADY)
) -> list[str]:
    """The named policies, of those that every command has and these `more`.

    Raises BadInput for one that does not exist.
    """
    from kv_cache_rl.sim.hierarchy import policies

    return [
        choose("policy", name, [*policies.POLICIES, *more])
        for name in names_of(values) or names_of([default])
    ]


def source_at(
    text: str,
    format: str | None,
    selection: str | None,
    jitter_seed: int | None,
    decode_writes: bool = True,
) -> "Source":
    """The trace file or workload of that name. Raises BadInput for options that do not fit it: the pages of a
    workload have no answers, and so no writes."""
    from kv_cache_rl.experiments.hierarchy.sources import PREFIX, parse_source
    from kv_cache_rl.sim.hierarchy.traces.load import LOADERS, SELECTIONS

    given: dict[str, Any] = {"format": format, "selection": selection, "jitter_seed": jitter_seed}
    options = {key: value for key, value in given.items() if value is not None}
    said = [*options, *(() if decode_writes else ("prompt_only",))]
    if text.startswith(PREFIX) and said:
        raise BadInput(f"--{said[0].replace('_', '-')} is for trace files; {text} is made here, leave it out")
    if format is not None:
        choose("format", format, LOADERS)
    if selection is not None:
        choose("selection", selection, SELECTIONS)
    if not decode_writes:
        options["decode_writes"] = False
    return parse_source(text, **options)


def read_trace(
    source: "Source", seed: int | None = None, quiet: bool = True, read: Callable[..., Any] | None = None
) -> "Trace":
    """The trace of a source, or what `read` makes of its seed, with a line on the terminal meanwhile.

    Raises BadInput for options of another format.
    """
    if seed is not None and source.workload is not None and "seed" in dict(source.options):
        raise BadInput(f"{source.name} has a seed of its own and --seed {seed}; give one of them")
    with waiting(f"reading {source.name}", quiet):
        try:
            trace = (read or source.trace)(seed)
        except Refused:
            raise
        except ValueError as wrong:  # an option that the format's loader does not take
            raise BadInput(str(wrong)) from None
    if trace.left_out and not quiet:
        typer.echo(f"{source.name}: {trace.left_out} are left out", err=True)
    if not trace.chained and dict(source.options).get("decode_writes") is False:
        raise BadInput(f"--prompt-only is for requests; {source.name} holds page accesses, leave it out")
    if not trace.accesses:
        raise BadInput(f"{source.name} has no accesses; give a trace with at least one request")
    return trace
