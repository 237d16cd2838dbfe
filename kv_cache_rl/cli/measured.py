"""One measured number beside its target and its peer, and the table of a benchmark."""

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from kv_cache_rl.cli.terminal import console, styled
from kv_cache_rl.reports.tables import plain_table

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Measured:
    """One number, what it should be, and its peer; `ratio` says how many times better than the peer it is."""

    name: str
    value: float
    unit: str
    target: float | None = None
    more_is_better: bool = True
    peer: str = ""
    peer_value: float | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.more_is_better else self.value <= self.target

    @property
    def ratio(self) -> float | None:
        if not self.peer_value or not self.value:
            return None
        return self.value / self.peer_value if self.more_is_better else self.peer_value / self.value

    def to_json(self) -> dict:
        names = ("name", "value", "unit", "target", "met", "peer", "peer_value", "ratio")
        return {name: getattr(self, name) for name in names}


def yes_or_no(met: bool | None) -> "str | Text":
    """Whether something holds, a dash where it is not asked for."""
    return {True: "yes", False: styled(("no", "red")), None: "-"}[met]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def show(found: list[Measured], machine: dict, title: str) -> None:
    headings = {
        "measured": "left",
        "value": "right",
        "unit": "left",
        "target": "right",
        "met": "right",
        "peer": "left",
    }
    table = plain_table(title, headings | {"its value": "right", "times better": "right"})
    for one in found:
        target = f"{'≥' if one.more_is_better else '≤'} {number(one.target)}" if one.target else "-"
        met = yes_or_no(one.met)
        theirs = [number(one.peer_value) if one.peer_value else "-", f"{one.ratio:.3g}" if one.ratio else "-"]
        table.add_row(one.name, number(one.value), one.unit, target, met, one.peer or "-", *theirs)
    out = console()
    out.print(table)
    out.print(", ".join(f"{key} {value}" for key, value in machine.items() if value), soft_wrap=True)


def machine_facts() -> dict:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        model = names[0] if names else model

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{
            package: installed(package)
            for package in ("numpy", "numba", "gymnasium", "openai", "fastapi", "verifiers")
        },
    }
