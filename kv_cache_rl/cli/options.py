"""Options that several commands share, each declared once: a value where the help is the same, a function of
the help where each command says what it reads, draws or writes.
"""

import inspect
import itertools
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from typer.models import ParameterInfo

from kv_cache_rl.core.geometry import MODELS
from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.files import regular

WORKLOAD, POLICIES, OUTPUT, RUNNING = "Workload", "Policies", "Output", "Running"
TIERS, RULES, SERVICE, DECODING = "Tiers", "Rules", "Service", "Decoding"
"""Panels of a command's help: what is played, what decides, what is written, how the work is run, ..."""

MOST, MOST_SEED = 2**31 - 1, 2**63 - 1
"""The largest count and the largest seed that a command takes where it says nothing else."""
Command = Callable[..., None]


def option(panel: str, *spellings: str, help: str, **limits: Any) -> Any:
    """An option in a panel of the help."""
    return typer.Option(*spellings, help=literal(help), rich_help_panel=panel, **limits)


def said_of(context: typer.Context, names: Sequence[str]) -> str | None:
    """The first option, of parameters of these names, that the command line gives."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            return parameter.opts[0]
    return None


def literal(help: str) -> str:
    """A help text whose brackets are shown: without the sign before them they would name a style.

    >>> print(literal("a definition has [[workloads]]"))
    a definition has [\\[workloads]]
    """
    return re.sub(r"(?<!\\)\[(?=[a-z#/@])", r"\\[", help)


def bounded(command: Command) -> Command:
    """The command, with an upper bound for each whole number of it that states a lower one alone: one beyond
    64 bits reaches no compiled code, and thousands of millions of anything fit no memory. What states no
    bound is held to its own by the code that reads it.
    """
    for name, kind in command.__annotations__.items():
        for said in getattr(kind, "__metadata__", ()):
            if isinstance(said, ParameterInfo) and _open_above(said) and is_whole(kind):
                said.max = MOST_SEED if "seed" in name and name != "seeds" else MOST
    return command


def _open_above(said: ParameterInfo) -> bool:
    """Whether a lower bound is stated and no upper one."""
    return said.min is not None and said.max is None


def is_whole(kind: Any) -> bool:
    """Whether an annotation takes a whole number, or several, or None."""
    return kind is int or any(is_whole(part) for part in get_args(kind))


def out(help: str) -> Any:
    """``--out``: the file or folder to write."""
    return option(OUTPUT, "--out", "-o", help=help)


def plot(help: str) -> Any:
    """``--plot``: the picture to draw."""
    return option(OUTPUT, "--plot", help=f"{help} to this file (.png, .svg or .pdf).")


def policy(help: str, *spellings: str) -> Any:
    """``--policy``: what decides. Serving commands also take it as ``--agent``."""
    return option(POLICIES, "--policy", "-p", *spellings, help=help)


def model(help: str, panel: str = POLICIES) -> Any:
    """``--model``: a model that is asked or loaded, or whose bytes are counted."""
    return option(panel, "--model", "-m", help=help)


def geometry(help: str, panel: str) -> Any:
    """``--model``: a model whose bytes are counted."""
    return model(
        f"{help}: a Hugging Face config.json, its folder, or a name ({', '.join(MODELS)}; all of them: "
        "kv-cache-rl models).",
        panel,
    )


def temperature(low: float = 0) -> Any:
    """``--temperature``: how freely a model samples."""
    return option(DECODING, "--temperature", help="Of sampled tokens.", min=low)


def rate(help: str, least: float | None = None) -> Any:
    """``--rate``: how fast requests come."""
    return option(WORKLOAD, "--rate", help=help, min=least)


def token_budget(help: str) -> Any:
    """``--token-budget``: tokens that a step may compute."""
    return option(SERVICE, "--token-budget", help=help, min=1)


def resume(help: str) -> Any:
    """``--resume``: go on with what was interrupted."""
    return option(RUNNING, "--resume", help=help)


def trace(help: str) -> Any:
    """``--trace``: the trace file that is played."""
    return option(WORKLOAD, "--trace", help=help)


def trace_format(names: Iterable[str]) -> Any:
    """``--format``: the format of a trace file, of those that the command reads."""
    return option(WORKLOAD, "--format", help=f"{', '.join(names)}; default: the file says.")


def task(help: str) -> Any:
    """``--task``: a serving task."""
    return option(WORKLOAD, "--task", "-t", help=help)


def seed(help: str, low: int | None = 0, high: int | None = None) -> Any:
    """``--seed``: what is drawn, the same for the same number."""
    return option(WORKLOAD, "--seed", help=help, min=low, max=high)


def seeds(help: str, low: int | None = None, high: int | None = None) -> Any:
    """``--seeds``: how many seeds are played."""
    return option(WORKLOAD, "--seeds", help=help, min=low, max=high)


def name(help: str) -> Any:
    """``--name``: what the thing that is made is called."""
    return option(OUTPUT, "--name", help=help)


def part(names: Sequence[str] = ()) -> Any:
    """``--part``: the parts of a benchmark that are measured."""
    known = f" of {', '.join(names)}" if names else ""
    return option(RUNNING, "--part", help=f"Only these{known}; by comma or repeated; default: all.")


def episodes(help: str) -> Any:
    """``--episodes``: how many episodes are played."""
    return option(RUNNING, "--episodes", help=help, min=1)


def host(help: str, panel: str) -> Any:
    """``--host``: the address of a server, or the memory of the machine behind a GPU."""
    return option(panel, "--host", help=help)


def pairs(help: str) -> Any:
    """``--set``: settings as NAME=VALUE."""
    return option(WORKLOAD, "--set", help=f"{help}; repeat for several.")


AsJson = Annotated[bool, option(OUTPUT, "--json", help="Print one JSON object to stdout, nothing else.")]
Markdown = Annotated[bool, option(OUTPUT, "--markdown", help="Print the table as Markdown instead.")]
Check = Annotated[bool, option(RUNNING, "--check", help="Exit with 1 where a target is missed.")]
Fast = Annotated[
    bool, option(RUNNING, "--fast", help="A rougher answer sooner: shorter runs, fewer repeats.")
]
Seconds = Annotated[float, option(RUNNING, "--seconds", help="Time per measured rate.", min=0.05)]
Port = Annotated[int, option(RUNNING, "--port", help="Port to listen on; 0 takes a free one.")]
Workers = Annotated[
    int | None,
    option(RUNNING, "--workers", help="Processes; default: all cores. Results do not depend on it.", min=1),
]
Hardware = Annotated[
    str | None,
    option(
        SERVICE,
        "--hardware",
        help="Profile of GPUs and model, with measured seconds; default: a100-llama-3.1-8b. One of "
        f"{', '.join(HARDWARE)}.",
    ),
]


def names_of(values: list[str] | None) -> list[str]:
    """What repeated or comma-separated values name, each once."""
    return list(
        dict.fromkeys(name.strip() for value in values or [] for name in value.split(",") if name.strip())
    )


def command_line() -> str:
    """The command as it was given, without what does not change the results."""
    words, kept = iter(sys.argv[1:]), []
    for word in words:
        if word in ("--workers", "--ray"):
            next(words, None)
        elif not word.startswith(("--workers=", "--ray=")) and word != "--json":
            kept.append(word)
    return shlex.join(["kv-cache-rl", *kept])


def writable(path: Path | None, spelling: str) -> None:
    """Checks before the work begins that the file of an option can be written.

    Raises:
        BadInput: its folder does not exist.
        OSError: it cannot be opened there, or is a pipe of the file system, which waits for a reader.
    """
    if path is None:
        return
    from kv_cache_rl.cli.failures import BadInput, no_folder

    if lacking := no_folder(path.parent):
        raise BadInput(f"{spelling} {path}: {lacking}")
    if path.resolve().is_fifo():  # a pipe without a name, such as /dev/stdout, has its other end
        regular(path)
    try:
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


OUTPUTS = ("out", "plot", "log")
"""Parameters that name a file which a command writes."""
SHOWN = (".html", ".png", ".svg", ".pdf")
"""Endings of what no command reads: pages and pictures may stand in a folder that is read."""


def sparing_inputs(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which refuses to write over a file that it reads, or among the files of a folder that it
    reads, or two things into one file, before it does anything.
    """
    if not set(OUTPUTS) & set(inspect.signature(command).parameters):
        return command

    @wraps(command)
    def checked(**values: Any) -> None:
        _refuse_one_file({f"--{name}": values.get(name) for name in (*OUTPUTS, "page")})
        for name in OUTPUTS:
            if isinstance(values.get(name), Path):
                _refuse_folder(name, values)
                if values[name].is_file():
                    refuse_read(f"--{name}", values[name], _inputs(values))
        command(**values)

    return checked


def _refuse_one_file(outputs: dict[str, Any]) -> None:
    """Raises BadInput where two options name one file, of which the second would write over the first, or one
    names the file that stdout is sent to.
    """
    from kv_cache_rl.cli.failures import BadInput
    from kv_cache_rl.files import same_file

    given = [(option, path) for option, path in outputs.items() if isinstance(path, Path)]
    for option, path in given:
        if path.is_file() and same_file(path, "/dev/stdout"):
            raise BadInput(f"{option} {path} is where the output of this command goes; give another path")
    for (first, one), (second, other) in itertools.combinations(given, 2):
        if one.resolve() == other.resolve() or same_file(one, other):
            raise BadInput(f"{first} and {second} both name {other}; give each its own")


def _refuse_folder(output: str, values: dict[str, Any]) -> None:
    from kv_cache_rl.traces.files import refuse_within
    from kv_cache_rl.traces.reading import located

    if isinstance(values.get("trace"), str | Path):
        refuse_within(located(values["trace"])[0], values[output], f"--{output}")


def _inputs(values: dict[str, Any]) -> list[str | Path]:
    """The files and folders that these parameters of a command may name, besides what it writes."""
    from kv_cache_rl.traces.reading import located

    given = [one for name, value in values.items() if name not in OUTPUTS for one in _each(value)]
    return given + [located(one)[0] for one in given]


def _each(value: Any) -> list[str | Path]:
    return [
        one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str | Path)
    ]


def refuse_read(spelling: str, output: Path | None, read: Iterable[str | Path]) -> None:
    """Raises BadInput where the file of an option is one of those that are read, or lies in a folder of them
    and is neither a page nor a picture.

    Args:
        spelling: the option.
        output: what it names; None where it was not given.
        read: files and folders.
    """
    from kv_cache_rl.cli.failures import BadInput
    from kv_cache_rl.files import same_file

    if output is None or not output.is_file():
        return
    for one in read:
        if same_file(output, one):
            raise BadInput(f"{spelling} {output} is a file that this command reads; give another path")
        inside = isinstance(one, Path) and any(same_file(one, above) for above in output.resolve().parents)
        if inside and output.suffix.lower() not in SHOWN:
            raise BadInput(
                f"{spelling} {output} is a file of {one}, which this command reads; give another path"
            )


def picture(path: Path | None) -> None:
    """Checks before the work begins that a picture can be drawn to a file.

    Raises:
        BadInput: the file's ending is no known kind of picture, or its folder does not exist.
        OSError: it cannot be opened there.
        MissingExtra: what draws is not installed.
    """
    if path is None:
        return
    from kv_cache_rl.cli.failures import choose
    from kv_cache_rl.extras import need

    choose("kind of picture", path.suffix.lower(), (".png", ".svg", ".pdf"))
    regular(path)
    need("--plot", "matplotlib")
    writable(path, "--plot")
