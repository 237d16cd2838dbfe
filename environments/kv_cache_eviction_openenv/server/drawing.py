"""The episode as OpenEnv's web interface shows it: memory, the window before, the report, what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from kv_cache_rl.adapters.http.episodes import advice, memory_map
from kv_cache_rl.adapters.http.worlds import EvictionWorld
from kv_cache_rl.adapters.openenv.drawing import bar, framed
from kv_cache_rl.adapters.openenv.words import in_words
from kv_cache_rl.reports.eviction import charts
from kv_cache_rl.reports.eviction.outcome import from_report
from kv_cache_rl.reports.eviction.page import episode as finished
from kv_cache_rl.reports.eviction.page import facts, references_for, steps_table
from kv_cache_rl.reports.svg import scrolling
from kv_cache_rl.sim.eviction import ORACLE, Episode, parse_call, replay
from kv_cache_rl.sim.eviction.calls import KEEP

ADVISERS = ("learned", "tuned", "lru", "gdsf")
"""What is offered as one choice each, the oracle last while the episode follows it."""
COLUMNS = ("entry", "type", "phase", "place", "bits", "tokens", "pages")


def choices(episode: Episode) -> list[tuple[str, dict[str, Any]]]:
    """Label and action: nothing, and what deciders would do; those that agree stand together."""
    by_words: dict[str, list[str]] = {KEEP.verb: []}
    for name in (*ADVISERS, ORACLE) if episode.scenario.best_log else ADVISERS:
        told = advice(episode, name)
        if told["followed"]:
            words = in_words([parse_call(call["name"], call["arguments"]) for call in told["calls"]])
            by_words.setdefault(words, []).append(name)
    return [
        (f"{words} ({', '.join(names)})" if names else words, {"calls": words})
        for words, names in by_words.items()
    ]


def page(world: EvictionWorld) -> str:
    """The whole drawing."""
    return framed(ended(world.episode) if world.episode.done else under_way(world))


def ended(episode: Episode) -> str:
    """What an episode came to: its card of the report of a run, opened."""
    report = episode.report()
    outcome = from_report(episode.scenario, "you", report, episode.log)
    return finished(outcome, references_for(episode.scenario)).replace("<details ", "<details open ", 1)


def under_way(world: EvictionWorld) -> str:
    """Memory now, the entries, and what the windows before were like."""
    episode = world.episode
    shown = memory_map(episode)
    memory, scenario = shown["memory"], episode.scenario
    pools = [
        ("GPU, of its budget", memory["gpu_used"], memory["budget_pages"]),
        ("CPU pool", memory["cpu_used"], memory["cpu_pages"]),
    ]
    bars = "".join(
        bar(name, used / of if of else 0.0, f"{used:,.0f} of {of:,.0f} pages") for name, used, of in pools
    )
    told = facts(
        {
            "scenario": scenario.id,
            "window": f"{episode.t + 1} of {scenario.steps}",
            "model": scenario.model,
            "hardware": scenario.hardware,
        }
    )
    return told + f'<div class="card">{bars}</div>{history(world)}<div class="card">{entries(shown)}</div>'


def history(world: EvictionWorld) -> str:
    """The windows before: the last one in words, memory, calls and events of all in drawings."""
    episode = world.episode
    if not episode.t:
        return ""
    report = replace(episode.report(), timeline=[world.shown(record) for record in episode.timeline])
    oracle = replay(episode.scenario, episode.scenario.best_log)
    oracle = replace(oracle, timeline=oracle.timeline[: episode.t])
    last = replace(report, timeline=report.timeline[-1:])
    drawn = charts.memory_chart(report, oracle) + charts.timeline_chart(report)
    return f'<div class="card"><h3>The window before</h3>{steps_table(last)}{drawn}</div>'


def entries(shown: Mapping[str, Any]) -> str:
    """Everything that lies in memory or waits, the largest first."""
    columns = shown["entries"]
    names = ("id", *COLUMNS[1:])
    rows = sorted(zip(*(columns[name] for name in names), strict=True), key=lambda row: -row[-1])
    lines = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    heads = "".join(f"<th{text(index)}>{name}</th>" for index, name in enumerate(COLUMNS))
    return scrolling(f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>")


def line(row: Sequence[object]) -> str:
    return "".join(f"<td{text(index)}>{escape(cell(value))}</td>" for index, value in enumerate(row))


def text(index: int) -> str:
    return ' class="text"' if index < 4 else ""


def cell(value: object) -> str:
    return f"{value:,.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
