"""A live episode, its replay and the one loop in which a decider written in Python plays it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.sim.eviction.actions import Outcome, Verb
from kv_cache_rl.sim.eviction.admission import demand_units
from kv_cache_rl.sim.eviction.brief import aliases, brief
from kv_cache_rl.sim.eviction.calls import KEEP, VERBS, Call, result_text
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Counter, Kind, Phase, Place, Slot, Static, Tier
from kv_cache_rl.sim.eviction.dynamics import new_state, step
from kv_cache_rl.sim.eviction.entries import Event
from kv_cache_rl.sim.eviction.log import ActionLog, LogError, log_fault
from kv_cache_rl.sim.eviction.observe import BITS, new_view, view
from kv_cache_rl.sim.eviction.score import Report, scored
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, VIEWS, Scenario, one_of
from kv_cache_rl.sim.eviction.state import check, slot_names
from kv_cache_rl.sim.eviction.text import TOP, in_pages, observation, to_text

_CALLED = np.array([Slot.PAGES, Slot.LEVEL, Slot.PLACE, Slot.REF])
"""What the answer to a call depends on."""
_WHY_FAILED: dict[int, str] = {
    Event.WAITED: "waited more than 5 windows",
    Event.WRONG: "decoded below its tolerance",
    Event.PREEMPTED: "preempted by overflow",
    Event.UNSERVED: "still waiting when the episode ended",
}


class Episode:
    """One episode in progress; every decision goes through `step`."""

    def __init__(self, scenario: Scenario, view: str = "full"):
        if not isinstance(scenario, Scenario):
            what = f"an Episode plays a Scenario, not {type(scenario).__name__} {str(scenario)[:40]!r}"
            raise TypeError(f"{what}; read one with Scenario.from_json or load_scenarios")
        one_of("view", view, VIEWS)
        self.scenario = scenario
        self.view = view
        self.state = new_state(scenario)
        self.names = slot_names(scenario)
        self.log: ActionLog = []
        self.timeline: list[dict] = []
        self._columns = self.state.columns
        self._slots = {name: k for k, name in enumerate(self.names)}
        self.shown = self.names
        """Ids by slot as the view shows them; empty where no alias has been given yet."""
        if view == "brief":
            self.shown, self._aliases = [""] * len(self.names), iter(aliases(len(self.names)))
            self._name_newcomers()
        self._prefix_ids = [p.prefix_id for p in scenario.prefixes]
        self._rows, self._head = new_view()
        self._events = np.zeros((8 * len(scenario.sessions), 3), np.int64)

    @property
    def t(self) -> int:
        return len(self.log)

    @property
    def done(self) -> bool:
        return self.t >= self.scenario.steps

    @property
    def last_window(self) -> bool:
        """Whether the next step is the last."""
        return len(self.log) == self.scenario.steps - 1

    def observation(self) -> dict:
        """What the decider sees now, as JSON-able values."""
        view(*self.state, self._rows, self._head)
        if self.view == "brief":
            return brief(self._rows, self._head, self.shown, self._pending())
        return observation(self._rows, self._head, self.shown, self._prefix_ids, self._pending())

    def prompt(self) -> str:
        """The observation as compact JSON, at most 3,600 characters."""
        return to_text(self.observation())

    def _pending(self) -> list:
        dyn, step_us = self._columns.dyn, self.scenario.step_us
        waiting = np.flatnonzero(dyn[Slot.PHASE, : len(self.scenario.sessions)] == Phase.QUEUED)
        if not len(waiting):
            return []
        waiting = waiting[np.argsort(dyn[Slot.ORDER, waiting])][:TOP]
        waited = (dyn[Slot.WAIT_US, waiting] * 10 // step_us).tolist()
        return [
            [self.shown[i], in_pages(demand_units(*self.state, i)), tenths / 10]
            for i, tenths in zip(waiting.tolist(), waited, strict=True)
        ]

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
        for call in calls:
            for part in (call.verb, call.seq_id, call.error):
                if not isinstance(part, str):
                    raise TypeError(
                        f"{str(call)[:80]} holds {type(part).__name__}, where a Call holds texts; write "
                        "Call('evict', 's7'), and read a model's arguments with parse_call"
                    )
        packed = np.array([self._pack(call) for call in calls], np.int64).reshape(-1, 2)
        before = self._before(packed)
        results = np.zeros(len(calls), np.int64)
        step(*self.state, packed, results, self._events)
        texts = [
            result_text(call, int(code), pages, cpu_free, done, self.view)
            for call, code, (pages, cpu_free, done) in zip(
                calls, results, self._after(packed, results, before), strict=True
            )
        ]
        self.log.append([self.named(call).to_log() for call in calls])
        self.timeline.append(self._record(calls, results, texts))
        if self.view == "brief":
            self._name_newcomers()
        return texts

    def _name_newcomers(self) -> None:
        """Gives an alias to whatever is in the cache or in the queue for the first time.

        In the order of the slots all at once, they would tell how many sessions are yet to come.
        """
        dyn = self._columns.dyn
        for slot in np.flatnonzero((dyn[Slot.PLACE] != Place.NOWHERE) | (dyn[Slot.PHASE] != Phase.IDLE)):
            if not self.shown[slot]:
                self.shown[slot] = next(self._aliases)
                self._slots[self.shown[slot]] = int(slot)

    def named(self, call: Call, shown: bool = False) -> Call:
        """The call by the scenario's id of its entry, or by the one that this view shows."""
        slot = self._slots.get(call.seq_id)
        return call if slot is None else replace(call, seq_id=(self.shown if shown else self.names)[slot])

    def _pack(self, call: Call) -> tuple[int, int]:
        if call.error or call.verb not in VERBS:
            return Verb.UNREADABLE, -1
        return VERBS[call.verb], self._slots.get(call.seq_id, -1)

    def _before(self, packed):
        c = self._columns
        cpu_free, sharers = int(pool.free(c.ledger, Tier.CPU)), c.prefixes["refs"].tolist()
        return cpu_free, sharers, {int(i): tuple(c.dyn[_CALLED, i].tolist()) for i in packed[:, 1] if i >= 0}

    def _after(self, packed, results, before):
        """Per call: its pages, the CPU pages left then, and the words for success."""
        cpu_free, sharers, now = before
        out = []
        for (verb, slot), code in zip(packed.tolist(), results.tolist(), strict=True):
            pages, level, place, shares = now.get(slot, (0, 0, 0, 0))
            units = pages * (UNITS_PER_PAGE >> level)
            size, done = in_pages(units), "ok: nothing changed"
            if code == Outcome.OK and verb == Verb.EVICT:
                done = f"ok: evicted, {size:g} {'GPU' if place == Place.GPU else 'CPU'} pages freed"
                done += self._let_go(slot, sharers, alone=pages == 0) if shares else ""
                now[slot] = (0, 0, Place.NOWHERE, 0)
                cpu_free += units if place == Place.CPU else 0
            elif code == Outcome.OK and verb == Verb.COMPRESS:
                done = f"ok: now {BITS[level + 1]} bits, {size / 2:g} pages freed, no decode in this window"
                now[slot] = (pages, level + 1, place, shares)
            elif code == Outcome.OK and verb == Verb.SWAP:
                done = f"ok: {size:g} pages moved to the CPU pool"
                now[slot] = (pages, level, Place.CPU, shares)
                cpu_free -= units
            out.append((size, in_pages(cpu_free), done))
        return out

    def _let_go(self, slot: int, sharers: list[int], alone: bool) -> str:
        """What an eviction does to the shared prefix, which goes with the last of its `sharers`."""
        c = self._columns
        p = int(c.static[Static.PREFIX, slot])
        sharers[p] -= 1
        name, pages = self._prefix_ids[p], c.prefixes["pages"][p]
        if sharers[p] == 0:
            return f", and the {pages} GPU pages of prefix {name}, which nobody else shares"
        return f"; prefix {name} stays, {sharers[p]} more share it" if alone else ""

    def _units_by_type(self) -> dict[str, int]:
        """GPU units of each block type; shared prefixes count as system."""
        c = self._columns
        units = c.dyn[Slot.PAGES] * (UNITS_PER_PAGE >> c.dyn[Slot.LEVEL]) * (c.dyn[Slot.PLACE] == Place.GPU)
        by_type = np.bincount(c.dyn[Slot.KIND], units, len(BLOCK_TYPES)).astype(np.int64)
        by_type[Kind.SYSTEM] += (c.prefixes["pages"] * (c.prefixes["refs"] > 0)).sum() * UNITS_PER_PAGE
        return dict(zip(BLOCK_TYPES, by_type.tolist(), strict=True))

    def _record(self, calls, results, texts):
        counters, scenario = self._columns.counters.tolist(), self.scenario
        events = self._events[: counters[Counter.EVENTS]].tolist()
        budget, gpu = scenario.budget_pages * UNITS_PER_PAGE, scenario.gpu_pages * UNITS_PER_PAGE

        completed, swapped_in = Event.COMPLETED, Event.SWAPPED_IN

        def names(what: int) -> list[str]:
            return [self.names[slot] for kind, slot, _ in events if kind == what]

        return {
            "step": len(self.log) - 1,
            "usage_peak": round(counters[Counter.PEAK] / budget, 6),
            "memory_usage": round(int(self._columns.ledger[Tier.GPU, 1]) / gpu, 6),
            "budget": round(budget / gpu, 6),
            "queue": counters[Counter.QUEUE],
            "arrivals": names(Event.ARRIVED),
            "admitted": names(Event.ADMITTED),
            "completions": names(completed),
            "failures": [
                {"seq_id": self.names[i], "why": _WHY_FAILED[w]} for w, i, _ in events if w in _WHY_FAILED
            ],
            "tokens": sum(value for kind, _, value in events if kind == completed),
            "latency_s": sum(value for kind, _, value in events if kind == swapped_in) / 1e6,
            "link_busy": round(counters[Counter.LINK_BUSY_US] / scenario.step_us, 6),
            "prefill_busy": round(counters[Counter.PREFILL_BUSY_US] / scenario.step_us, 6),
            "calls": [
                {"verb": call.verb, "seq_id": call.seq_id, "ok": ok, "text": text}
                for call, ok, text in zip(calls, (results == Outcome.OK).tolist(), texts, strict=True)
            ],
            "by_type": {kind: round(units / budget, 6) for kind, units in self._units_by_type().items()},
        }

    def report(self) -> Report:
        """Rewards, metrics and the time line so far."""
        rewards, total, normalized, metrics = scored(self.state, self.scenario)
        notes = diagnosis(self.timeline, metrics, total, self.scenario)
        return Report(self.scenario.id, rewards, total, normalized, metrics, self.timeline, notes)

    def check(self) -> None:
        """Raises `LedgerError` if the books do not balance."""
        check(self.state)


def counting(report: Report, scenario: Scenario, unread: int) -> Report:
    """The report with calls that no log holds, for they were not read: each is refused."""
    if not unread:
        return report
    metrics = dict(report.metrics)
    metrics["invalid_calls"] += unread
    metrics["calls_per_step"] = round(metrics["calls_per_step"] + unread / scenario.steps, 6)
    notes = diagnosis(report.timeline, metrics, report.total, scenario, unread)
    return replace(report, metrics=metrics, notes=notes)


def reason_of(text: str) -> str:
    """Why a call of a timeline was refused, without the list to choose from, which every view calls
    otherwise."""
    return text.partition("; choose from ")[0]


def diagnosis(timeline: list[dict], metrics: dict, total: float, scenario: Scenario, unread: int = 0) -> str:
    """Two or three sentences on what went wrong and what it cost; `unread` calls stand in no window."""
    failures = [
        f"{f['seq_id']} in window {w['step'] + 1} ({f['why']})" for w in timeline for f in w["failures"]
    ]
    known = f"the best known is {scenario.best:.3f}, the best fixed rule {scenario.floor:.3f}"
    parts = [f"Return {total:.3f}; {known if scenario.referenced else 'the scenario has no references'}."]
    if failures:
        more = f" and {len(failures) - 4} more" if len(failures) > 4 else ""
        parts.append(f"{len(failures)} requests failed: {', '.join(failures[:4])}{more}.")
    else:
        parts.append("No request failed.")
    over = int(metrics["pressure_steps_metric"])
    longest = max((w["queue"] for w in timeline), default=0)
    refused = [c["text"] for w in timeline for c in w["calls"] if not c["ok"]]
    parts.append(
        f"The cache was above 95 % of its budget in {over} windows, the queue reached {longest}, "
        f"{int(metrics['recomputed_tokens'])} tokens were computed again."
    )
    if refused:
        first = reason_of(refused[0])
        parts.append(f"{len(refused) + unread} calls were refused, the first with: {first}.")
    return " ".join(parts)


def replay(scenario: Scenario, log: ActionLog, cut_short: bool = False) -> Report:
    """The report of a logged episode.

    Args:
        cut_short: the log may end before the episode; the rest is played as `keep`, which counts as no call.

    Raises:
        LogError: it is no action log, or has not as many windows as the episode.
    """
    episode = Episode(scenario)
    if fault := log_fault(log):
        raise LogError(f"this is no action log: {fault}; give Episode.log, or the log of a results file")
    if len(log) > scenario.steps or (len(log) < scenario.steps and not cut_short):
        raise LogError(
            f"the log has {len(log)} windows, {scenario.id} has {scenario.steps}; give the log of a whole "
            "episode of this scenario, or cut_short=True for one that ended early"
        )
    for words in log:
        episode.step([Call.from_log(call) for call in words])
    while not episode.done:
        episode.step([KEEP])
        episode.state.columns.counters[Counter.CALLS] -= 1  # nobody made it
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
            f"decide is {decide!r}, not a function from an observation to calls; "
            "make one with DECIDERS['lru']()"
        )
    if isinstance(decide, type):
        raise TypeError(f"decide is the class {decide.__name__}; give a decider: {decide.__name__}()")
    while not episode.done:
        episode.step(decide(episode.observation()))
    return episode
