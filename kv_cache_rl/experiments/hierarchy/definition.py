"""The definition of a sweep: what is compared with what, read from TOML."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kv_cache_rl.core.numbers import shown, unread
from kv_cache_rl.experiments.hierarchy.cells import Cell, Decider, check_tuning, decider_of, without_repeats
from kv_cache_rl.experiments.hierarchy.keys import FILE, SCENARIO, SWEEP, check_kinds
from kv_cache_rl.experiments.hierarchy.settings import Setting, setting_of
from kv_cache_rl.experiments.hierarchy.sources import MOST_SEED, Source, source_of
from kv_cache_rl.files import regular
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

OWN = ("semantics", "model", "policies", "warm_up")
"""Keys of a scenario that are no rules of a replay."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is compared with what."""

    name: str
    sources: tuple[Source, ...]
    settings: tuple[Setting, ...]
    deciders: tuple[Decider, ...]
    seeds: tuple[int | None, ...] = (None,)
    definition: str = field(default="", compare=False)
    """The text it was read from."""

    def __post_init__(self) -> None:
        named: tuple[tuple[str, list], ...] = (
            ("workload", [source.name for source in self.sources]),
            ("scenario", [setting.name for setting in self.settings]),
            ("policy", [decider.name for decider in self.deciders]),
            ("seed", list(self.seeds)),
        )
        for what, names in named:
            if not names:
                raise HierarchyError(f"sweep {self.name!r} has no {what}; give at least one")
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise HierarchyError(f"sweep {self.name!r} has {what} {twice[0]!r} twice; name each once")
        for setting in self.settings:
            mine = [decider for decider in self.deciders if plays(setting, decider)]
            if not mine:
                raise HierarchyError(
                    f"no policy of sweep {self.name!r} is replayed in scenario {setting.name!r}; "
                    "add one, or drop it"
                )
            for decider in mine:
                check_tuning(decider, setting.semantics)

    def cells(self) -> list[Cell]:
        """Every cell once, in order of workload, seed, scenario, policy."""
        return without_repeats(
            Cell(source, setting, decider, seed)
            for source in self.sources
            for seed in self.seeds
            for setting in self.settings
            for decider in self.deciders
            if plays(setting, decider)
        )

    def over(self, seeds: tuple[int | None, ...]) -> "Sweep":
        """The same under other seeds."""
        return Sweep(self.name, self.sources, self.settings, self.deciders, seeds, self.definition)


def plays(setting: Setting, decider: Decider) -> bool:
    """Whether a scenario is for this decider: by its name or its policy's."""
    return decider.name in setting.policies or setting.plays(decider.policy)


def read_sweep(path: str | Path) -> Sweep:
    """The sweep that a TOML file defines. Raises HierarchyError that says what is wrong in it."""
    try:
        text = regular(path).read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except RecursionError:
        raise HierarchyError(f"{path}: its brackets are nested too deep; mend it") from None
    except ValueError as wrong:  # no TOML, no UTF-8, or a number of thousands of digits
        raise HierarchyError(f"{path} is no TOML: {unread(wrong)}; mend it") from None
    try:
        return sweep_of(table, Path(path).parent, text)
    except HierarchyError as wrong:
        raise HierarchyError(f"{path}: {wrong}") from None


def committed(name: str) -> Path:
    """The file of a sweep definition that comes with the package."""
    roots = (Path(__file__).parents[2] / "scenarios", Path(__file__).parents[3] / "scenarios")
    found = [root / "hierarchy" / f"{name}.toml" for root in roots]
    return next((path for path in found if path.is_file()), found[-1])


def sweep_of(table: Mapping[str, Any], folder: Path = Path(), text: str = "") -> Sweep:
    """The sweep of a parsed definition; files are looked for from `folder`."""
    for key in table:
        if key not in SWEEP:
            raise HierarchyError(
                f"a sweep has no key {key!r}; use {', '.join(SWEEP)} (hierarchy sweep --keys explains them)"
            )
    seeds = table.get("seeds", [])
    if not isinstance(seeds, list) or not all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in seeds):
        raise HierarchyError(
            f"seeds = {shown(seeds)} must be a list of whole numbers from 0 on, of at most 63 bits"
        )
    for key in ("workloads", "scenarios"):
        if not isinstance(table.get(key, []), list) or not all(
            isinstance(entry, dict) for entry in table.get(key, [])
        ):
            raise HierarchyError(f"{key} must be tables; write [[{key}]]")
    policies = table.get("policies", [])
    if not isinstance(policies, list) or not all(isinstance(entry, str | dict) for entry in policies):
        raise HierarchyError(
            f'policies = {policies!r} must be a list; write ["lru", {{policy = "regret_aware", ...}}]'
        )
    workloads = [dict(entry) for entry in table.get("workloads", [])]
    for entry in workloads:
        if not all(isinstance(value, int | float | str) for value in entry.values()):
            raise HierarchyError(
                f"workload {entry} has a parameter that is neither a number nor a text; correct it"
            )
        if "file" in entry:
            check_kinds("workload of a file", entry, FILE)
            entry["file"] = str(folder / str(entry["file"]))
    for entry in table.get("scenarios", []):
        own = {key: value for key, value in entry.items() if key in OWN}
        check_kinds(f"scenario {entry.get('name', 'scenario')!r}", own, SCENARIO)
    return Sweep(
        name=str(table.get("name", "sweep")),
        sources=tuple(source_of(entry) for entry in workloads),
        settings=tuple(setting_of(entry) for entry in table.get("scenarios", [])),
        deciders=tuple(decider_of(entry) for entry in policies),
        seeds=tuple(seeds) or (None,),
        definition=text,
    )
