"""``hierarchy replay --plot``: a replay drawn over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.hierarchy.options import BELADY, ENDED
from kv_cache_rl.cli.hierarchy.sizes import size_in
from kv_cache_rl.cli.terminal import Bar

if TYPE_CHECKING:
    from kv_cache_rl.sim.hierarchy.spec import Scenario
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace


def to_draw(policies: Sequence[str], scenarios: Sequence["Scenario"]) -> list[str]:
    """The policies that --plot draws. Raises BadInput where there is no one picture, or none at all."""
    if len(scenarios) > 1:
        raise BadInput(
            f"--plot draws one capacity over time, and {len(scenarios)} are given; give one, or draw "
            "kv-cache-rl hierarchy curve --plot over all of them"
        )
    found = [name for name in policies if name not in (BELADY, ENDED)]
    if not found:
        raise BadInput(f"--plot draws policies step by step, {policies[0]} only counts; add another policy")
    return found


def parts_of(trace: "Trace") -> int:
    """How many points a picture over time has: enough requests each to tell a rate."""
    return min(120, max(trace.requests // 20, 12))


def draw(
    trace: "Trace", scenario: "Scenario", policies: Sequence[str], seed: int, path: Path, quiet: bool
) -> None:
    """Replays the policies part by part and draws them into a file."""
    from kv_cache_rl.reports.canvas import save
    from kv_cache_rl.reports.hierarchy.course import course_plot
    from kv_cache_rl.sim.hierarchy.course import watch

    with Bar("drawing", quiet) as bar:
        courses = []
        for name in policies:
            courses.append(watch(trace, scenario, name, parts_of(trace), seed))
            bar(len(courses), len(policies))
    known = not isinstance(trace.page_bytes, int) or trace.page_bytes
    sizes = [f"{size_in(tier.capacity, trace)}{'' if known else ' blocks'}" for tier in scenario.tiers]
    save(course_plot(courses, f"{trace.name} over time", sizes), path)
