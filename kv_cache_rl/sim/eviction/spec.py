"""The eviction scenario: all that an episode needs, drawn beforehand, so that no decision changes demand.

A scenario is one JSON object on one line. Integers are tokens, pages, steps, parts per thousand or
microseconds."""

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.errors import Refused, unknown
from kv_cache_rl.core.hardware import prefill_microseconds, transfer_microseconds
from kv_cache_rl.core.precision import LADDER, WORK_CLASSES
from kv_cache_rl.sim.eviction.log import log_fault

STEPS = 15
MAX_CALLS_PER_STEP = 16
PAGE_TOKENS = 128
WAIT_LIMIT_STEPS = 5
MAX_TOKENS = 2**24
MAX_ID = 4
"""Longest seq_id; with longer ones the observation would outgrow its limit."""
DIFFICULTIES = ("easy", "medium", "hard")
SPLITS = ("train", "eval", "test")
MIN_GAP = 0.05
"""A generated scenario is kept if its best known return beats its floor by this much."""
ORACLE = "oracle"
"""The name under which the best-known log is played. It is no decider, as it knows the future."""
OFFLOADED = LADDER.index("int8")
"""Rung of what lies on the CPU when an episode begins. A choice: offload tiers store a cache compressed,
since the link is what they wait for."""
BLOCK_TYPES = ("system", "context", "tool_result", "generation", "reasoning", "ephemeral")
PLACES = ("none", "gpu", "cpu")
VIEWS = ("full", "brief")
"""How an observation shows the cache: all rows and columns (`text`), or what matters most (`brief`)."""
HISTORIES = ("full", "window")
"""What a model call holds: the whole dialogue so far, or the window at hand alone."""
DEAD_KINDS = ("", "reasoning", "ephemeral")


class ScenarioError(Refused):
    """A scenario, or a name that selects scenarios, is not usable; names what, where and the remedy."""


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ScenarioError, with the choices, for a name that is not among them."""
    if value not in known:
        raise ScenarioError(unknown(what, value, known))


@dataclass(frozen=True, slots=True)
class Turn:
    """One request of a session. It arrives even if the one before has failed."""

    arrive: int
    """Step of arrival; negative if it decodes already at the start, for that many steps."""
    context: int
    """Own tokens of history in front of it, without the shared prefix. Where the history was cut or
    rewritten they are fewer than the turn before left; the rest is freed when this one arrives."""
    new: int
    """Prompt tokens it adds."""
    out: int
    """Tokens to generate."""
    after: int
    """Own tokens of context it leaves for the next turn; of context + new + out the rest is dead."""
    dead: str
    """What the dead part is: "" (none), "reasoning" or "ephemeral"."""
    leaves: str
    """Block type of the context it leaves: "context", "tool_result", or "ephemeral" if no turn reads it."""


@dataclass(frozen=True, slots=True)
class Session:
    """One sequence: a conversation of turns over one growing context, or (without turns) its remains."""

    seq_id: str
    kind: str
    """Block type at the start."""
    work_class: str
    tolerance: str
    """Lowest precision at which its answers stay right. Hidden from the observation."""
    priority: int
    """Parts per thousand."""
    rate: int
    """Decode tokens per step."""
    prefix: int
    """Index of the shared prefix, or -1."""
    place: str
    tokens: int
    """Own tokens cached at the start."""
    last_access: int
    accesses: int
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Prefix:
    """A system prompt with tool definitions, stored once for its users and held by an anchor entry."""

    prefix_id: str
    anchor_id: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """One eviction episode, its reference returns and the action log that earned the best of them."""

    id: str
    version: str
    difficulty: str
    split: str
    seed: int
    source: str
    """"generated", or the trace the window was cut from."""
    hardware: str
    model: str
    steps: int
    step_ms: int
    gpu_pages: int
    budget_pages: int
    cpu_pages: int
    link_ns_per_page: int
    link_fixed_us: int
    prefill_c1_ns: int
    prefill_c2_ps: int
    norm: int
    """Completed tokens that earn the full throughput reward."""
    prefixes: tuple[Prefix, ...]
    sessions: tuple[Session, ...]
    floor: float = 0.0
    floor_by: str = ""
    best: float = 0.0
    best_log: tuple[tuple[tuple[str, ...], ...], ...] = ()

    @property
    def referenced(self) -> bool:
        """Whether `floor` and `best` are returns that were found; what `generate` draws has none yet."""
        return bool(self.floor_by)

    @property
    def step_us(self) -> int:
        return self.step_ms * 1000

    def to_json(self) -> dict:
        """The scenario as plain JSON values; `from_json` gives it back."""
        return json.loads(dumps(self))

    @staticmethod
    def from_json(data: object, where: str = "scenario") -> "Scenario":
        """Reads and checks a scenario.

        Raises:
            ScenarioError: naming `where`, the field and the remedy.
        """
        scenario = _build(Scenario, data, where)
        _check(scenario, where)
        return scenario


def dumps(scenario: Scenario) -> str:
    """One compact line, the same bytes on every machine."""
    return json.dumps(dataclasses.asdict(scenario), separators=(",", ":"), ensure_ascii=True)


_EXPECTED: dict = {int: int, str: str, float: (int, float)}


@functools.cache
def _fields_of(cls) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(cls)}


_NESTED = {"turns": Turn, "sessions": Session, "prefixes": Prefix}
_REMEDY = "regenerate the file with `kv-cache-rl scenarios generate`"


def _build(cls, data, where):
    if not isinstance(data, dict):
        raise ScenarioError(f"{where}: expected a JSON object, got {type(data).__name__}; {_REMEDY}")
    fields = _fields_of(cls)
    if cls is Scenario and not set(data) & set(fields):
        found = ", ".join(sorted(data))[:80] or "none"
        raise ScenarioError(
            f"{where}: this is no scenario (its fields: {found}); give a file of "
            "scenarios (a trace becomes one by `kv-cache-rl scenarios from-trace`)"
        )
    if unknown := sorted(set(data) - set(fields)):
        raise ScenarioError(f"{where}: unknown field {unknown[0]!r}; remove it or {_REMEDY}")
    values = {}
    for name, field in fields.items():
        if name not in data:
            if field.default is dataclasses.MISSING:
                raise ScenarioError(f"{where}: field {name!r} is missing; {_REMEDY}")
            continue
        values[name] = _value(name, field, data[name], f"{where}.{name}")
    return cls(**values)


def _value(name, field, value, where):
    if name in _NESTED:
        if not isinstance(value, list | tuple):
            raise ScenarioError(f"{where}: expected a list, got {type(value).__name__}; {_REMEDY}")
        return tuple(_build(_NESTED[name], item, f"{where}[{i}]") for i, item in enumerate(value))
    if name == "best_log":
        if fault := log_fault(value):
            raise ScenarioError(f"{where}: {fault}; {_REMEDY}")
        return tuple(tuple(tuple(call) for call in window) for window in value)
    expected = _EXPECTED[field.type]
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ScenarioError(f"{where}: expected {field.type.__name__}, got {value!r}; {_REMEDY}")
    if not isinstance(value, str) and not abs(value) < 2**53:
        raise ScenarioError(f"{where}: {str(value)[:40]} is out of range; {_REMEDY}")
    return value


Need = Callable[[bool, str, str], None]
"""need(ok, field, rule): raises ScenarioError where it is not ok."""


def _check(scenario: Scenario, where: str) -> None:
    def need(ok: bool, field: str, rule: str) -> None:
        if not ok:
            raise ScenarioError(f"{where}: {field} {rule}; {_REMEDY}")

    _check_head(scenario, need)
    _check_names(scenario, need)
    for p in scenario.prefixes:
        need(
            0 < p.tokens < MAX_TOKENS and 0 < len(p.prefix_id) <= MAX_ID,
            f"prefix {p.prefix_id!r}",
            "needs an id and tokens",
        )
    for s in scenario.sessions:
        _check_session(s, len(scenario.prefixes), need)
    _check_times(scenario, need)


def _check_head(scenario: Scenario, need: Need) -> None:
    need(
        scenario.version == ENVIRONMENT_VERSION,
        f"version {scenario.version!r}",
        f"is not {ENVIRONMENT_VERSION!r}, which this release plays (scores compare only within one version)",
    )
    plain = scenario.id + scenario.split + scenario.source + scenario.hardware + scenario.model
    need(
        bool(scenario.id)
        and all(c.isascii() and (c.isalnum() or c in "._-") for c in plain)
        and len(plain) < 400,
        "id, split, source, hardware, model",
        "must be plain names (letters, digits, '.', '_' and '-')",
    )
    need(scenario.difficulty in DIFFICULTIES, "difficulty", f"must be one of {', '.join(DIFFICULTIES)}")
    need(1 <= scenario.steps <= 1000, "steps", "must be 1 to 1000")
    need(
        len(scenario.best_log) in (0, scenario.steps),
        "best_log",
        f"has {len(scenario.best_log)} windows, and must have {scenario.steps} or none",
    )
    need(0 < scenario.step_ms < 2**30, "step_ms", "must be positive and below 2^30")
    for field in ("gpu_pages", "budget_pages", "link_ns_per_page", "prefill_c1_ns", "norm"):
        need(0 < getattr(scenario, field) < 2**40, field, "must be positive and below 2^40")
    for field in ("cpu_pages", "link_fixed_us", "prefill_c2_ps"):
        need(0 <= getattr(scenario, field) < 2**40, field, "must be at least 0 and below 2^40")
    need(scenario.budget_pages <= scenario.gpu_pages, "budget_pages", "must not exceed gpu_pages")
    need(0 < len(scenario.sessions) <= 512, "sessions", "must be 1 to 512")
    need(
        scenario.best >= scenario.floor, f"best {scenario.best}", f"must not be below floor {scenario.floor}"
    )


def _check_names(scenario: Scenario, need: Need) -> None:
    names = [s.seq_id for s in scenario.sessions] + [p.anchor_id for p in scenario.prefixes]
    need(
        all(n.isprintable() and 0 < len(n) <= MAX_ID for n in names),
        "seq_id",
        f"must be 1 to {MAX_ID} printable characters",
    )
    names += [f"{s.seq_id}.{k}" for s in scenario.sessions for k, turn in enumerate(s.turns) if turn.dead]
    need(
        len(set(names)) == len(names),
        "sessions",
        "must have distinct seq_ids, also where a turn leaves a dead part (s7.0)",
    )


def _check_session(s: Session, prefixes: int, need: Need) -> None:
    at = f"session {s.seq_id!r}: "
    need(s.kind in BLOCK_TYPES[1:], at + "kind", f"must be one of {', '.join(BLOCK_TYPES[1:])}")
    need(s.work_class in WORK_CLASSES, at + "work_class", f"must be one of {', '.join(WORK_CLASSES)}")
    need(s.tolerance in LADDER, at + "tolerance", f"must be one of {', '.join(LADDER)}")
    need(s.place in PLACES, at + "place", f"must be one of {', '.join(PLACES)}")
    need(0 <= s.priority <= 1000, at + "priority", "must be 0 to 1000")
    need(0 < s.rate < 2**20, at + "rate", "must be positive")
    need(-1 <= s.prefix < prefixes, at + "prefix", "must be -1 or the index of a prefix")
    need(0 <= s.tokens < MAX_TOKENS, at + "tokens", f"must be 0 to {MAX_TOKENS}")
    need(
        max(abs(s.last_access), abs(s.accesses)) < 2**31,
        at + "last_access, accesses",
        "must be below 2^31",
    )
    need(
        (s.tokens > 0) == (s.place != "none"),
        at + "place",
        "must be 'none' exactly when nothing is cached",
    )
    arrivals = [t.arrive for t in s.turns]
    need(arrivals == sorted(arrivals), at + "turns", "must be in order of arrival")
    need(all(abs(arrive) < 2**31 for arrive in arrivals), at + "arrive", "must be below 2^31")
    if s.tokens and arrivals and arrivals[0] < 0:
        _check_running(s, at, need)
    for t in s.turns:
        _check_turn(t, at, need)


def _check_running(s: Session, at: str, need: Need) -> None:
    """A session whose first turn decodes already."""
    done = s.tokens - s.turns[0].context - s.turns[0].new
    need(
        s.place == "gpu",
        at + "place",
        "must be 'gpu' while its first turn is decoding already (arrive below 0)",
    )
    need(
        0 <= done < s.turns[0].out,
        at + "tokens",
        "must be context + new + what the running turn has generated",
    )


def _check_turn(t: Turn, at: str, need: Need) -> None:
    need(
        min(t.context, t.new, t.after) >= 0 < t.out and max(t.context, t.new, t.out) < MAX_TOKENS,
        at + "turns",
        f"must have non-negative lengths below {MAX_TOKENS}, out > 0",
    )
    need(t.after <= t.context + t.new + t.out, at + "turns", "cannot leave more context than they made")
    need(t.dead in DEAD_KINDS, at + "dead", f"must be one of {DEAD_KINDS}")
    need(t.leaves in BLOCK_TYPES[1:], at + "leaves", f"must be one of {', '.join(BLOCK_TYPES[1:])}")


def _check_times(scenario: Scenario, need: Need) -> None:
    """Times are summed in int64 over 512 sessions and 1000 windows, after thousandfold products."""
    longest = max(max((s.tokens, *(t.context + t.new + t.out for t in s.turns))) for s in scenario.sessions)
    longest += max((p.tokens for p in scenario.prefixes), default=0)
    pages = blocks_for(longest, PAGE_TOKENS)
    prefill_us = prefill_microseconds(longest, longest, scenario.prefill_c1_ns, scenario.prefill_c2_ps)
    link_us = transfer_microseconds(pages, scenario.link_ns_per_page, scenario.link_fixed_us)
    for what, took in (
        ("prefill_c1_ns, prefill_c2_ps", prefill_us),
        ("link_ns_per_page, link_fixed_us", link_us),
    ):
        need(
            took < 2**40,
            what,
            f"make {longest} tokens, the longest sequence, take {took} microseconds; the limit is 2^40",
        )
