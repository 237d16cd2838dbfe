"""The drawings of one episode, and the overview of a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kv_cache_rl.reports.eviction.tables import FLOOR_ROW, ORACLE_ROW, Row
from kv_cache_rl.reports.svg import Frame, hint, label, legend, nice_ticks, scrolling, svg, tag
from kv_cache_rl.sim.eviction import REWARDS, Report
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES

CALL_LANES = (
    ("evict", "evict"),
    ("compress", "compress"),
    ("swap_to_cpu", "swap to CPU"),
    ("refused", "refused"),
)
EVENT_LANES = (("arrivals", "arrivals"), ("completions", "completions"), ("failures", "failures"))
WIDE, HALF = 960.0, 470.0

Window = Mapping
"""One entry of a report's timeline."""


def memory_chart(report: Report, oracle: Report) -> str:
    """What fills the memory after each window, its peak before preemption, and the oracle's peak, over the
    budget.
    """
    windows = report.timeline
    peaks = [window["usage_peak"] for window in windows]
    best = [window["usage_peak"] for window in oracle.timeline]
    top = max(1.1, *peaks, *best, *(sum(window["by_type"].values()) for window in windows)) * 1.04
    frame = Frame(WIDE, 270, 0, top, len(windows))
    body = [frame.axes("share of the budget", "{:.0%}", nice_ticks(0, top, 5))]
    for step, window in enumerate(windows):
        base = 0.0
        for kind in BLOCK_TYPES:
            share = window["by_type"].get(kind, 0.0)
            if share > 0:
                body.append(
                    frame.bar(
                        step, base, share, f"fill-{kind}", f"window {step + 1}: {kind} {share:.1%} of budget"
                    )
                )
                base += share
    body += [frame.level(0.95, "soft", ""), frame.level(1, "budget", "budget")]
    body += [frame.line(best, "oracle-line"), frame.line(peaks, "peak-line")]
    for step, peak in enumerate(peaks):
        klass = "peak over" if peak > 1 else "peak"
        body.append(
            frame.dot(step, peak, klass, f"window {step + 1}: peak {peak:.1%}, oracle {best[step]:.1%}")
        )
    names = [(f"fill-{kind}", kind.replace("_", " ")) for kind in BLOCK_TYPES]
    names += [("line-peak", "peak of the window"), ("line-oracle", "oracle's peak"), ("line-soft", "95 %")]
    return scrolling(svg(frame, body, "Memory against budget per window")) + legend(names)


def lane_entries(window: Window) -> dict[str, list[str]]:
    """What happened in a window, as lane → one text per mark."""
    lanes: dict[str, list[str]] = {key: [] for key, _ in (*CALL_LANES, *EVENT_LANES)}
    for call in window["calls"]:
        if not call["ok"]:
            lanes["refused"].append(f"{call['verb']} {call['seq_id']}: {call['text']}")
        elif call["verb"] in lanes:
            lanes[call["verb"]].append(call["seq_id"])
    lanes["arrivals"] = list(window["arrivals"])
    lanes["completions"] = list(window["completions"])
    lanes["failures"] = [f"{failure['seq_id']}: {failure['why']}" for failure in window["failures"]]
    return lanes


def timeline_chart(report: Report) -> str:
    """Calls and events, one lane each; the area of a mark is the number of them, which stands inside."""
    lanes = (*CALL_LANES, *EVENT_LANES)
    height = 28.0
    frame = Frame(WIDE, height * len(lanes) + 38, 0, len(lanes), len(report.timeline), left=92)
    body = []
    for row, (_, name) in enumerate(lanes):
        y = frame.y(len(lanes) - row - 0.5)
        body.append(tag("line", x1=frame.left, x2=frame.width - frame.right, y1=y, y2=y, klass="grid"))
        body.append(label(frame.left - 10, y + 4, name, "lane", "end"))
    border = frame.y(len(EVENT_LANES))
    body.append(tag("line", x1=8, x2=frame.width - frame.right, y1=border, y2=border, klass="axis"))
    body.append(frame.windows())
    for step, window in enumerate(report.timeline):
        entries = lane_entries(window)
        for row, (key, name) in enumerate(lanes):
            many = len(entries[key])
            if many:
                y, radius = frame.y(len(lanes) - row - 0.5), min(4.5 + 1.9 * math.sqrt(many), 13)
                texts = ", ".join(entries[key][:12]) + (", …" if many > 12 else "")
                title = hint(f"window {step + 1}, {name}: {texts}")
                body.append(tag("circle", title, cx=frame.x(step), cy=y, r=radius, klass=f"mark {key}"))
                body.append(label(frame.x(step), y + 3.5, str(many), "count"))
    return scrolling(svg(frame, body, "Calls and events per window"))


def queue_chart(report: Report, oracle: Report) -> str:
    """Requests that wait at the end of each window, and the oracle's."""
    mine, best = ([window["queue"] for window in played.timeline] for played in (report, oracle))
    top = max(4, *mine, *best)
    frame = Frame(HALF, 190, 0, top, len(mine))
    ticks = [tick for tick in nice_ticks(0, top) if tick == int(tick)]
    body = [frame.axes("requests waiting", ticks=ticks)]
    body += [
        frame.bar(step, 0, value, "fill-queue", f"window {step + 1}: {value} waiting")
        for step, value in enumerate(mine)
    ]
    body += frame.levels(best, "oracle-line")
    return svg(frame, body, "Queue per window") + legend(
        [("fill-queue", "queue"), ("line-oracle", "oracle's queue")]
    )


def tokens_chart(report: Report, oracle: Report) -> str:
    """Tokens of the requests completed in each window, and the oracle's."""
    mine, best = ([window["tokens"] / 1000 for window in played.timeline] for played in (report, oracle))
    top = max(0.001, *mine, *best) * 1.05
    frame = Frame(HALF, 190, 0, top, len(mine))
    body = [frame.axes("thousand tokens")]
    for step, value in enumerate(mine):
        body.append(
            frame.bar(step, 0, value, "fill-tokens", f"window {step + 1}: {value * 1000:,.0f} tokens")
        )
    body += frame.levels(best, "oracle-line")
    return svg(frame, body, "Tokens per window") + legend(
        [("fill-tokens", "tokens of completed requests"), ("line-oracle", "oracle's")]
    )


def lanes_chart(report: Report) -> str:
    """How busy the link and the prefill lane were, as a share of each window."""
    frame = Frame(HALF, 190, 0, 1.05, len(report.timeline))
    body = [frame.axes("share of the window", "{:.0%}", [0, 0.25, 0.5, 0.75, 1])]
    for name in ("link", "prefill"):
        values = [min(float(window[f"{name}_busy"]), 1.05) for window in report.timeline]
        body.append(frame.line(values, f"{name}-line"))
        for step, value in enumerate(values):
            body.append(
                frame.dot(step, value, f"{name}-dot", f"window {step + 1}: {name} busy {value:.0%}", 2.5)
            )
    return svg(frame, body, "Link and prefill lane") + legend(
        [("line-link", "link"), ("line-prefill", "prefill lane")]
    )


def reward_chart(report: Report, oracle: Report, floor: Report) -> str:
    """Every reward term times its weight, for this run, the best known and the floor, with the totals."""
    runs = ((report, "run"), (oracle, "oracle"), (floor, "floor"))
    terms = [(name, weight) for name, weight in REWARDS.items()]
    values = [played.rewards[name] * weight for played, _ in runs for name, weight in terms]
    values += [played.total for played, _ in runs]
    low, high = min(0.0, *values), max(0.0, *values)
    width, left, right, height = HALF, 150.0, 52.0, 38.0
    scale = (width - left - right) / ((high - low) or 1)

    def x(value: float) -> float:
        return left + (value - low) * scale

    bottom = height * (len(terms) + 1) + 6
    body = []
    for tick in nice_ticks(low, high, 4):
        body.append(tag("line", x1=x(tick), x2=x(tick), y1=2, y2=bottom, klass="grid"))
        body.append(label(x(tick), bottom + 14, f"{tick:+.2f}".replace("+0.00", "0")))
    rows = [
        (f"{name.replace('_', ' ')}", f"weight {weight:g}", [p.rewards[name] * weight for p, _ in runs])
        for name, weight in terms
    ]
    rows.append(("total reward", "", [played.total for played, _ in runs]))
    for index, (name, weight, shares) in enumerate(rows):
        top = 4 + index * height
        body.append(label(left - 8, top + 15, name, "lane strong" if not weight else "lane", "end"))
        body.append(label(left - 8, top + 28, weight, "tick", "end"))
        for offset, (share, (_, klass)) in enumerate(zip(shares, runs, strict=True)):
            start, size = min(x(0), x(share)), abs(share) * scale
            title = hint(f"{klass}, {name}: {share:+.4f}")
            at = top + 2 + offset * 11
            body.append(
                tag("rect", title, x=start, y=at, width=max(size, 0.8), height=8.5, klass=f"fill-{klass}")
            )
            body.append(
                label(width - 4, at + 8, f"{share:+.3f}", "value run" if offset == 0 else "value", "end")
            )
    body.append(tag("line", x1=x(0), x2=x(0), y1=2, y2=bottom, klass="axis"))
    body.append(label((left + width - right) / 2, bottom + 28, "reward (term times weight)", "unit"))
    frame = Frame(width, bottom + 34, 0, 1, 1)
    names = [
        ("fill-run", "this run"),
        ("fill-oracle", "oracle (best known)"),
        ("fill-floor", "floor (best fixed rule)"),
    ]
    return svg(frame, body, "Reward terms") + legend(names)


def scale_chart(reward: float, floor: float, best: float) -> str:
    """Where the reward lies between the floor and the best known."""
    low, high = min(reward, floor), max(reward, best)
    span = (high - low) or 1.0
    low, high = low - span * 0.06, high + span * 0.06

    def x(value: float) -> float:
        return 10 + (value - low) / (high - low) * 200

    body = tag("line", x1=x(floor), x2=x(best), y1=11, y2=11, klass="scale")
    body += tag("line", hint(f"floor {floor:+.3f}"), x1=x(floor), x2=x(floor), y1=4, y2=18, klass="end-floor")
    body += tag("line", hint(f"oracle {best:+.3f}"), x1=x(best), x2=x(best), y1=4, y2=18, klass="end-oracle")
    body += tag("circle", hint(f"this run {reward:+.3f}"), cx=x(reward), cy=11, r=5.5, klass="peak")
    frame = Frame(220, 22, 0, 1, 1)
    return svg(frame, [body], f"reward {reward:+.3f} between floor {floor:+.3f} and oracle {best:+.3f}")


@dataclass(frozen=True, slots=True)
class Overview:
    """Where the parts of the overview stand, in units of its drawing."""

    width: float
    left: float
    """Where the plot begins; names stand to the left of it."""
    right: float
    """Room for the numbers on the right."""
    head: float
    """Height of a tier's own line; 0 puts the tier beside its first row."""
    ticks: int


ON_A_SCREEN, ON_A_PHONE = Overview(WIDE, 230, 62, 0, 6), Overview(380, 152, 46, 16, 3)


def overview_chart(rows: Sequence[Row]) -> str:
    """Mean reward with its 95 % interval, tier by tier, between the floor and the best known.

    It is drawn for a screen and for a phone, and the style sheet shows one of the two: scaled down to a
    phone, a wide drawing cannot be read.
    """
    wide, narrow = (_overview(rows, place) for place in (ON_A_SCREEN, ON_A_PHONE))
    return f'<div class="on-screen">{wide}</div><div class="on-phone">{narrow}</div>'


def _overview(rows: Sequence[Row], place: Overview) -> str:
    shown = [(row, row.reward) for row in rows if row.reward is not None]
    ends = [
        edge for _, reward in shown for edge in (reward.mean, reward.low, reward.high) if edge is not None
    ]
    low, high = min(0.0, *ends), max(0.0, *ends)
    pad = (high - low) * 0.04
    left, edge = place.left, place.width - place.right
    scale = (edge - left - 8) / ((high - low + 2 * pad) or 1)

    def x(value: float) -> float:
        return left + (value - low + pad) * scale

    body, y, tier = [], 0.0, None
    for row, reward in shown:
        if row.tier != tier:
            tier, y = row.tier, y + 12 + place.head
            body.append(label(8, y + 14 - place.head, row.tier, "lane strong", "start"))
        klass = "oracle" if row.policy == ORACLE_ROW else "floor" if row.policy == FLOOR_ROW else "run"
        middle = y + 10
        body.append(label(left - 12, middle + 4, row.policy, "lane", "end"))
        body.append(tag("line", x1=left, x2=edge, y1=middle, y2=middle, klass="grid"))
        if reward.low is not None and reward.high is not None:
            span = {"x1": x(reward.low), "x2": x(reward.high), "y1": middle, "y2": middle}
            body.append(tag("line", klass=f"whisker {klass}", **span))
        title = hint(f"{row.tier}, {row.policy}: {reward.mean:+.4f}")
        body.append(tag("circle", title, cx=x(reward.mean), cy=middle, r=5, klass=f"mean {klass}"))
        body.append(label(place.width - 6, middle + 4, f"{reward.mean:+.3f}", "value", "end"))
        y += 21.0
    for tick in nice_ticks(low, high, place.ticks):
        line = {"x1": x(tick), "x2": x(tick), "y1": 6, "y2": y + 4}
        body.insert(0, tag("line", klass="axis" if tick == 0 else "grid", **line))
        body.append(label(x(tick), y + 18, f"{tick:+.2f}".replace("+0.00", "0")))
    # On a phone the words are as wide as the drawing, not as the plot alone.
    middle = (left + edge) / 2 if place.head == 0 else place.width / 2
    body.append(label(middle, y + 33, "mean reward per episode, with 95 % interval", "unit"))
    return svg(Frame(place.width, y + 40, 0, 1, 1), body, "Mean reward by tier")
