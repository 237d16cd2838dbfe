"""A sweep's figures: hit rate, latency and bytes of every policy, latency against bytes, and what prefetches
were good for.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from statistics import fmean
from typing import TYPE_CHECKING

from kv_cache_rl.files import slug
from kv_cache_rl.reports import canvas
from kv_cache_rl.reports.canvas import BLUE, GREY, INK, VERMILION, Plot, Sheet
from kv_cache_rl.reports.hierarchy.curves import curve_figures
from kv_cache_rl.reports.hierarchy.panels import Panel, scenario_panel, workload_panel
from kv_cache_rl.reports.hierarchy.prefetch import prefetch_figures
from kv_cache_rl.reports.hierarchy.rows import BASE, HIT_RATE, MEASURES, Measure, Results, ordered
from kv_cache_rl.reports.hierarchy.trade_off import trade_off

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROWEST = 4.0
"""Points of hit rate that an x axis spans at least; of other measures a twentieth of their mean."""
BOUND_LINE = (0, (4, 2))


def sweep_figures(results: Results) -> list[Plot]:
    """All figures of a sweep: those over all scenarios first, then each scenario's own."""
    plots = [overview(results, measure) for measure in MEASURES]
    plots += [trade_off(results), *prefetch_figures(results), *curve_figures(results)]
    if len(results.workloads) > 1:
        plots += [
            by_workload(results, measure, scenario, number)
            for number, scenario in enumerate(results.scenarios)
            for measure in MEASURES
        ]
    return [plot for plot in plots if plot is not None]


def overview(results: Results, measure: Measure) -> Plot | None:
    """A panel per scenario: against the base over the workloads, or the seeds of the only workload;

    None if all is zero.
    """
    several = len(results.workloads) > 1
    relative = several and BASE in results.policies
    found = (scenario_panel(results, measure, scenario, relative) for scenario in results.scenarios)
    panels = [panel for panel in found if panel is not None]
    if not panels:
        return None
    over = f"{len(results.workloads)} workloads" if several else seeds_of(results)
    if not relative:
        title, axis = f"{measure.title} by scenario, mean over {over}", measure.axis
    elif measure is HIT_RATE:
        title, axis = (
            f"{measure.title} minus that of {BASE}, mean over {over}",
            f"points of hit rate above {BASE}",
        )
    else:
        title = f"{measure.title} ÷ that of {BASE}, geometric mean over {over}"
        axis = f"{measure.title.lower()} ÷ that of {BASE}; below 1 is less"
    about = f"{axis} · bars: {interval_name(panels, 'workloads' if several else 'seeds')}"
    if len({len(values) for panel in panels for values in panel.values.values()}) > 1 and several:
        about += " · in brackets: how many workloads have any"
    about += ranges(panels, measure, relative)
    reading = _overview_reading(panels, measure, relative)
    return Plot(measure.key, title, reading, lambda: _figure(panels, measure, title, about, relative))


def _overview_reading(panels: Sequence[Panel], measure: Measure, relative: bool) -> str:
    leaders = Counter(name for panel in panels for name in panel.best(measure))
    if not leaders:
        return "All policies come to the same everywhere: nothing is compared here."
    led = ", ".join(f"{name} in {count}" for name, count in leaders.most_common(4))
    text = (
        f"The {'highest' if measure.best > 0 else 'lowest'} mean is that of {led} of {len(panels)} scenarios."
    )
    if not relative:
        return text
    best = [
        (panel.means()[panel.best(measure)[0]].mean, panel.bound) for panel in panels if panel.best(measure)
    ]
    if measure is not HIT_RATE:
        below = 100 * (1 - fmean(mean for mean, _ in best))
        return f"{text} The best is {below:.1f} % below {BASE}, averaged over scenarios."
    gaps = [fmean(bound) - mean for mean, bound in best if bound]
    text += f" The best is {fmean(mean for mean, _ in best):.1f} points above {BASE}, averaged over scenarios"
    return text + (f"; to the bound it lacks {fmean(gaps):.1f}." if gaps else ".")


def by_workload(results: Results, measure: Measure, scenario: str, number: int) -> Plot | None:
    """A panel per workload of a scenario, means over the seeds; None if the measure is zero throughout."""
    found = (workload_panel(results, measure, scenario, workload, workload) for workload in results.workloads)
    panels = [panel for panel in found if panel is not None]
    if not panels:
        return None
    title = f"{measure.title} in {scenario}, {seeds_of(results, 'mean over ')}"
    about = f"{measure.axis} · bars: {interval_name(panels, 'seeds')}" + ranges(panels, measure, False)
    name = f"{measure.key}-{number:02d}-{slug(scenario)}"
    reading = _workload_reading(panels, measure)
    return Plot(name, title, reading, lambda: _figure(panels, measure, title, about, False), scenario)


def _workload_reading(panels: Sequence[Panel], measure: Measure) -> str:
    said = []
    for panel in panels:
        best = panel.best(measure)
        if best:
            named = best[0] if len(best) == 1 else f"{best[0]} and {len(best) - 1} more"
            said.append(f"{panel.title}: {named} ({fmean(panel.values[best[0]]):,.{measure.digits}f})")
    tied = sum(panel.tied for panel in panels)
    text = f"Best by workload, in {measure.unit}: {'; '.join(said)}." if said else ""
    return (text + (f" All policies tie in {tied} of {len(panels)}." if tied else "")).strip()


def seeds_of(results: Results, before: str = "") -> str:
    """How many seeds there are, in words."""
    seeds = {row.get("seed") for row in results.rows}
    return f"{before}{len(seeds)} seeds" if len(seeds) > 1 else "one replay each"


def interval_name(panels: Sequence[Panel], over: str) -> str:
    """What the bars of the panels are."""
    sizes = sorted({len(values) for panel in panels for values in panel.values.values()})
    if sizes[-1] == 1:
        return "none, one value each"
    counted = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    return f"95 % t interval over {counted} {over}, cut where the axis ends"


def one_range(measure: Measure, relative: bool) -> bool:
    """Whether all panels of a figure share one x axis: seconds and bytes of different workloads lie too far
    apart for that.
    """
    return relative or measure is HIT_RATE


def ranges(panels: Sequence[Panel], measure: Measure, relative: bool) -> str:
    """What a figure says about its x axes where they differ."""
    alike = one_range(measure, relative) or len(panels) == 1
    return "" if alike else " · every panel has a range of its own"


def _figure(panels: Sequence[Panel], measure: Measure, title: str, about: str, relative: bool) -> "Figure":
    order = ordered([panel.values for panel in panels], measure)
    with canvas.style():
        sheet = Sheet(title, about, _legend(panels, order), left=canvas.width_of(order) + 0.12)
        figure, grid = canvas.laid_out(len(panels), 2.3, 0.135 * len(order) + 0.12, sheet)
        places = [_places(panel) for panel in panels]
        together = tuple(list(chain.from_iterable(of)) for of in zip(*places, strict=True))
        bottom, top = (-100.0, 100.0) if relative and measure is HIT_RATE else (0.0, measure.top)
        for number, (axes, panel) in enumerate(zip(grid, panels, strict=True)):
            canvas.dots(axes, order, panel.means(), panel.best(measure), BASE, number % canvas.COLUMNS == 0)
            canvas.panel_title(axes, panel.title)
            if panel.bound:
                axes.axvline(
                    fmean(panel.bound), color=VERMILION, linestyle=BOUND_LINE, linewidth=1.4, label="bound"
                )
            if relative:
                axes.axvline(0.0 if measure is HIT_RATE else 1.0, color=INK, linewidth=0.7, zorder=1)
            centres, ends = together if one_range(measure, relative) else places[number]
            least = NARROWEST if measure is HIT_RATE else 0.05 * abs(fmean(centres))
            canvas.span(axes, centres, ends, least, bottom, top)
            axes.locator_params(axis="x", nbins=5)
            if panel.tied:
                canvas.note(axes, "all policies tie")
    return figure


def _places(panel: Panel) -> tuple[list[float], list[float]]:
    """What an x axis must show: the means and the bound, and if there is room the ends of intervals."""
    means = panel.means().values()
    centres = [mean.mean for mean in means] + ([fmean(panel.bound)] if panel.bound else [])
    return centres, [end for mean in means for end in (mean.low, mean.high) if end is not None]


def _legend(panels: Sequence[Panel], order: Sequence[str]) -> list:
    from matplotlib.lines import Line2D

    drawn = [
        Line2D([], [], color=BLUE, marker="D", linestyle="none", markersize=4.6, label="best in its panel")
    ]
    if BASE in order:
        drawn.append(Line2D([], [], color=INK, marker="s", linestyle="none", markersize=4.2, label=BASE))
    drawn.append(
        Line2D([], [], color=GREY, marker="o", linestyle="none", markersize=3.6, label="other policies")
    )
    names = list(dict.fromkeys(panel.bound_name for panel in panels if panel.bound))
    if names:
        label = "bound for policies that fetch on demand: " + "\nor ".join(names)
        drawn.append(Line2D([], [], color=VERMILION, linestyle=BOUND_LINE, label=label))
    return drawn
