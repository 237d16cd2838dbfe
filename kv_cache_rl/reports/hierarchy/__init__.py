"""Figures of the hierarchy lab: a sweep's, the regret ablation's, miss-ratio curves, and the page that shows
them.

Reading order: `rows`, `folder`, `canvas`, `sweep`, `curves`, `ablation`, `page`. Matplotlib is imported when
something is drawn."""

from kv_cache_rl.reports.canvas import save
from kv_cache_rl.reports.hierarchy.ablation import ablation_figures
from kv_cache_rl.reports.hierarchy.curves import curve_plot
from kv_cache_rl.reports.hierarchy.folder import read
from kv_cache_rl.reports.hierarchy.page import ablation_plots, plots
from kv_cache_rl.reports.hierarchy.rows import Results
from kv_cache_rl.reports.hierarchy.sweep import sweep_figures

__all__ = [
    "Results",
    "ablation_figures",
    "ablation_plots",
    "curve_plot",
    "plots",
    "read",
    "save",
    "sweep_figures",
]
