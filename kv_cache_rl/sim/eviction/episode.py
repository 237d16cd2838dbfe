"""A live episode, its replay and the one rollout loop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.eviction import dynamics as d
from kv_cache_rl.sim.eviction import observe as o
from kv_cache_rl.sim.eviction import state as s
from kv_cache_rl.sim.eviction.admission import demand_units
from kv_cache_rl.sim.eviction.calls import KEEP, VERBS, Call, result_text
from kv_cache_rl.sim.eviction.entries import units_of
from kv_cache_rl.sim.eviction.score import normalized_score, rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, ActionLog, Scenario

_EVENT_NAMES = {
    d.E_WAITED: "waited more than 5 windows",
    d.E_WRONG: "decoded below its tolerance",
    d.E_PREEMPTED: "preempted by overflow",
    d.E_UNSERVED: "still waiting when the episode ended",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What an episode came to."""

    scenario_id: str
    rewards: dict[str, float]
    """Unweighted, by name."""
    total: float
    normalized: float
    metrics: dict[str, float]
    timeline: list[dict] = field(repr=False)
    notes: str = ""


class Episode:
    """One episode in progress; every decision goes through `step`."""

    def __init__(self, scenario: Scenario):
        if not isinstance(scenario, Scenario):
            what = f"an Episode plays a Scenario, not {type(scenario).__name__} {str(scenario)[:40]!r}"
            raise TypeError(f"{what}; read one with Scenario.from_json or load_scenarios")
        self.scenario = scenario
        self.scn = s.pack(scenario)
        self.state = s.initial_state(scenario, self.scn)
        self.names = s.slot_names(scenario)
        self.log: ActionLog = []
        self.timeline: list[dict] = []
        self._slots = {name: k for k, name in enumerate(self.names)}
        self._prefix_ids = [p.prefix_id for p in scenario.prefixes]
        self._rows, self._head = o.new_view()
        self._events = np.zeros((8 * len(scenario.sessions), 3), np.int64)
        self._text = ""

    @property
    def t(self) -> int:
        return len(self.log)

    @property
    def done(self) -> bool:
        return self.t >= self.scenario.steps

    def observation(self) -> dict:
        """What the decider sees now, as JSON-able values."""
        o.view(self.scn, self.state, self._rows, self._head)
        return o.observation(self._rows, self._head, self.names, self._prefix_ids, self._pending())

    def prompt(self) -> str:
        """The observation as compact JSON, at most 3,600 characters."""
        return o.to_text(self.observation())

    def _pending(self) -> list:
        dyn = s.dynamic_of(self.scn, self.state)
        waiting = np.flatnonzero(dyn[s.PHASE, : len(self.scenario.sessions)] == s.QUEUED)
        waiting = waiting[np.argsort(dyn[s.ORDER, waiting])][: o.TOP]
        return [
            [self.names[i], o.in_pages(demand_units(self.scn, self.state, i)),
             int(dyn[s.WAIT_US, i] * 10 // self.scenario.step_us) / 10]
            for i in waiting
        ]  # fmt: skip

    def step(self, calls: Sequence[Call]) -> list[str]:
        """Plays one window and says what became of each call.

        Raises:
            ValueError: the episode is over.
            TypeError: `calls` is no sequence of Call.
        """
        if self.done:
            raise ValueError(f"the episode is over after {self.scenario.steps} windows; start a new Episode")
        wrong = (
            [calls]
            if not isinstance(calls, Sequence)
            else [call for call in calls if not isinstance(call, Call)]
        )
        if wrong:
            what = f"step takes a list of Call, not {type(wrong[0]).__name__} {str(wrong[0])[:40]!r}"
            raise TypeError(f"{what}; write [Call('evict', 's7')], and read logged words with Call.from_log")
        packed = np.array([self._pack(call) for call in calls], np.int64).reshape(-1, 2)
        before = self._before(packed)
        results = np.zeros(len(calls), np.int64)
        d.step(self.scn, self.state, packed, results, self._events)
        texts = [
            result_text(call, int(code), pages, cpu_free, done)
            for call, code, (pages, cpu_free, done) in zip(
                calls, results, self._after(packed, results, before), strict=True
            )
        ]
        self.log.append([call.to_log() for call in calls])
        self.timeline.append(self._record(calls, results, texts))
        return texts

    def _pack(self, call: Call) -> tuple[int, int]:
        if call.error or call.verb not in VERBS:
            return d.UNREADABLE, -1
        return VERBS[call.verb], self._slots.get(call.seq_id, -1)

    def _before(self, packed):
        dyn = s.dynamic_of(self.scn, self.state)
        cpu_free = int(pool.free(s.ledger_of(self.scn, self.state), s.TIER_CPU))
        sharers = s.prefixes_of(self.scn, self.state)[:, s.P_REFS].tolist()
        columns = [s.PAGES, s.LEVEL, s.PLACE, s.REF]
        return cpu_free, sharers, {int(i): tuple(dyn[columns, i].tolist()) for i in packed[:, 1] if i >= 0}

    def _after(self, packed, results, before):
        """Per call: its pages, the CPU pages left then, and the words for success, in the order the calls
        took effect.
        """
        cpu_free, sharers, now = before
        out = []
        for (verb, slot), code in zip(packed.tolist(), results.tolist(), strict=True):
            pages, level, place, shares = now.get(slot, (0, 0, 0, 0))
            size = o.in_pages(pages * (s.UNITS_PER_PAGE >> level))
            done = "ok: nothing changed"
            if code == d.OK and verb == d.EVICT:
                done = f"ok: evicted, {size:g} {'GPU' if place == s.ON_GPU else 'CPU'} pages freed"
                done += self._let_go(slot, sharers, alone=pages == 0) if shares else ""
                now[slot] = (0, 0, s.NOWHERE, 0)
                cpu_free += pages * (s.UNITS_PER_PAGE >> level) if place == s.ON_CPU else 0
            elif code == d.OK and verb == d.COMPRESS:
                done = f"ok: now {o.BITS[level + 1]} bits, {size / 2:g} pages freed, no decode in this window"
                now[slot] = (pages, level + 1, place, shares)
            elif code == d.OK and verb == d.SWAP:
                done = f"ok: {size:g} pages moved to the CPU pool"
                now[slot] = (pages, level, s.ON_CPU, shares)
                cpu_free -= pages * (s.UNITS_PER_PAGE >> level)
            out.append((size, o.in_pages(cpu_free), done))
        return out

    def _let_go(self, slot: int, sharers: list[int], alone: bool) -> str:
        """What an eviction does to the shared prefix: it goes with the last of its `sharers`, which are
        counted down.
        """
        p = int(s.static_of(self.scn)[s.PREFIX, slot])
        sharers[p] -= 1
        name, pages = self._prefix_ids[p], s.prefixes_of(self.scn, self.state)[p, s.P_PAGES]
        if sharers[p] == 0:
            return f", and the {pages} GPU pages of prefix {name}, which nobody else shares"
        return f"; prefix {name} stays, {sharers[p]} more share it" if alone else ""

    def _record(self, calls, results, texts):
        c, dyn = s.counters_of(self.scn, self.state), s.dynamic_of(self.scn, self.state)
        n, budget = int(c[s.EVENTS]), int(self.scn[s.BUDGET])
        events = self._events[:n].tolist()
        by_type = dict.fromkeys(BLOCK_TYPES, 0)
        for i in np.flatnonzero(dyn[s.PLACE] == s.ON_GPU):
            by_type[BLOCK_TYPES[dyn[s.KIND, i]]] += int(units_of(dyn, i))
        prefixes = s.prefixes_of(self.scn, self.state)
        by_type["system"] += (
            int((prefixes[:, s.P_PAGES] * (prefixes[:, s.P_REFS] > 0)).sum()) * s.UNITS_PER_PAGE
        )
        return {
            "step": len(self.log) - 1,
            "usage_peak": round(int(c[s.PEAK]) / budget, 6),
            "memory_usage": round(int(s.ledger_of(self.scn, self.state)[0, 1]) / int(self.scn[s.GPU]), 6),
            "budget": round(budget / int(self.scn[s.GPU]), 6),
            "queue": int(c[s.QUEUE]),
            "arrivals": [self.names[i] for what, i, _ in events if what == d.E_ARRIVED],
            "admitted": [self.names[i] for what, i, _ in events if what == d.E_ADMITTED],
            "completions": [self.names[i] for what, i, _ in events if what == d.E_COMPLETED],
            "failures": [
                {"seq_id": self.names[i], "why": _EVENT_NAMES[w]} for w, i, _ in events if w in _EVENT_NAMES
            ],
            "tokens": sum(v for what, _, v in events if what == d.E_COMPLETED),
            "latency_s": sum(v for what, _, v in events if what == d.E_SWAPPED_IN) / 1e6,
            "link_busy": round(int(c[s.LINK_BUSY_US]) / self.scenario.step_us, 6),
            "prefill_busy": round(int(c[s.PREFILL_BUSY_US]) / self.scenario.step_us, 6),
            "calls": [
                {"verb": call.verb, "seq_id": call.seq_id, "ok": bool(code == d.OK), "text": text}
                for call, code, text in zip(calls, results, texts, strict=True)
            ],
            "by_type": {kind: round(units / budget, 6) for kind, units in by_type.items()},
        }

    def report(self) -> Report:
        """Rewards, metrics and the time line so far."""
        rewards, total, metrics = rewards_and_metrics(self.scn, self.state, self.scenario.best)
        normalized = normalized_score(total, self.scenario.floor, self.scenario.best)
        notes = diagnosis(self.timeline, metrics, total, self.scenario)
        return Report(self.scenario.id, rewards, total, normalized, metrics, self.timeline, notes)

    def check(self) -> None:
        """Raises `LedgerError` if the books do not balance."""
        s.check(self.scn, self.state)


def diagnosis(timeline: list[dict], metrics: dict, total: float, scenario: Scenario) -> str:
    """Two or three sentences on what went wrong and what it cost."""
    failures = [
        f"{f['seq_id']} in window {w['step'] + 1} ({f['why']})" for w in timeline for f in w["failures"]
    ]
    parts = [
        f"Return {total:.3f}; the best known is {scenario.best:.3f}, the best blind policy {scenario.floor:.3f}."
    ]
    if failures:
        more = f" and {len(failures) - 4} more" if len(failures) > 4 else ""
        parts.append(f"{len(failures)} requests failed: {', '.join(failures[:4])}{more}.")
    else:
        parts.append("No request failed.")
    over = sum(w["usage_peak"] >= 0.95 for w in timeline)
    longest = max((w["queue"] for w in timeline), default=0)
    refused = [c["text"] for w in timeline for c in w["calls"] if not c["ok"]]
    parts.append(
        f"The cache was above 95 % of its budget in {over} windows, the queue reached {longest}, "
        f"{int(metrics['recomputed_tokens'])} tokens were computed again."
    )
    if refused:
        parts.append(f"{len(refused)} calls were refused, the first with: {refused[0]}.")
    return " ".join(parts)


def replay(scenario: Scenario, log: ActionLog) -> Report:
    """The report of a logged episode; a log shorter than the episode is completed with `keep`."""
    episode = Episode(scenario)
    for words in list(log)[: scenario.steps]:
        episode.step([Call.from_log(call) for call in words])
    while not episode.done:
        episode.step([KEEP])
    return episode.report()


def rollout(scenario: Scenario, decide) -> Report:
    """Plays one episode with a decider (observation -> calls)."""
    return play(Episode(scenario), decide).report()


def play(episode: Episode, decide) -> Episode:
    """Runs an episode to its end and gives it back.

    Raises:
        TypeError: `decide` is no function, or gives something other than calls.
    """
    if not callable(decide):
        raise TypeError(
            f"decide is {decide!r}, not a function from an observation to calls; make one with DECIDERS['lru']()"
        )
    while not episode.done:
        episode.step(decide(episode.observation()))
    return episode


def tool_messages(texts: list[str], prompt: str | None) -> list[str]:
    """Contents of a step's tool messages: what each call did; the next observation stands at the end of the
    last.
    """
    if prompt is None or not texts:
        return list(texts)
    return [*texts[:-1], f"{texts[-1]}\n{prompt}"]


def text_only_reply(prompt: str) -> str:
    """User message that answers a reply without tool calls."""
    return f"No tool was called, so nothing changed in that window.\n{prompt}"
