"""The HTML page of a run: one file without outside assets, light and dark, always under three megabytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest

from kv_cache_rl.intervals import T_INTERVAL
from kv_cache_rl.reports.eviction import charts
from kv_cache_rl.reports.eviction.outcome import Outcome, played_again
from kv_cache_rl.reports.eviction.tables import (
    FLOOR_ROW,
    HEADINGS,
    ORACLE_ROW,
    Row,
    cells,
    difference_sentences,
    results_rows,
)
from kv_cache_rl.reports.stylesheet import SCRIPT, STYLE
from kv_cache_rl.reports.svg import scrolling
from kv_cache_rl.sim.eviction import Report, Scenario, decider, reason_of, replay, rollout

MAX_PAGE_BYTES = 2_800_000
"""Room that episodes may fill; a page stays under 3 MB."""


@dataclass(frozen=True, slots=True)
class References:
    """What a scenario's episodes are compared with: the best-known log and the best fixed rule, played
    again.
    """

    scenario: Scenario
    oracle: Report
    floor: Report


def references_for(scenario: Scenario) -> References:
    """Replays the stored best log, and plays the fixed rule that made the floor."""
    floor = rollout(scenario, decider(scenario.floor_by or "keep"))
    return References(scenario, replay(scenario, scenario.best_log), floor)


def facts(pairs: Mapping[str, object]) -> str:
    items = (
        f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in pairs.items()
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def results_table(rows: Sequence[Row]) -> str:
    head = "".join(f"<th{text_class(index)}>{escape(name)}</th>" for index, name in enumerate(HEADINGS))
    lines, tier = [], None
    for row in rows:
        kind = ["reference"] if row.policy in (FLOOR_ROW, ORACLE_ROW) else []
        kind += ["first"] if tier not in (None, row.tier) else []
        kind += ["failed"] if row.failed_rollouts else []
        tier = row.tier
        body = "".join(f"<td{text_class(index)}>{escape(text)}</td>" for index, text in enumerate(cells(row)))
        lines.append(f'<tr class="{" ".join(kind)}">{body}</tr>')
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return scrolling(f'<table class="results">{body}</table>')


def text_class(index: int) -> str:
    return ' class="text"' if index < 2 else ""


def steps_table(report: Report) -> str:
    """Every window in words: each call with its result, and which sequences failed."""
    lines = []
    for window in report.timeline:
        calls = [
            (f"{call['verb']} {call['seq_id']}".strip(), call["text"], call["ok"]) for call in window["calls"]
        ]
        calls += [(f"failed {failure['seq_id']}", failure["why"], False) for failure in window["failures"]]
        numbers = (f"{window['usage_peak']:.1%}", str(window["queue"]), f"{window['tokens']:,.0f}")
        number = [str(window["step"] + 1)]
        for row, (call, name) in enumerate(zip_longest(calls or [("no calls", "", True)], number)):
            what, text, ok = call
            left = f'<td class="text">{name}</td>' if row == 0 else "<td></td>"
            middle = "".join(f"<td>{value}</td>" for value in numbers) if row == 0 else "<td></td>" * 3
            bad = "" if ok else " bad"
            result = f'<td class="text{bad}">{escape(what[:80])}</td>'
            result += f'<td class="text wrap{bad}">{escape(reason_of(text)[:240])}</td>'
            lines.append(f"<tr>{left}{middle}{result}</tr>")
    heads = '<th class="text">window</th><th>peak</th><th>queue</th><th>tokens</th>'
    heads += '<th class="text">call</th><th class="text">result</th>'
    body = f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return scrolling(f"<table>{body}</table>")


def figures(report: Report, references: References) -> dict[str, str]:
    """What an episode is drawn as: title -> SVG with its legend. Memory and events come first."""
    oracle, floor = references.oracle, references.floor
    return {
        "Memory against budget": charts.memory_chart(report, oracle),
        "Calls and events": charts.timeline_chart(report),
        "Reward terms": charts.reward_chart(report, oracle, floor),
        "Link and prefill lane": charts.lanes_chart(report),
        "Queue": charts.queue_chart(report, oracle),
        "Tokens completed": charts.tokens_chart(report, oracle),
    }


def figure(title: str, drawing: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{drawing}</figure>"


def episode(outcome: Outcome, references: References) -> str:
    """One rollout: a line that opens into its drawings and its log."""
    scenario, oracle, floor = references.scenario, references.oracle, references.floor
    report = played_again(outcome, scenario)
    failures = int(report.metrics["total_failures_metric"])
    head = (
        f"<b>{escape(outcome.scenario_id)}</b><span class='text'>{escape(outcome.model)}</span>"
        f"{charts.scale_chart(report.total, scenario.floor, scenario.best)}"
        f"<span>{report.total:+.3f}</span><span class='wide'>{report.normalized:+.2f}</span>"
        f"<span class='wide'>{failures}</span>"
    )
    numbers = facts(
        {
            "reward": f"{report.total:+.4f}",
            "floor": f"{scenario.floor:+.4f}",
            "oracle": f"{scenario.best:+.4f}",
            "normalised": f"{report.normalized:+.3f}",
            "failures (run, oracle, floor)": " / ".join(
                f"{played.metrics['total_failures_metric']:.0f}" for played in (report, oracle, floor)
            ),
            "tokens served": f"{report.metrics['total_tokens_metric']:,.0f}",
            "calls per step": f"{report.metrics['calls_per_step']:.2f}",
            "refused calls": f"{report.metrics['invalid_calls']:.0f}",
        }
    )
    drawn = {title: figure(title, drawing) for title, drawing in figures(report, references).items()}
    memory, events, *halves = drawn.values()
    left, right = "".join(halves[:2]), "".join(halves[2:])
    body = (
        numbers
        + (f'<p class="note" style="margin-top:12px">{escape(report.notes)}</p>' if report.notes else "")
        + memory
        + events
        + f'<div class="grid2"><div>{left}</div><div>{right}</div></div>'
        + f'<details class="steps"><summary>Window by window</summary>{steps_table(report)}</details>'
    )
    data = f'data-tier="{escape(outcome.difficulty)}" data-model="{escape(outcome.model, quote=True)}"'
    return f'<details class="card episode" {data}><summary>{head}</summary><div>{body}</div></details>'


def showing_order(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Rollouts in the order in which they get room: every decider and tier in turn, its worst score, then its
    best.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.difficulty, outcome.model), []).append(outcome)
    for key, group in groups.items():
        ranked = sorted(group, key=lambda outcome: (outcome.reward or 0.0, outcome.scenario_id))
        half = (len(ranked) + 1) // 2
        pairs = zip_longest(ranked[:half], reversed(ranked[half:]))
        groups[key] = [outcome for pair in pairs for outcome in pair if outcome is not None]
    rounds = zip_longest(*groups.values())
    return [outcome for turn in rounds for outcome in turn if outcome is not None]


def episodes(outcomes: Sequence[Outcome], scenarios: Mapping[str, Scenario], room: int) -> tuple[str, int]:
    """The episodes that fit into `room` bytes, in the order of the run, and how many they are."""
    known: dict[str, References] = {}
    drawn: dict[int, str] = {}
    for outcome in showing_order(outcomes):
        if outcome.scenario_id not in known:
            known[outcome.scenario_id] = references_for(scenarios[outcome.scenario_id])
        text = episode(outcome, known[outcome.scenario_id])
        room -= len(text.encode())
        if room < 0:
            break
        drawn[id(outcome)] = text
    texts = "".join(drawn[id(outcome)] for outcome in outcomes if id(outcome) in drawn)
    return texts.replace("<details ", "<details open ", 1), len(drawn)


def failed_list(outcomes: Sequence[Outcome]) -> str:
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return ""
    lines = "".join(
        f'<tr><td class="text">{escape(o.scenario_id)}</td><td class="text">{escape(o.model)}</td>'
        f'<td class="text wrap bad">{escape((o.error or "")[:400])}</td></tr>'
        for o in failed[:200]
    )
    count = f"{len(failed)} rollouts failed and are in no mean."
    table = scrolling(f"<table>{lines}</table>")
    return f'<h2>Failed rollouts</h2><div class="card"><p>{count}</p>{table}</div>'


def choices(name: str, caption: str, values: Iterable[str]) -> str:
    options = "".join(f"<option>{escape(value)}</option>" for value in dict.fromkeys(values))
    return f'<label>{caption} <select id="{name}"><option value="">all</option>{options}</select></label>'


def page(
    title: str,
    lead: str,
    about: Mapping[str, object],
    outcomes: Sequence[Outcome],
    scenarios: Mapping[str, Scenario],
) -> str:
    """The whole page. `about` is shown as facts under the title; scenarios are looked up by id."""
    rows = results_rows(outcomes, scenarios)
    good = [outcome for outcome in outcomes if outcome.error is None and outcome.scenario_id in scenarios]
    shown, count = episodes(good, scenarios, MAX_PAGE_BYTES)
    heads = "<span class='text'>scenario</span><span class='text'>policy</span>"
    heads += "<span class='text wide'>floor to oracle</span>"
    heads += "<span>reward</span><span class='wide'>normalised</span><span class='wide'>failures</span>"
    compared = "".join(f"<p>{escape(sentence)}</p>" for sentence in difference_sentences(outcomes))
    picked = (
        ""
        if count == len(good)
        else f" {count} of {len(good)} episodes fit here: the worst and the best of each policy and tier."
    )
    filters = choices("tier", "tier", (o.difficulty for o in good)) + choices(
        "model", "policy", (o.model for o in good)
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        "<body><main>"
        f'<h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{facts(about)}'
        f'<h2>Results</h2><div class="card">{results_table(rows)}'
        f'<p class="note" style="margin-top:10px">± is the {T_INTERVAL} over scenarios. '
        "Normalised: 0 is the best decider that never looks, 1 the best known. Failed rollouts are in no "
        f"mean.</p>{compared}</div>"
        f'<div class="card">{charts.overview_chart(rows)}</div>{failed_list(outcomes)}'
        f'<h2>Episodes</h2><p class="note">Open a line to see the episode.{picked}</p>'
        f'<div class="filters">{filters}</div><div class="heads">{heads}</div>{shown}'
        f"</main><script>{SCRIPT}</script></body></html>\n"
    )
