"""The state of an eviction episode: two packed int64 buffers, one frozen and one that every window changes.

`columns` names what lies in them. Only `dynamics` changes `live`, and nothing changes `scn`."""

from typing import NamedTuple

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.core.precision import LADDER, WORK_CLASSES
from kv_cache_rl.sim.eviction.columns import (
    COUNTERS,
    HEADER,
    PREFIX,
    SCENARIO,
    TURN,
    UNITS_PER_PAGE,
    Columns,
    Role,
    Slot,
    Static,
    Tier,
    cells,
    columns,
    constants,
)
from kv_cache_rl.sim.eviction.spec import BLOCK_TYPES, DEAD_KINDS, Scenario


class State(NamedTuple):
    """An episode at one moment. Compiled functions take the two buffers: ``step(*state, ...)``."""

    scn: np.ndarray
    """int64 ``[A]``, never changed, shared by all copies"""
    live: np.ndarray
    """int64 ``[B]``, advanced in place"""

    def copy(self) -> "State":
        """A state that can be played on without changing this one."""
        return State(self.scn, self.live.copy())

    @property
    def columns(self) -> Columns:
        """Views into both buffers."""
        return columns(self.scn, self.live)


def live_size(scn: np.ndarray) -> int:
    """Length of the buffer that goes with `scn`."""
    head = constants(scn)
    return int(len(Slot) * head.slots + cells(PREFIX) * head.prefixes + 2 * len(Tier) + COUNTERS)


def slot_names(scenario: Scenario) -> list[str]:
    """seq_id of every slot: sessions, then what their turns leave dead (``s7.0``), then prefix anchors."""
    dead = [f"{s.seq_id}.{k}" for s in scenario.sessions for k, turn in enumerate(s.turns) if turn.dead]
    return [s.seq_id for s in scenario.sessions] + dead + [p.anchor_id for p in scenario.prefixes]


def pack(scenario: Scenario) -> np.ndarray:
    """The frozen buffer `scn` of a scenario."""
    turns = sum(len(s.turns) for s in scenario.sessions)
    slots = len(slot_names(scenario))
    scn = np.zeros(HEADER + len(Static) * slots + cells(TURN) * turns, np.int64)
    scn[:cells(SCENARIO)] = (
        len(scenario.sessions), slots, turns, len(scenario.prefixes), scenario.steps, scenario.step_us,
        scenario.budget_pages * UNITS_PER_PAGE, scenario.gpu_pages * UNITS_PER_PAGE,
        scenario.cpu_pages * UNITS_PER_PAGE, scenario.link_ns_per_page // UNITS_PER_PAGE,
        scenario.link_fixed_us, scenario.prefill_c1_ns, scenario.prefill_c2_ps, scenario.norm,
    )  # fmt: skip
    start = HEADER + len(Static) * slots
    static, table = scn[HEADER:start].reshape(len(Static), slots), scn[start:].view(TURN)
    row, dead = 0, len(scenario.sessions)
    session, leftover, anchor = map(int, Role)
    for i, s in enumerate(scenario.sessions):
        work, tolerance = WORK_CLASSES.index(s.work_class), LADDER.index(s.tolerance)
        static[:, i] = (session, work, tolerance, s.priority, s.rate, s.prefix, len(s.turns), row)
        for turn in s.turns:
            slot = -1
            if turn.dead:
                slot, dead = dead, dead + 1
                static[:, slot] = (leftover, work, 0, s.priority, 1, -1, 0, 0)
            dead_kind, leaves = DEAD_KINDS.index(turn.dead), BLOCK_TYPES.index(turn.leaves)
            table[row] = (turn.arrive, turn.context, turn.new, turn.out, turn.after, dead_kind, leaves, slot)
            row += 1
    for p in range(len(scenario.prefixes)):
        static[:, dead + p] = (anchor, 0, 0, 500, 1, p, 0, 0)
    return scn


def held_by(dyn: np.ndarray) -> np.ndarray:
    """Units that these entries hold on each tier, int64 ``[len(Tier)]``; shared prefixes left out."""
    units = dyn[Slot.PAGES] * (UNITS_PER_PAGE >> dyn[Slot.LEVEL])
    return np.array([units[dyn[Slot.PLACE] == tier + 1].sum() for tier in Tier])


def check(state: State) -> None:
    """Compares the ledger with the entries and prefixes that hold memory.

    Raises:
        LedgerError: units or prefix references do not add up.
    """
    c = state.columns
    dyn, prefixes = c.dyn, c.prefixes
    held = held_by(dyn)
    references = np.bincount(c.static[Static.PREFIX][dyn[Slot.REF] == 1], minlength=len(prefixes))
    if not np.array_equal(references, prefixes["refs"]):
        raise pool.LedgerError(
            f"prefix references {prefixes['refs'].tolist()}, but {references.tolist()} entries hold one"
        )
    held[Tier.GPU] += int((prefixes["pages"] * (prefixes["refs"] > 0)).sum()) * UNITS_PER_PAGE
    pool.check(c.ledger, held)
