"""What lies in the folder of a finished sweep, checked before anything is drawn: a file that a hand has
changed is named with the row and the field.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kv_cache_rl.core.numbers import is_count, is_number
from kv_cache_rl.files import NotJson, json_value, regular
from kv_cache_rl.reports.hierarchy.rows import MEASURES, Results
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

RESULTS, METADATA, CURVES = "results.json", "run_metadata.json", "curves.json"

Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


ROW: dict[str, Check] = {
    **dict.fromkeys(("scenario", "workload", "policy"), _is_text),
    "metrics": _maybe(_is_object),
    "seed": _maybe(is_count),
    "bound": _maybe(_is_text),
    "bound_hit_rate": _maybe(is_number),
    "void": _each(_is_text),
    "free_transfers": lambda value: isinstance(value, bool),
}
"""Field of a row -> what it must be. The first four must be there."""
MUST = 4
NUMBERS: dict[str, Check] = {
    **{measure.key: is_number for measure in MEASURES},
    "prefetch_requests": is_count,
    "prefetch_usefulness": is_number,
}
CURVE: dict[str, Check] = {
    "capacities": lambda value: _each(is_count)(value) and value == sorted(value),
    "lru": _each(is_number),
    "bound": _each(is_number),
    "bound_name": _is_text,
    "seed": _maybe(is_count),
}
ABOUT: dict[str, Check] = {
    "sweep": _is_text,
    "command": _is_text,
    "scenarios": _each(_is_object),
    "versions": _is_object,
    "void": lambda value: (
        _is_object(value)
        and all(_is_object(one) and {"void", "of"} <= set(one) for one in value.values())
        and all(is_count(number) for one in value.values() for number in one.values())
    ),
}
SCENARIO: dict[str, Check] = {
    "name": _is_text,
    "tiers": lambda value: (
        _is_object(value) and all(is_number(size) or _is_text(size) for size in value.values())
    ),
}


def read(folder: str | Path) -> Results:
    """The results in a sweep's folder.

    Raises:
        HierarchyError: the folder holds no finished sweep, or a file in it is not what a sweep writes.
    """
    folder = Path(folder)
    if not (folder / RESULTS).is_file():
        raise HierarchyError(
            f"{folder} has no {RESULTS}, so it is no finished sweep; make one with kv-cache-rl hierarchy "
            "sweep"
        )
    rows = _rows(folder / RESULTS)
    good, failed = ([row for row in rows if (row["metrics"] is not None) is which] for which in (True, False))
    if not good:
        raise HierarchyError(
            f"all {len(failed)} rows of {folder / RESULTS} failed: {failed[0].get('error')}; correct the "
            "sweep"
        )
    about = _object(folder / METADATA)
    _checked(folder / METADATA, about, ABOUT)
    for scenario in about.get("scenarios", []):
        _checked(f"{folder / METADATA}, scenarios", scenario, SCENARIO)
    name = str(about.get("sweep", folder.name))
    return Results(name, tuple(good), tuple(failed), _curves(folder / CURVES), about)


def _rows(path: Path) -> list[dict]:
    found = _json(path)
    if not isinstance(found, list) or not found:
        raise HierarchyError(f"{path} holds no rows; run the sweep again")
    for number, row in enumerate(found):
        where = f"{path}, row {number}"
        missing = [key for key in list(ROW)[:MUST] if not isinstance(row, dict) or key not in row]
        if missing:
            raise HierarchyError(
                f"{where} has no {missing[0]!r}: it is not a row of a hierarchy sweep; give its folder"
            )
        _checked(where, row, ROW)
        if row["metrics"] is None:
            continue
        absent = [measure.key for measure in MEASURES if measure.key not in row["metrics"]]
        if absent:
            raise HierarchyError(f"{where} has no metric {absent[0]!r}; run the sweep again")
        _checked(where, row["metrics"], NUMBERS)
    return found


def _curves(path: Path) -> dict[str, dict]:
    found = _object(path)
    for workload, entry in found.items():
        where = f"{path}, {workload}"
        if not isinstance(entry, dict) or not {"capacities", "lru", "bound", "bound_name"} <= set(entry):
            raise HierarchyError(f"{where} is no curve; run the sweep again")
        _checked(where, entry, CURVE)
        if len({len(entry[key]) for key in ("capacities", "lru", "bound")}) > 1:
            raise HierarchyError(f"{where}: its columns differ in length; run the sweep again")
    return found


def _checked(where: object, values: Mapping, fields: Mapping[str, Check]) -> None:
    """Raises HierarchyError for a field that is there and is not what it must be."""
    for key, check in fields.items():
        if key in values and not check(values[key]):
            text = repr(values[key])
            shown = text if len(text) <= 40 else f"{text[:37]}..."
            raise HierarchyError(f"{where}: {key} is {shown}, which no sweep writes; run the sweep again")


def _object(path: Path) -> dict:
    """The object in a file, empty where there is no file."""
    found = _json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise HierarchyError(f"{path} must hold an object; run the sweep again")
    return found


def _json(path: Path) -> Any:
    try:
        return json_value(regular(path).read_bytes())
    except NotJson as wrong:
        raise HierarchyError(f"{path}: {wrong}; run the sweep again") from None
