"""Futures that fit what the views have shown, drawn from the generator's own distributions.

What the view does not say is drawn anew each time (`drawing`): tolerances, the rest of answers, pauses
(longer than the session has been idle), all later calls, and sessions yet to come."""

import numpy as np

from kv_cache_rl.search.eviction.belief import BELIEF, UNKNOWN, WINDOW, Beliefs
from kv_cache_rl.search.eviction.imagining import imagine
from kv_cache_rl.search.eviction.memory import Entry, Memory
from kv_cache_rl.sim.eviction import process as p
from kv_cache_rl.sim.eviction.columns import SCENARIO, UNITS_PER_PAGE, Kind, Place, cells
from kv_cache_rl.sim.eviction.generate import TIERS
from kv_cache_rl.sim.eviction.observe import Row, Status
from kv_cache_rl.sim.eviction.spec import PAGE_TOKENS, Scenario
from kv_cache_rl.sim.eviction.state import State, pack

MEAN_RATE_S = sum(weight * np.exp(mu + sigma**2 / 2) for weight, mu, sigma in p.TOKENS_PER_SECOND)
_UNSEEN = Row(0, Kind.TOOL_RESULT, UNKNOWN, Status.IDLE, 0, 0, Place.CPU, 50, 0, 25, 8, 4, 12, -1, 0, 0)
_OF_ROW = ("kind", "work_class", "status", "pages", "level", "place", "priority", "progress", "value",
           "idle", "uses", "age", "reload")  # fmt: skip
_OF_ENTRY = ("prefix", "seen", "cached", "queued", "active", "gained", "grew", "delay", "cut", "arrived",
             "lost", "bears", "breaks", "spread", "ran", "waited", "need", "fresh")  # fmt: skip


def beliefs(memory: Memory, rules: Scenario) -> Beliefs:
    """What the views so far allow to believe; `rules` are a scenario's public constants
    (`memory.published`)."""
    shown = [name for name in memory.ids if name in memory.entries]
    known = [memory.entries[name] for name in shown]
    known += [entry for name, entry in memory.entries.items() if name not in set(shown)]
    unseen = _never_seen(memory, known)
    entries = np.zeros(len(known) + len(unseen), BELIEF)
    for cell, entry in zip(entries, known + unseen, strict=True):
        _write(cell, entry)
    entries["alike"][len(known) :] = [entry.cached for entry in unseen]
    names = list(memory.prefixes)
    slots = {name: k for k, name in enumerate(shown)}
    slots |= {anchor: names.index(name) - len(names) for anchor, name in memory.anchors.items()}
    header = pack(rules)[: cells(SCENARIO)].copy()
    header.view(SCENARIO)["prefixes"] = len(names)
    return Beliefs(
        entries,
        _window(memory, rules),
        header,
        np.array(list(memory.prefixes.values()), np.int64),
        np.array([name in memory.anchors.values() for name in names], np.int64),
        np.array([slots[name] for name in memory.ids], np.int64),
    )


def one_future(known: Beliefs, rng: np.random.Generator) -> tuple[State, np.ndarray]:
    """A state that looks as the last view did, with a future; and the slot of every row of that view."""
    state = State(*imagine(rng, known))
    return state, known.places % state.columns.constants.slots


def _write(cell: np.ndarray, entry: Entry) -> None:
    for name in _OF_ROW:
        cell[name] = getattr(entry.row, name)
    for name in _OF_ENTRY:
        cell[name] = getattr(entry, name)
    cell["holds"] = entry.row.prefix >= 0 or entry.row.work_class == UNKNOWN


def _window(memory: Memory, rules: Scenario) -> np.ndarray:
    head, tier = memory.head, TIERS[rules.difficulty]
    window = np.zeros(1, WINDOW)
    done = round(memory.decoded * MEAN_RATE_S * rules.step_us / 1e6)
    window["t"], window["failures"], window["tokens_done"] = memory.t, memory.failures, done
    window["queued"], window["growth"], window["above"] = head.queued, head.growth, head.above
    window["late_us"] = round(memory.late * rules.step_us)
    window["backlog_us"], window["cap"] = head.backlog_ms * 1000, rules.budget_pages * PAGE_TOKENS // 4
    window["step_s"], window["sub_agents"] = rules.step_ms / 1000, tier.sub_agents
    window["bursts"], window["arrivals"] = tier.bursts, tier.arrivals * rules.steps
    return window


def _never_seen(memory: Memory, known: list[Entry]) -> list[Entry]:
    """Entries that the totals speak of, and that no view has shown.

    A view leaves out the smallest of those on the CPU. How long they have been idle, and what for, is
    drawn from those that it shows.
    """
    head = memory.head
    cached = sum(entry.cached for entry in known)
    waiting = sum(entry.queued for entry in known)
    hidden = max(head.rows + head.hidden - len(memory.anchors) - cached, 0)
    rest = head.cpu_used - sum(e.units for e in known if e.cached and e.row.place == Place.CPU)
    pages = max(rest, 0) // UNITS_PER_PAGE // max(hidden, 1)
    need = max(head.need / UNITS_PER_PAGE - sum(e.need for e in known if e.queued), 0)
    queued = max(head.queued - waiting, 0)
    asked = _UNSEEN._replace(kind=Kind.CONTEXT, place=Place.NOWHERE)
    return [
        *(Entry(_UNSEEN._replace(pages=pages), -8, cached=True) for _ in range(hidden)),
        *(Entry(asked, memory.t, queued=True, need=need / queued) for _ in range(queued)),
    ]
