"""How a trace file is read: the same options on every command that takes one.

A command that has a parameter `trace` gets them where it is registered (`with_reading`), and finds
the answers behind the name of the file, from where they travel wherever the name goes
(traces/reading.py)."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from kv_cache_rl.cli.failures import BadInput, choose
from kv_cache_rl.cli.options import WORKLOAD
from kv_cache_rl.files import regular

BlockSize = Annotated[
    int | None,
    typer.Option(
        "--block-size",
        help="Tokens in a block of the trace; default: as the file says, or as its lines tell.",
        min=1,
        max=2**20,
        rich_help_panel=WORKLOAD,
    ),
]
TimeUnit = Annotated[
    str | None,
    typer.Option(
        "--time-unit",
        help="Of the trace's times: s, ms, us or ns; default: the format's own.",
        rich_help_panel=WORKLOAD,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        help="Read only the first so many requests of the trace (Claude Code: sessions).",
        min=1,
        rich_help_panel=WORKLOAD,
    ),
]
READING: dict[str, Any] = {"block_size": BlockSize, "time_unit": TimeUnit, "limit": Limit}
"""Parameter → its option."""

Command = Callable[..., None]


def with_reading(command: Command) -> Command:
    """The command with the options above, if it has a parameter `trace`; else as it is."""
    signature = inspect.signature(command)
    if "trace" not in signature.parameters:
        return command

    @wraps(command)
    def read_as_said(**values: Any) -> None:
        given = {name: values.pop(name) for name in READING}
        return command(**values | {"trace": named(values["trace"], **given)})

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in READING.items()
    ]
    known = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=command.__annotations__[one.name])
        for one in signature.parameters.values()
    ]
    read_as_said.__signature__ = signature.replace(parameters=[*known, *more])  # pyrefly: ignore
    read_as_said.__annotations__ = command.__annotations__ | READING
    return read_as_said


def named(
    trace: Any, block_size: int | None = None, time_unit: str | None = None, limit: int | None = None
) -> Any:
    """The trace's name with what was said about reading it.

    Raises BadInput for options without a trace file.
    """
    from kv_cache_rl.traces.reading import UNITS, Reading

    given = {"block_size": block_size, "time_unit": time_unit, "limit": limit}
    said = next((name for name, value in given.items() if value is not None), None)
    if said is None:
        return trace
    option = f"--{said.replace('_', '-')}"
    if not trace:
        raise BadInput(f"{option} is for trace files; name one with --trace, or leave it out")
    if str(trace).startswith("workload:"):
        raise BadInput(f"{option} is for trace files; {trace} is made here, leave it out")
    if time_unit is not None:
        choose("unit of time", time_unit, UNITS)
    reading = Reading(None, block_size, time_unit, limit)
    if isinstance(trace, list):
        return [Path(reading.named(one)) for one in trace]
    return Path(reading.named(trace)) if isinstance(trace, Path) else reading.named(trace)


def readable(path: Path) -> None:
    """Raises OSError where there is no such file; a folder may hold Claude Code sessions."""
    from kv_cache_rl.traces.reading import located

    file = Path(located(path)[0])
    if not file.is_dir():
        regular(file).open("rb").close()
