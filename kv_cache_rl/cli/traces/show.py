"""``traces show``: format, counts and span of a trace file, and which commands can use it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kv_cache_rl.cli.failures import choose
from kv_cache_rl.cli.options import AsJson, trace_format
from kv_cache_rl.cli.terminal import console, print_json
from kv_cache_rl.traces.formats import FORMATS
from kv_cache_rl.traces.reading import located

if TYPE_CHECKING:
    from kv_cache_rl.traces.summary import Summary

TraceFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A trace file of any format, or a folder of Claude Code sessions."),
]


Format = Annotated[str | None, trace_format(FORMATS)]


def formatted(trace: Path, format: str | None) -> Path:
    """The file's name with the format that its user knows. Raises BadInput for none that exists."""
    if format is None:
        return trace
    name, reading = located(trace)
    return Path(replace(reading, format=choose("format", format, FORMATS)).named(name))


def run_show(trace: TraceFile, format: Format = None, as_json: AsJson = False) -> None:
    """Say what is in a trace file: format, block size, counts, span, and what can use it.

    Example: kv-cache-rl traces show conversation_trace.jsonl
    """
    from kv_cache_rl.traces.summary import summary_of

    trace = formatted(trace, format)
    found = summary_of(trace)
    for command, why in found.uses.items():
        found.uses[command] = why or refusal(command, str(trace))
    if as_json:
        print_json(found.to_json())
    else:
        show(found)


def refusal(command: str, trace: str) -> str:
    """What a command says that cannot use a trace, asked in the way it asks itself; "" where it can."""
    from kv_cache_rl.core.errors import Refused

    try:
        ASK[command](trace)
    except Refused as error:
        return getattr(error, "problem", str(error))
    return ""


def _ask_lab(trace: str) -> None:
    from kv_cache_rl.sim.hierarchy.traces.load import load_trace

    load_trace(trace)


def _ask_serving(trace: str) -> None:
    from kv_cache_rl.sim.serving.recorded import recorded

    recorded(trace)


def _ask_plan(trace: str) -> None:
    from kv_cache_rl.cli.stability.plan import PROFILE, capacity, model_of
    from kv_cache_rl.core.hardware import HARDWARE
    from kv_cache_rl.theory.plan import plan
    from kv_cache_rl.traces.demand import demand_of

    demand, profile = demand_of(trace), HARDWARE[PROFILE]
    plan(
        demand.prompts,
        demand.outputs,
        arrival_rate=demand.rate or 1.0,
        hardware=profile,
        memory_tokens=capacity(profile, model_of(profile), demand),
        histories=demand.histories,
    )


def _ask_windows(trace: str) -> None:
    from kv_cache_rl.sim.eviction.cut import NONE_FITS, windows_of
    from kv_cache_rl.sim.eviction.spec import ScenarioError

    if next(windows_of(trace, "easy", 0), None) is None:
        raise ScenarioError(NONE_FITS)


ASK: dict[str, Callable[[str], None]] = {
    "hierarchy": _ask_lab,
    "serving simulate": _ask_serving,
    "stability plan": _ask_plan,
    "scenarios from-trace": _ask_windows,
}
"""Command, as a summary names it → what it asks of a trace before it works on it."""


def show(found: "Summary") -> None:
    """Prints the facts as a table, and under it what was assumed."""
    from kv_cache_rl.reports.tables import plain_table

    out = console()
    table = plain_table(f"{found.path}: {found.format}", {"": "left", "value": "left"})
    for name, value in lines(found):
        table.add_row(name, value)
    out.print(table)
    for note in found.notes:
        out.print(note, soft_wrap=True)


def lines(found: "Summary") -> list[tuple[str, str]]:
    """Name and value of all that the file says."""
    counts = {
        "requests": found.requests,
        "sessions": found.sessions,
        "input tokens": found.input_tokens,
        "output tokens": found.output_tokens,
        "tokens in a block": found.block_size,
        "different blocks": found.blocks,
        "block accesses": found.block_accesses,
    }
    rows = [(name, f"{value:,}") for name, value in counts.items() if value is not None]
    if found.span_s is not None:
        rows.append(("span", f"{found.span_s:,.1f} s"))
    if found.rate_per_s is not None:
        rows.append(("rate", f"{found.rate_per_s:.3g} requests/s"))
    rows += [("left out", f"{count:,} {reason}") for reason, count in found.left_out.items()]
    return rows + [(command, f"no: {why}" if why else "yes") for command, why in found.uses.items()]
