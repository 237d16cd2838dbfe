"""Where a trace comes from: a file of any format that names blocks, or a synthetic workload by name."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.numbers import whole_number
from kv_cache_rl.sim.hierarchy.generate import WORKLOADS, workload, zipf, zipf_accesses
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.accesses import Accesses, accesses_of, load_accesses
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.traces.trace import Trace
from kv_cache_rl.traces import files
from kv_cache_rl.traces.reading import located

PREFIX = "workload:"
MOST_SEED = 2**63 - 1
ZIPF: dict[str, Any] = {"pages": 1000, "accesses": 10_000, "skew": 1.0, "seed": 0, "page_bytes": 0}
"""Parameters of `workload:zipf` with their defaults."""


@dataclass(frozen=True, slots=True)
class Source:
    """A trace that can be named, sent to another process and made there."""

    name: str
    file: str | None = None
    """Path of a trace file; None: `workload` makes the trace."""
    workload: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    """Of the loader (format, selection, jitter_seed, ...), or parameters of the workload."""
    content: str = field(default="", compare=False)
    """SHA-256 of the file when the source was named."""

    @property
    def seeded(self) -> bool:
        """Whether another seed is another trace: true of workloads; a file stays what it is."""
        return self.workload is not None

    def trace(self, seed: int | None = None) -> Trace:
        """The trace;

        `seed` draws a workload anew. Raises TraceError or HierarchyError where there is none.
        """
        options = dict(self.options)
        if self.file is not None:
            return load_trace(self.file, **options)
        if seed is not None:
            options["seed"] = seed
        return (
            zipf(**{**ZIPF, **options})
            if self.workload == "zipf"
            else workload(str(self.workload), **options)
        )

    def accesses(self, seed: int | None = None) -> Accesses:
        """Its page accesses and nothing else, as `trace`; a file in binary and a Zipf trace are never held
        as whole traces.

        Raises HierarchyError where it has requests that are paths of blocks.
        """
        options = dict(self.options)
        if self.file is not None:
            return load_accesses(self.file, **options)
        if self.workload != "zipf":
            return accesses_of(self.trace(seed))
        drawn = ZIPF | options | ({} if seed is None else {"seed": seed})
        return zipf_accesses(**drawn)

    def to_json(self) -> dict:
        """What identifies the trace: a file by its content, not by where it lies."""
        made = {"workload": self.workload} if self.workload else {"sha256": self.content}
        written = {"decode_writes": True} if self.file is not None else {}
        return {"name": self.name, **made, "options": written | dict(self.options)}


def from_file(path: str | Path, name: str | None = None, **options: Any) -> Source:
    """The source that reads a trace file. Raises TraceError where the file cannot be read."""
    return Source(name or Path(path).name, str(path), None, tuple(sorted(options.items())), digest(str(path)))


def from_workload(kind: str, name: str | None = None, **parameters: Any) -> Source:
    """The source that makes a synthetic workload.

    Raises HierarchyError for a name or a parameter that does not exist.
    """
    if kind not in (*WORKLOADS, "zipf"):
        raise HierarchyError(unknown("workload", kind, (*WORKLOADS, "zipf")))
    for parameter, value in parameters.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (isinstance(value, float) and parameter == "skew")):
            raise HierarchyError(f"{kind}: {parameter} = {value!r} is no whole number; correct it")
        if parameter == "seed":
            whole_number(f"{kind}: seed", value, 0, MOST_SEED, HierarchyError)
        if parameter == "skew" and not 0 <= value < math.inf:
            raise HierarchyError(f"{kind}: skew = {value!r} is no skew; give a number from 0 on")
    if kind == "zipf":
        for parameter in parameters:
            if parameter not in ZIPF:
                raise HierarchyError(f"zipf has no parameter {parameter!r}; it takes {', '.join(ZIPF)}")
    return Source(name or kind, None, kind, tuple(sorted(parameters.items())))


def parse_source(text: str, **options: Any) -> Source:
    """The source that ``FILE`` or ``workload:NAME[,parameter=number,...]`` names; `options` are for files."""
    if not text.startswith(PREFIX):
        return from_file(text, **options)
    kind, *pairs = text.removeprefix(PREFIX).split(",")
    parameters: dict[str, float] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key in parameters:
            raise HierarchyError(f"{text!r} gives {key} twice; give it once")
        try:
            parameters[key] = float(value) if key == "skew" else int(value)
        except ValueError:
            raise HierarchyError(f"{pair!r} in {text!r} is no parameter; write parameter=number") from None
    return from_workload(kind, None, **parameters)


def source_of(table: Mapping[str, Any]) -> Source:
    """The source that a table of a sweep definition describes:

    `file` or `workload`, `name`, the rest are options.
    """
    rest = dict(table)
    file, kind, name = rest.pop("file", None), rest.pop("workload", None), rest.pop("name", None)
    if (file is None) == (kind is None):
        raise HierarchyError(
            f"workload {dict(table)} needs either workload = NAME or file = PATH; give one of them"
        )
    for key in ("seed", "jitter_seed"):
        if file is not None and key in rest:
            whole_number(f"{file}: {key}", rest[key], 0, MOST_SEED, HierarchyError)
    return from_file(file, name, **rest) if file is not None else from_workload(str(kind), name, **rest)


@cache
def digest(path: str) -> str:
    """SHA-256 of a trace file, or of the files in a folder, in hexadecimal.

    Raises:
        TraceError: it is neither.
    """
    return files.digest(located(path)[0])
