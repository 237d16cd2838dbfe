"""What a sweep leaves in its folder, the same bytes on every machine: results, summary, curves, sources."""

import csv
import io
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kv_cache_rl import __version__
from kv_cache_rl.experiments.hierarchy.cells import traced
from kv_cache_rl.experiments.hierarchy.comparisons import summarised, void_counts
from kv_cache_rl.files import write_json, write_whole
from kv_cache_rl.sim.hierarchy.curves.bound import bound_name, min_curve
from kv_cache_rl.sim.hierarchy.curves.runs import lru_curve, pieces

if TYPE_CHECKING:
    from kv_cache_rl.experiments.hierarchy.definition import Sweep

RESULTS, TABLE, SUMMARY, METADATA, CURVES = (
    "results.json",
    "results.csv",
    "summary.csv",
    "run_metadata.json",
    "curves.json",
)
DEFINITION = "sweep.toml"
CURVE_POINTS = 48


def write_artifacts(folder: Path, sweep: "Sweep", rows: Sequence[dict], command: str) -> None:
    """Writes every file of a finished sweep; each appears whole or not at all."""
    write_json(folder / RESULTS, rows)
    write_csv(folder / TABLE, [flat(row) for row in rows])
    write_csv(folder / SUMMARY, summarised(rows))
    write_json(folder / CURVES, curves(sweep))
    write_json(folder / METADATA, metadata(sweep, rows, command))
    if sweep.definition:
        write_whole(folder / DEFINITION, sweep.definition.encode())


def written(sweep: "Sweep") -> tuple[str, ...]:
    """The names of those files."""
    return (RESULTS, TABLE, SUMMARY, CURVES, METADATA, *([DEFINITION] if sweep.definition else []))


def flat(row: dict) -> dict:
    """A row with its metrics beside the rest."""
    return {**{key: value for key, value in row.items() if key != "metrics"}, **(row["metrics"] or {})}


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """A table of all columns that a row has; dictionaries and lists as JSON text with sorted keys, None as
    nothing.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(v, sort_keys=True) if isinstance(v, dict | list) else v
                for key, v in row.items()
            }
        )
    write_whole(path, text.getvalue().encode())


def metadata(sweep: "Sweep", rows: Sequence[dict], command: str) -> dict:
    """What the results were made from and with; no time and no host, so that equal runs give equal files."""
    return {
        "command": command,
        "sweep": sweep.name,
        "versions": {
            "kv-cache-rl": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "numba": _numba(),
        },
        "policies": [decider.to_json() for decider in sweep.deciders],
        "workloads": [source.to_json() for source in sweep.sources],
        "scenarios": [setting.to_json() for setting in sweep.settings],
        "seeds": list(sweep.seeds),
        "trace_sha256": {source.name: source.content for source in sweep.sources if source.content},
        "rows": len(rows),
        "failed_rows": sum(row["error"] is not None for row in rows),
        "void": void_counts(rows),
    }


def _numba() -> str | None:
    try:
        return version("numba")
    except PackageNotFoundError:
        return None


def curves(sweep: "Sweep") -> dict:
    """Workload -> its exact LRU hit rate and that of MIN by capacity in blocks, pages counted alike, for the
    first seed.
    """
    found = {}
    for source in sweep.sources:
        trace = traced(source, sweep.seeds[0])
        cut = pieces(trace)
        lru, capacities = lru_curve(trace, cut), curve_points(trace.blocks)
        found[source.name] = {
            "seed": sweep.seeds[0] if source.seeded else None,
            "capacities": capacities,
            "lru": [lru.at(capacity) for capacity in capacities],
            "bound": [float(rate) for rate in min_curve(trace, capacities, cut).hit_rate],
            "bound_name": bound_name(trace) or "MIN with bypass, pages counted alike",
        }
    return found


def curve_points(blocks: int) -> list[int]:
    """Capacities from 1 to all blocks, evenly spaced in the logarithm."""
    return sorted({round(float(value)) for value in np.geomspace(1, max(blocks, 1), CURVE_POINTS)})
