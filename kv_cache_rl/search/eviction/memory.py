"""What the observations of an episode have shown so far, and nothing else: the ground that a planner has.

A view names an entry by its id, so an entry is followed from window to window: how fast its answer grows,
how long its request has waited, which precisions its answers bore, and, when it is gone without having been
evicted, that its request failed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kv_cache_rl.core.precision import LADDER
from kv_cache_rl.search.eviction.belief import UNKNOWN
from kv_cache_rl.sim.eviction.calls import Call
from kv_cache_rl.sim.eviction.columns import UNITS_PER_PAGE, Kind, Place
from kv_cache_rl.sim.eviction.observe import Head, Row, Status
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.text import read_view

USUALLY_NEW = 30
"""Pages that a call adds to its session's context, where that was not seen."""
_QUEUED_ONLY = Row(0, Kind.CONTEXT, UNKNOWN, Status.IDLE, 0, 0, Place.NOWHERE, 50, 0, 25, 0, 0, 0, -1, 0, 0)


def published(scenario: Scenario) -> Scenario:
    """The scenario without anything that a decider cannot know: its server and its tier."""
    return replace(
        scenario, id="", seed=0, prefixes=(), sessions=(), floor=0.0, floor_by="", best=0.0, best_log=()
    )


@dataclass(slots=True)
class Entry:
    """What the views have shown of one entry."""

    row: Row
    """As it was last shown, `pages` included where the cache is lost since."""
    seen: int
    """Window of its last access."""
    cached: bool = False
    queued: bool = False
    prefix: int = UNKNOWN
    gained: int = 0
    """Per cent by which its answer grew in `grew` windows."""
    grew: int = 0
    spread: int = 0
    """Pages by which its answers grew in `ran` windows."""
    ran: int = 0
    waited: float = 0.0
    """Windows that its request has waited."""
    need: float = 0.0
    """Pages that its request still needs; 0 where that is not said."""
    delay: int = 0
    """Windows in which its latest request waited, computed its prompt or was paused. The session's next
    call comes when it would have without them."""
    cut: bool = False
    """Its request had begun to decode when the episode began, and was sent to the CPU before."""
    arrived: int = 0
    """Window in which its latest request arrived, as far as that was seen."""
    fresh: float = 1.0
    """Share of its pages that its prefill computes."""
    lost: bool = False
    """What it prefills was cached before."""
    stepped: bool = False
    """It decoded in the last window."""
    bears: int = 0
    """Coarsest rung at which it has answered right."""
    breaks: int = len(LADDER)
    """Finest rung at which an answer may have been wrong."""

    @property
    def active(self) -> bool:
        """Whether a request of it runs or waits."""
        return self.queued or (self.cached and self.row.status != Status.IDLE)

    @property
    def units(self) -> int:
        return self.row.pages * (UNITS_PER_PAGE >> self.row.level)


class Memory:
    """The observations of one episode so far, in the full view."""

    def __init__(self, steps: int):
        self.steps, self.t = steps, 0
        self.entries: dict[str, Entry] = {}
        """By id, without the anchors."""
        self.prefixes: dict[str, int] = {}
        """Pages of every shared prefix."""
        self.anchors: dict[str, str] = {}
        """Anchors that are still there, with their shared prefixes."""
        self.ids: list[str] = []
        """Of the last view's rows."""
        self.failures = 0
        self.late = 0.0
        """Windows of the link that caches which came back took."""
        self.decoded = 0.0
        """Windows of decoding behind the answers that are complete."""
        self.head = Head(*[0] * len(Head._fields))
        self._made: dict[str, set[str]] = {}
        """Verbs of the last calls, by id."""

    def see(self, values: dict) -> None:
        """Takes in the observation of the next window."""
        rows, head, self.ids = read_view(values)
        self.head = Head._make(head.tolist())
        self.t = self.steps - self.head.left
        shown = [(name, Row._make(row)) for name, row in zip(self.ids, rows.tolist(), strict=False)]
        held = [cells[13] for cells in values["rows"]]
        systems = [(n, p, row) for p, (n, row) in zip(held, shown, strict=True) if row.kind == Kind.SYSTEM]
        self.anchors = {name: p for name, p, _ in systems if p}
        for _, p, row in systems:
            if p:
                self.prefixes.setdefault(p, row.pages)
        for p, (name, row) in zip(held, shown, strict=True):
            if row.kind != Kind.SYSTEM:
                self._see_row(name, row, p)
        queue = {name: (pages, waited) for name, pages, waited in values["pending_summary"]["first"]}
        self._miss(queue)
        for name, (need, waited) in queue.items():
            entry = self.entries.setdefault(name, Entry(_QUEUED_ONLY, self.t, arrived=self.t - 1))
            entry.need, entry.waited, entry.queued = need, waited, True
            entry.arrived = self.t - round(waited)
        for name, entry in self.entries.items():
            if entry.queued and name not in queue:
                entry.waited += 1.0
            entry.delay += entry.active and not entry.stepped

    def called(self, calls: Sequence[Call]) -> None:
        """Takes in the calls that were made after the last observation."""
        self._made = {}
        for call in calls:
            self._made.setdefault(call.seq_id, set()).add(call.verb)

    def _see_row(self, name: str, row: Row, prefix: str) -> None:
        known = name in self.entries
        entry = self.entries.setdefault(name, Entry(row, 0))
        old, runs = entry.row, row.status >= Status.DECODE
        ran = known and entry.cached and old.status >= Status.DECODE
        if ran and row.kind != Kind.GENERATION:
            entry.bears = max(entry.bears, row.level)
            # Between first and last reading it decoded `grew` windows, and in part of one more.
            self.decoded += (entry.grew + 0.5) * 100 / max(100 - old.progress + entry.gained, 1)
        if not (ran and runs and row.progress >= old.progress):
            entry.gained = entry.grew = 0
        elif row.progress > old.progress:
            entry.gained, entry.grew = entry.gained + row.progress - old.progress, entry.grew + 1
            entry.spread, entry.ran = entry.spread + row.pages - old.pages, entry.ran + 1
        asked = known and (entry.queued or old.status != Status.IDLE)
        if row.status != Status.IDLE and (not asked or (ran and row.progress < old.progress)):
            entry.delay, entry.arrived = 0, self.t - 1  # a new request
        if row.status == Status.PREFILL and not (known and entry.cached and old.status == Status.PREFILL):
            had = old.pages if known and entry.cached else 0
            if not known and row.age > 1:  # it was on the CPU, out of sight
                had = row.pages - USUALLY_NEW
            entry.fresh = max(row.pages - had, 1) / max(row.pages, 1)
        entry.stepped = runs and (not ran or row.progress > old.progress)
        if not known and row.place == Place.CPU:
            entry.cut = self.t == 0 and row.idle == 0
        lost = known and not entry.cached and old.pages > 0
        entry.lost = row.status == Status.PREFILL and (entry.lost or lost)
        if row.status == Status.IDLE:
            entry.waited = 0.0
        came = old.place == Place.CPU if known and entry.cached else not known and row.age > 1
        if came and row.place == Place.GPU and self.t > 0:
            back = (old.pages if known else row.pages) * (UNITS_PER_PAGE >> row.level) / self.head.link_units
            self.late += back
            entry.waited += back
        if row.status == Status.PREFILL and entry.lost:
            entry.waited += 1.0
        entry.row, entry.cached, entry.need = row, True, 0.0
        entry.queued, entry.seen = row.status == Status.WAIT, self.t - row.idle
        if prefix in self.prefixes:
            entry.prefix = list(self.prefixes).index(prefix)

    def _miss(self, queue: dict) -> None:
        """Settles the entries that are not shown: out of sight, evicted, failed, or gone from the queue."""
        shown, unlisted = set(self.ids), self.head.queued > len(queue)
        absent = [(name, entry) for name, entry in self.entries.items() if name not in shown]
        evicted = {name for name, verbs in self._made.items() if "evict" in verbs}
        unseen = [e for name, e in absent if self._out_of_sight(name, e) and name not in evicted]
        unseen.sort(key=lambda entry: entry.units)
        for name, entry in absent:
            if any(entry is one for one in unseen[: self.head.hidden]):
                entry.row = entry.row._replace(place=Place.CPU)
            elif name in evicted and entry.cached:
                entry.cached, entry.queued = False, entry.active
            elif entry.active and (entry.cached or not (name in queue or unlisted)):
                self.failures += 1
                if entry.row.status >= Status.DECODE and entry.row.level:
                    entry.breaks = max(min(entry.breaks, entry.row.level), entry.bears + 1)
                entry.cached = entry.queued = False
                entry.row, entry.seen = entry.row._replace(kind=Kind.CONTEXT), self.t - 1
            else:
                entry.cached = False
            if not entry.cached:
                entry.row = entry.row._replace(status=Status.IDLE, progress=0, level=0)
        self._made = {}

    def _out_of_sight(self, name: str, entry: Entry) -> bool:
        """Whether an entry that is not shown may be one of those for which the view has no row.

        These are idle, and on the CPU while all of the GPU's are shown.
        """
        moved = "swap_to_cpu" in self._made.get(name, ())
        return entry.cached and not entry.active and (moved or entry.row.place == Place.CPU)
