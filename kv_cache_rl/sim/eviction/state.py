"""Columns of an eviction episode: two packed int64 buffers, one that never changes and one that does.

``scn``   header, constants, static columns per slot, turn table, prefixes           (frozen for the episode)
``state`` dynamic columns per slot, prefixes, pool ledger, counters                  (mutated by `dynamics` only)

A slot is one cache entry that may exist: every session, one for the dead part of every turn that leaves one,
and one anchor per shared prefix. Memory is counted in quarter pages, so that fp16, int8 and int4 pages are 4,
2 and 1 units."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core import blocks, pool
from kv_cache_rl.core.precision import LADDER, WORK_CLASSES
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, DEAD_KINDS, PAGE_TOKENS, PLACES, Scenario

UNITS_PER_PAGE = 4

# Header and constants, at the front of `scn`.
(
    SESSIONS,
    SLOTS,
    TURNS,
    PREFIXES,
    STEPS_,
    STEP_US,
    BUDGET,
    GPU,
    CPU,
    LINK_NS,
    LINK_FIXED,
    C1_NS,
    C2_PS,
    NORM,
) = range(14)
SCN_HEAD = 16

# Static columns per slot.
(ROLE, CLASS, TOLERANCE, PRIORITY, RATE, PREFIX, NUM_TURNS, FIRST_TURN) = range(8)
STATIC = 8
ROLE_SESSION, ROLE_DEAD, ROLE_ANCHOR = range(3)

# Turn table.
(ARRIVE, CONTEXT, NEW, OUT, AFTER, DEAD_KIND, LEAVES, DEAD_SLOT) = range(8)
TURN_COLS = 8

# Dynamic columns per slot.
(KIND, PHASE, PLACE, LEVEL, TOKENS, PAGES, REF, TURN, GENERATED, TODO_US, LOST_US, WAIT_US, EVER, LAST, COUNT, BORN, HOT,
 BUSY, SPOILED, ORDER) = range(20)  # fmt: skip
DYNAMIC = 20

# What keeps a running session from decoding: it was compressed in this window, or sent to the CPU in it.
PAUSED, INTERRUPTED = 1, 2

# Phases of a session.           IDLE --arrival--> QUEUED --admission--> PREFILL --> DECODE --> IDLE
#                                                    ^--- evicted or swapped out ----'---------'
IDLE, QUEUED, PREFILL, DECODE = range(4)
NOWHERE, ON_GPU, ON_CPU = range(3)
SYSTEM, CONTEXT_KIND, TOOL_RESULT, GENERATION, REASONING, EPHEMERAL = range(6)

# Prefix columns: tokens and pages never change; references and "computed before" do.
(P_TOKENS, P_PAGES, P_REFS, P_EVER) = range(4)
PREFIX_COLS = 4

# Counters.
(T, QUEUE, QUEUE_BEFORE, PEAK, LINK_USED, LINK_BUSY_US, PREFILL_BUSY_US, ABOVE_95, TOKENS_DONE, FAILURES, FAILED_WAIT,
 FAILED_INT8, FAILED_INT4, PREEMPTED, FAILED_END, LATENCY_US, HEADROOM, RISKY, CALLS, INVALID, TEXT_ONLY, RECOMPUTED,
 ARRIVED, COMPLETED, EVENTS) = range(25)  # fmt: skip
COUNTERS = 28
TIERS = 2
TIER_GPU, TIER_CPU = range(2)


@njit(inline="always")
def static_of(scn):
    return scn[SCN_HEAD : SCN_HEAD + STATIC * scn[SLOTS]].reshape(STATIC, scn[SLOTS])


@njit(inline="always")
def turns_of(scn):
    start = SCN_HEAD + STATIC * scn[SLOTS]
    return scn[start : start + scn[TURNS] * TURN_COLS].reshape(scn[TURNS], TURN_COLS)


@njit(inline="always")
def dynamic_of(scn, state):
    return state[: DYNAMIC * scn[SLOTS]].reshape(DYNAMIC, scn[SLOTS])


@njit(inline="always")
def prefixes_of(scn, state):
    start = DYNAMIC * scn[SLOTS]
    return state[start : start + scn[PREFIXES] * PREFIX_COLS].reshape(scn[PREFIXES], PREFIX_COLS)


@njit(inline="always")
def ledger_of(scn, state):
    start = DYNAMIC * scn[SLOTS] + scn[PREFIXES] * PREFIX_COLS
    return state[start : start + 2 * TIERS].reshape(TIERS, 2)


@njit(inline="always")
def counters_of(scn, state):
    start = DYNAMIC * scn[SLOTS] + scn[PREFIXES] * PREFIX_COLS + 2 * TIERS
    return state[start : start + COUNTERS]


class Columns(NamedTuple):
    """All views of an episode, made once for everything that a window does: each costs as much as a pass over
    the slots.
    """

    static: np.ndarray
    turns: np.ndarray
    dyn: np.ndarray
    prefixes: np.ndarray
    ledger: np.ndarray
    counters: np.ndarray


@njit(inline="always")
def columns_of(scn, state):
    return Columns(
        static_of(scn),
        turns_of(scn),
        dynamic_of(scn, state),
        prefixes_of(scn, state),
        ledger_of(scn, state),
        counters_of(scn, state),
    )


def state_size(scn: np.ndarray) -> int:
    """Length of the state buffer that goes with `scn`."""
    return int(DYNAMIC * scn[SLOTS] + scn[PREFIXES] * PREFIX_COLS + 2 * TIERS + COUNTERS)


def slot_names(scenario: Scenario) -> list[str]:
    """seq_id of every slot: sessions, then what their turns leave dead (``s7.0``), then prefix anchors."""
    dead = [f"{s.seq_id}.{k}" for s in scenario.sessions for k, turn in enumerate(s.turns) if turn.dead]
    return [s.seq_id for s in scenario.sessions] + dead + [p.anchor_id for p in scenario.prefixes]


def pack(scenario: Scenario) -> np.ndarray:
    """The frozen buffer of a scenario, int64."""
    turns = [(s, t) for s in scenario.sessions for t in s.turns]
    names = slot_names(scenario)
    scn = np.zeros(SCN_HEAD + STATIC * len(names) + TURN_COLS * len(turns), np.int64)
    scn[: NORM + 1] = (
        len(scenario.sessions), len(names), len(turns), len(scenario.prefixes), scenario.steps, scenario.step_us,
        scenario.budget_pages * UNITS_PER_PAGE, scenario.gpu_pages * UNITS_PER_PAGE, scenario.cpu_pages * UNITS_PER_PAGE,
        scenario.link_ns_per_page // UNITS_PER_PAGE, scenario.link_fixed_us, scenario.prefill_c1_ns,
        scenario.prefill_c2_ps, scenario.norm,
    )  # fmt: skip
    static, table = static_of(scn), turns_of(scn)
    row, dead = 0, len(scenario.sessions)
    for i, s in enumerate(scenario.sessions):
        work = WORK_CLASSES.index(s.work_class)
        static[:, i] = (
            ROLE_SESSION,
            work,
            LADDER.index(s.tolerance),
            s.priority,
            s.rate,
            s.prefix,
            len(s.turns),
            row,
        )
        for turn in s.turns:
            slot = -1
            if turn.dead:
                slot, dead = dead, dead + 1
                static[:, slot] = (ROLE_DEAD, work, 0, s.priority, 1, -1, 0, 0)
            table[row] = (turn.arrive, turn.context, turn.new, turn.out, turn.after, DEAD_KINDS.index(turn.dead),
                          BLOCK_TYPES.index(turn.leaves), slot)  # fmt: skip
            row += 1
    for p in range(len(scenario.prefixes)):
        static[:, dead + p] = (ROLE_ANCHOR, 0, 0, 500, 1, p, 0, 0)
    return scn


def initial_state(scenario: Scenario, scn: np.ndarray) -> np.ndarray:
    """The state buffer at step 0; the counterpart of `init(seed)`, as everything random is in the scenario
    already.
    """
    state = np.zeros(state_size(scn), np.int64)
    dyn, prefixes, ledger = dynamic_of(scn, state), prefixes_of(scn, state), ledger_of(scn, state)
    ledger[TIER_GPU, 0], ledger[TIER_CPU, 0] = scn[BUDGET], scn[CPU]
    first_anchor = int(scn[SLOTS] - scn[PREFIXES])
    for p, prefix in enumerate(scenario.prefixes):
        pages = blocks.blocks_for(prefix.tokens, PAGE_TOKENS)
        prefixes[p] = (prefix.tokens, pages, 1, 1)
        dyn[KIND, first_anchor + p], dyn[PLACE, first_anchor + p], dyn[REF, first_anchor + p] = (
            SYSTEM,
            ON_GPU,
            1,
        )
        dyn[HOT, first_anchor + p], dyn[COUNT, first_anchor + p] = 500, 1
        ledger[TIER_GPU, 1] += pages * UNITS_PER_PAGE
    for i, s in enumerate(scenario.sessions):
        dyn[KIND, i], dyn[PLACE, i] = BLOCK_TYPES.index(s.kind), PLACES.index(s.place)
        dyn[TOKENS, i] = dyn[EVER, i] = s.tokens
        dyn[PAGES, i] = blocks.blocks_for(s.tokens, PAGE_TOKENS)
        dyn[LAST, i], dyn[COUNT, i], dyn[BORN, i], dyn[HOT, i] = (
            s.last_access,
            s.accesses,
            s.last_access - s.accesses,
            500,
        )
        if s.tokens:
            tier = TIER_GPU if dyn[PLACE, i] == ON_GPU else TIER_CPU
            ledger[tier, 1] += dyn[PAGES, i] * UNITS_PER_PAGE
            if s.prefix >= 0:
                dyn[REF, i] = 1
                prefixes[s.prefix, P_REFS] += 1
        if s.turns and s.turns[0].arrive < 0 and s.tokens:
            dyn[PHASE, i], dyn[KIND, i] = DECODE, GENERATION
            dyn[GENERATED, i] = s.tokens - s.turns[0].context - s.turns[0].new
            dyn[ORDER, i] = s.turns[0].arrive * 1024 + i
    counters_of(scn, state)[PEAK] = ledger[TIER_GPU, 1]
    return state


def check(scn: np.ndarray, state: np.ndarray) -> None:
    """Compares the ledger with the entries and prefixes that hold memory.

    Raises:
        LedgerError: units or prefix references do not add up.
    """
    static, dyn, prefixes = static_of(scn), dynamic_of(scn, state), prefixes_of(scn, state)
    units = dyn[PAGES] * (UNITS_PER_PAGE >> dyn[LEVEL])
    held = [int(units[dyn[PLACE] == tier + 1].sum()) for tier in range(TIERS)]
    references = np.bincount(static[PREFIX][dyn[REF] == 1], minlength=len(prefixes))
    if not np.array_equal(references, prefixes[:, P_REFS]):
        raise pool.LedgerError(
            f"prefix references {prefixes[:, P_REFS].tolist()}, but {references.tolist()} entries hold one"
        )
    held[TIER_GPU] += int((prefixes[:, P_PAGES] * (prefixes[:, P_REFS] > 0)).sum()) * UNITS_PER_PAGE
    pool.check(ledger_of(scn, state), np.array(held))
