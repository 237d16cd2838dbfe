"""Futures that fit what the views have shown, drawn from the generator's own distributions.

What the view does not say is drawn anew each time: tolerances, the rest of answers, pauses (longer than the
session has been idle), all later calls, and sessions yet to come. What it says in pages, per cent or sums is
completed to tokens and microseconds."""

from dataclasses import replace

import numpy as np

from kv_cache_rl.core.precision import LADDER, WORK_CLASSES, tolerated_level
from kv_cache_rl.search.eviction.memory import UNKNOWN, Entry, Memory
from kv_cache_rl.sim.eviction import process as p
from kv_cache_rl.sim.eviction.build import turns_of
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Counter, Kind, Phase, Place, Slot, Static, Tier
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.generate import MAIN_PREFIXES, TIERS, arriving, which_prefix
from kv_cache_rl.sim.eviction.observe import Row, Status
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, PAGE_TOKENS, PLACES, Prefix, Scenario, Session
from kv_cache_rl.sim.eviction.state import State

MEAN_RATE_S = sum(weight * np.exp(mu + sigma**2 / 2) for weight, mu, sigma in p.TOKENS_PER_SECOND)
TRIES = 300
"""Draws of a condition that few draws meet, before the last one is taken."""
_UNSEEN = Row(0, Kind.TOOL_RESULT, UNKNOWN, Status.IDLE, 0, 0, Place.CPU, 50, 0, 25, 8, 4, 12, -1, 0, 0)


def imagine(memory: Memory, rules: Scenario, rng: np.random.Generator) -> tuple[State, np.ndarray]:
    """A state that looks as the last view did, with a future; and the slot of every row of that view.

    `rules` are a scenario's public constants, `memory.published`.
    """
    prefixes = tuple(
        Prefix(f"p{k}", f"sys{k}", pages * PAGE_TOKENS) for k, pages in enumerate(memory.prefixes.values())
    )
    believed = [memory.entries[name] for name in memory.ids if name in memory.entries]
    places = {name: k for k, name in enumerate(n for n in memory.ids if n in memory.entries)}
    believed += [entry for name, entry in memory.entries.items() if name not in places]
    believed += _never_seen(memory, believed, rng)
    drawn = [_Drawn(memory, rules, entry, len(prefixes), rng) for entry in believed]
    newcomers = _newcomers(memory, rules, prefixes, rng)
    sessions = [replace(s, seq_id=f"s{k}") for k, s in enumerate([*(d.session for d in drawn), *newcomers])]
    state = new_state(replace(rules, prefixes=prefixes, sessions=tuple(sessions)))
    _write(state, memory, drawn, int(rules.step_us))
    first = len(state.columns.dyn[0]) - len(prefixes)
    places |= {f"sys{k}": first + k for k in range(len(prefixes))}
    return state, np.array([places[name] for name in memory.ids], np.int64)


def _never_seen(memory: Memory, believed: list[Entry], rng: np.random.Generator) -> list[Entry]:
    """Entries that the totals speak of, and that no view has shown.

    A view leaves out the smallest of those on the CPU. How long they have been idle, and what for, is
    drawn from those that it shows.
    """
    head = memory.head
    known = sum(entry.cached for entry in believed)
    waiting = sum(entry.queued for entry in believed)
    hidden = max(head.rows + head.hidden - len(memory.anchors) - known, 0)
    rest = head.cpu_used - sum(e.units for e in believed if e.cached and e.row.place == Place.CPU)
    pages = max(rest, 0) // UNITS_PER_PAGE // max(hidden, 1)
    alike = [e for e in believed if e.cached and not e.active and e.row.place == Place.CPU and e.seen <= 0]
    unseen = []
    for _ in range(hidden):
        row, seen = _UNSEEN._replace(pages=pages), -8
        if alike:
            like = alike[rng.integers(len(alike))]
            row, seen = row._replace(kind=like.row.kind), like.seen
        unseen.append(Entry(row, seen, cached=True))
    need = max(head.need / UNITS_PER_PAGE - sum(e.need for e in believed if e.queued), 0)
    queued = max(head.queued - waiting, 0)
    row = _UNSEEN._replace(kind=Kind.CONTEXT, place=Place.NOWHERE)
    return unseen + [Entry(row, memory.t, queued=True, need=need / queued) for _ in range(queued)]


class _Drawn:
    """One entry with what is hidden of it: a session, and where its request stands."""

    def __init__(
        self, memory: Memory, rules: Scenario, entry: Entry, prefixes: int, rng: np.random.Generator
    ):
        self.entry, self.row, self.rng = entry, entry.row, rng
        self.step_s = rules.step_ms / 1000
        self.until_s, self.now_s = rules.steps * self.step_s, memory.t * self.step_s
        sub = entry.prefix == MAIN_PREFIXES
        if entry.prefix == UNKNOWN and self.row.work_class == UNKNOWN and prefixes > MAIN_PREFIXES:
            sub = bool(rng.random() < TIERS[rules.difficulty].sub_agents)
            entry = replace(entry, prefix=which_prefix(rng, sub))
        self.sub, self.done = sub, 0
        known = self.row.work_class != UNKNOWN
        work = WORK_CLASSES[self.row.work_class] if known else _class(rng)
        self.thinks = work == "reasoning" and not sub
        self.rate_s = p.draw(rng, p.TOKENS_PER_SECOND)
        self.tokens = max(self.row.pages * PAGE_TOKENS - PAGE_TOKENS // 2, 0) if entry.cached else 0
        own, turns, over = self._calls()
        draft = p.Draft(
            entry.prefix, work, 0.0, self.row.priority * 10, self.rate_s, own, 0.0, 1, "tool", turns, over
        )
        cap = max(rules.budget_pages * PAGE_TOKENS // 4, own + 2_100)
        self.session = Session(
            "", BLOCK_TYPES[self.row.kind], work, LADDER[self._tolerance(work)], draft.priority,
            max(round(self.rate_s * self.step_s), 8), entry.prefix,
            PLACES[self.row.place if self.tokens else 0], self.tokens, 0, 0, turns_of(draft, own, True, cap),
        )  # fmt: skip

    def _tolerance(self, work: str) -> int:
        level = self.entry.bears
        for _ in range(TRIES):
            level = tolerated_level(work, float(self.rng.random()))
            if self.entry.bears <= level < self.entry.breaks:
                return level
        return self.entry.bears

    def _calls(self) -> tuple[int, tuple[p.DraftTurn, ...], bool]:
        """Own tokens that its next call builds on, that call and the later ones, and whether it ends then."""
        entry, row = self.entry, self.row
        context = max(row.pages * PAGE_TOKENS, 500)
        if row.kind in (Kind.REASONING, Kind.EPHEMERAL):
            return context, (), False
        if not entry.active:
            ended = row.kind == Kind.CONTEXT
            at_s = self._returns(ended)
            if at_s is None:
                return context, (), False
            return context, *self._from(at_s, ended)
        new, out, thought, ends, _ = p.next_call(self.rng, self.sub, self.thinks, False)
        if row.status >= Status.DECODE or row.progress:
            out, self.done = self._answer(out)
            thinks = row.status == Status.REASONING or (self.thinks and row.status != Status.DECODE)
            thought = round(out * self.rng.uniform(0.3, 0.7)) if thinks else 0
        prompt = context + new
        if row.status >= Status.DECODE:
            prompt = max(self.tokens - self.done, 1)
        elif row.status == Status.PREFILL:
            prompt = self.tokens
        elif entry.need:
            there = self.tokens if row.place == Place.GPU else 0
            prompt = max(
                round(entry.need * PAGE_TOKENS * (1 << row.level)) + there - self.done, self.tokens, 1
            )
        first = p.DraftTurn(self.now_s - self.step_s, 0, out, thought, ends)
        over_s = self.now_s + (out - self.done) / self.rate_s - entry.delay * self.step_s
        if entry.cut:
            over_s -= self.rng.random() * out / self.rate_s
        gap = p.gap_after(self.rng, self.sub, ends)
        if gap is None:
            return prompt, (first,), self.sub
        turns, over = self._from(over_s + gap, ends)
        return prompt, (first, *turns), over

    def _returns(self, ended: bool) -> float | None:
        """When an idle session calls again, given that it has not yet; None if it does not."""
        if self.entry.cut and self.entry.seen == self.now_s == 0:
            return 0.0
        # The nominal end lies somewhere in the window of the last access, or before, if it was late.
        end_s = (self.entry.seen - self.entry.delay + self.rng.random()) * self.step_s
        for _ in range(TRIES):
            gap = p.gap_after(self.rng, self.sub, ended and not self.sub)
            if gap is None or end_s + gap >= self.now_s:
                return None if gap is None else end_s + gap
        return None

    def _from(self, at_s: float, user: bool) -> tuple[tuple[p.DraftTurn, ...], bool]:
        """The calls from `at_s` to the episode's end."""
        turns: list[p.DraftTurn] = []
        rewritten = False
        while at_s < self.until_s:
            new, out, thought, ends, rewrites = p.next_call(self.rng, self.sub, self.thinks, user)
            again = rewritten and bool(turns)
            turns.append(p.DraftTurn(at_s, -1 if again else new, out, thought, ends, 0 if again else -1))
            gap = p.gap_after(self.rng, self.sub, ends)
            if gap is None:
                return tuple(turns), self.sub
            at_s, user, rewritten = at_s + out / self.rate_s + gap, ends, rewrites
        return tuple(turns), False

    def _answer(self, out: int) -> tuple[int, int]:
        """Tokens of the answer in progress, and how many of them are done."""
        entry, step = self.entry, self.rate_s * self.step_s
        if entry.grew:
            # Two readings in whole per cent: each is off by up to one.
            per_window = max(entry.gained + self.rng.uniform(-1, 1), 0.5) / entry.grew
            out = max(round(100 * step / per_window), 16)
        elif self.row.progress and self.row.status >= Status.DECODE:
            # Long answers are more likely to be met.
            drawn = [p.draw_tokens(self.rng, p.OUT, 16, 2_000) for _ in range(8)]
            out = int(self.rng.choice(drawn, p=np.array(drawn) / sum(drawn)))
        return out, min(int((self.row.progress + self.rng.random()) * out / 100), out - 1)


def _class(rng) -> str:
    return str(rng.choice(list(p.CLASS_SHARES), p=list(p.CLASS_SHARES.values())))


def _newcomers(memory: Memory, rules: Scenario, prefixes, rng) -> list[Session]:
    """Sessions that begin in the windows to come."""
    if len(prefixes) <= MAIN_PREFIXES:
        return []
    step_s, cap = rules.step_ms / 1000, rules.budget_pages * PAGE_TOKENS // 4
    come = []
    for d in arriving(rng, TIERS[rules.difficulty], prefixes, cap):
        if d.turns and d.turns[0].at_s >= memory.t * step_s:
            own, rate = min(d.context, cap - 2_100), max(round(d.rate_s * step_s), 8)
            tolerance = LADDER[tolerated_level(d.work_class, d.tolerance)]
            come.append(
                Session("", "context", d.work_class, tolerance, d.priority, rate, d.prefix, "none", 0, 0, 0,
                        turns_of(d, own, False, cap))
            )  # fmt: skip
    return come


def _write(state: State, memory: Memory, drawn: list[_Drawn], step_us: int) -> None:
    """Writes what the view shows over the state: entries, shared prefixes, ledger and counters."""
    c, head, t = state.columns, memory.head, memory.t
    dyn = c.dyn
    for i, d in enumerate(drawn):
        entry, row = d.entry, d.row
        cached = entry.cached and row.place != Place.NOWHERE
        phase = (
            Phase.QUEUED if entry.queued else min(row.status, Phase.DECODE) if entry.active else Phase.IDLE
        )
        dyn[:, i] = 0
        dyn[Slot.KIND, i], dyn[Slot.PHASE, i], dyn[Slot.COUNT, i] = row.kind, phase, row.uses
        dyn[Slot.PLACE, i] = row.place if cached else Place.NOWHERE
        dyn[Slot.LAST, i], dyn[Slot.BORN, i] = entry.seen, entry.seen + row.idle - row.age
        dyn[Slot.EVER, i] = max(d.tokens, row.pages * PAGE_TOKENS - PAGE_TOKENS // 2)
        dyn[Slot.GENERATED, i], dyn[Slot.WAIT_US, i] = d.done, round(entry.waited * step_us)
        dyn[Slot.ORDER, i] = entry.arrived * 1024 + i
        if phase == Phase.DECODE and d.done and row.level > c.static[Static.TOLERANCE, i]:
            dyn[Slot.SPOILED, i] = row.level
        if cached:
            dyn[Slot.LEVEL, i], dyn[Slot.TOKENS, i], dyn[Slot.PAGES, i] = row.level, d.tokens, row.pages
            dyn[Slot.REF, i] = d.session.prefix >= 0 and (row.prefix >= 0 or row.work_class == UNKNOWN)
            dyn[Slot.HOT, i] = _hotness(row)
    _share_backlog(dyn, drawn, head.backlog_ms * 1000)
    anchors = slice(dyn.shape[1] - len(memory.prefixes), dyn.shape[1])
    there = np.array([name in memory.anchors for name in memory.prefixes], bool)
    dyn[Slot.PLACE, anchors] = np.where(there, Place.GPU, Place.NOWHERE)
    dyn[Slot.REF, anchors] = there
    _count(state)
    c.counters[Counter.WINDOW], c.counters[Counter.FAILURES] = t, memory.failures
    c.counters[Counter.QUEUE], c.counters[Counter.QUEUE_BEFORE] = head.queued, head.queued - head.growth
    c.counters[Counter.ABOVE_95] = head.above
    c.counters[Counter.TOKENS_DONE] = round(memory.decoded * MEAN_RATE_S * step_us / 1e6)


def _share_backlog(dyn: np.ndarray, drawn: list[_Drawn], backlog_us: int) -> None:
    """Tells what each prefill has yet to do: the last in the lane all of it, the first what is left."""
    lane = [i for i in range(len(drawn)) if dyn[Slot.PHASE, i] == Phase.PREFILL]
    for i in sorted(lane, key=lambda i: -dyn[Slot.ORDER, i]):
        whole = round(drawn[i].row.reload * 100_000 * drawn[i].entry.fresh)
        dyn[Slot.TODO_US, i] = max(min(whole, backlog_us), 1)
        backlog_us = max(backlog_us - whole, 0)
    if lane:
        dyn[Slot.TODO_US, min(lane, key=lambda i: dyn[Slot.ORDER, i])] += backlog_us
    for i in lane:
        dyn[Slot.LOST_US, i] = dyn[Slot.TODO_US, i] * drawn[i].entry.lost


def _hotness(row: Row) -> int:
    """The hotness at the last access that the shown value implies."""
    base = 250 if row.kind in (Kind.CONTEXT, Kind.TOOL_RESULT) else 500
    now = 500 + (base - 10 * row.value - 1.5 * (row.priority - 50) - row.progress) / 0.15
    return int(np.clip(now / 0.7 ** min(row.idle, 18), 0, 1000))


def _count(state: State) -> None:
    """Makes ledger and references those of the entries."""
    c = state.columns
    dyn = c.dyn
    held = dyn[Slot.REF] == 1
    c.prefixes["refs"] = np.bincount(c.static[Static.PREFIX][held], minlength=len(c.prefixes))
    units = dyn[Slot.PAGES] * (UNITS_PER_PAGE >> dyn[Slot.LEVEL])
    for tier in Tier:
        c.ledger[tier, 1] = units[dyn[Slot.PLACE] == tier + 1].sum()
    c.ledger[Tier.GPU, 1] += (c.prefixes["pages"] * (c.prefixes["refs"] > 0)).sum() * UNITS_PER_PAGE
