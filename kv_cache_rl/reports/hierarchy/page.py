"""The page of a sweep: every figure with what there is to see in it, in one file that opens offline."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from kv_cache_rl.files import write_whole
from kv_cache_rl.reports.canvas import Plot, save, style
from kv_cache_rl.reports.eviction.page import facts
from kv_cache_rl.reports.hierarchy.ablation import ablation_figures
from kv_cache_rl.reports.hierarchy.folder import read
from kv_cache_rl.reports.hierarchy.rows import Results
from kv_cache_rl.reports.hierarchy.sweep import sweep_figures
from kv_cache_rl.reports.stylesheet import STYLE
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

INDEX = "index.html"
OWN_STYLE = """
img{display:block;max-width:100%;height:auto;margin:10px auto 0;background:#fff;border-radius:6px}
details.scenario>summary{cursor:pointer;font-weight:600;font-size:15px}
details.scenario code{font-weight:400;color:var(--soft)}
figcaption{max-width:none;margin-top:8px}
"""


def plots(folder: str | Path, out: str | Path) -> list[Path]:
    """Draws every figure of a finished sweep or ablation into `out`; returns the files, the page that shows
    them last.

    Raises:
        HierarchyError: the folder holds no finished sweep.
    """
    results = read(folder)
    return _written(results, [*ablation_figures(results), *sweep_figures(results)], Path(out))


def ablation_plots(folder: str | Path, out: str | Path) -> list[Path]:
    """Draws the figures of a finished regret ablation alone: latency by horizon, hit rate by weight, scatter,
    bars.

    Raises:
        HierarchyError: the folder holds no finished sweep, or one without policies named after weight and
            horizon.
    """
    results = read(folder)
    found = ablation_figures(results)
    if not found:
        raise HierarchyError(
            f"{folder} has no policy named after a weight and a horizon (regret_aware_w6.0_h24): it is no "
            "ablation; use plots"
        )
    return _written(results, found, Path(out))


def _written(results: Results, drawn: Sequence[Plot], out: Path) -> list[Path]:
    files: list[Path] = []
    for plot in drawn:
        with style():
            files.append(save(plot.draw(), out / f"{plot.name}.png"))
    index = out / INDEX
    write_whole(index, page(results, drawn, files).encode())
    return [*files, index]


def page(results: Results, drawn: Sequence[Plot], files: Sequence[Path]) -> str:
    """The whole page, pictures included."""
    images = {plot.name: figure(plot, path) for plot, path in zip(drawn, files, strict=True)}
    whole = "".join(f'<div class="card">{images[plot.name]}</div>' for plot in drawn if not plot.group)
    groups = dict.fromkeys(plot.group for plot in drawn if plot.group)
    parts = "".join(
        f'<details class="card scenario"><summary>{escape(group)} '
        f"<code>{escape(_rules(results.rules(group)))}</code></summary>"
        + "".join(images[plot.name] for plot in drawn if plot.group == group)
        + "</details>"
        for group in groups
    )
    title = f"Sweep: {results.name}"
    lead = (
        f"{len(results.policies)} policies on {len(results.workloads)} workloads in "
        f"{len(results.scenarios)} scenarios. All policies of a cell replay the same trace, so a "
        "difference between two of them is surer than their intervals look."
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}{OWN_STYLE}</style>"
        f'</head><body><main><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f"{facts(_about(results))}{_failed(results)}<h2>All scenarios</h2>{whole}"
        + (
            f'<h2>One scenario at a time</h2><p class="note">Open a line to see its workloads.</p>{parts}'
            if groups
            else ""
        )
        + "</main></body></html>\n"
    )


def figure(plot: Plot, path: Path) -> str:
    """A picture, which carries its title, and what there is to see in it."""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{escape(plot.title, quote=True)}" src="data:image/png;base64,{data}">'
    said = f"<figcaption>{escape(plot.reading)}</figcaption>"
    return f'<figure id="{escape(plot.name, quote=True)}">{image}{said}</figure>'


def _about(results: Results) -> dict[str, object]:
    about: dict[str, object] = {"rows": f"{len(results.rows):,}"}
    seeds = [seed for seed in dict.fromkeys(row.get("seed") for row in results.rows) if seed is not None]
    if seeds:
        about["seeds"] = ", ".join(map(str, seeds))
    void = results.metadata.get("void", {})
    for key, name in (
        ("policies", "cells in which all policies tie"),
        ("prefetch", "rows the prefetch switch does not change"),
    ):
        if key in void:
            about[name] = f"{void[key]['void']:,} of {void[key]['of']:,}"
    version = results.metadata.get("versions", {}).get("kv-cache-rl")
    if version:
        about["kv-cache-rl"] = version
    if results.unsized:
        about["transfers count as free"] = f"{', '.join(results.unsized)}: give the scenario a model"
    if results.metadata.get("command"):
        about["made by"] = results.metadata["command"]
    return about


def _rules(rules: Mapping) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in rules.items()
    )


def _failed(results: Results) -> str:
    if not results.failed:
        return ""
    reasons = "".join(
        f"<p>{escape(str(reason))}</p>"
        for reason in sorted({str(row.get("error")) for row in results.failed})
    )
    count = len(results.failed)
    return f'<div class="card"><p class="bad">{count} rows failed and are in no figure.</p>{reasons}</div>'
