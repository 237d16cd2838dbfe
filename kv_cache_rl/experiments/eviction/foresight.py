"""What foreknowledge is worth: the planner's episodes, and two checks of why it reaches what it reaches.

- `view`: the planner as it is.
- `future`: the same search in the true future, in place of futures drawn. It must gain clearly: otherwise
  the search or its moves are too weak.
- `model`: the planner as it is, in an episode drawn from its own model at the first view. It must gain, too:
  otherwise its choices owe their gain to chance. What it gains here and not in the generator's episodes is
  the model's error."""

import functools
import hashlib
from dataclasses import replace
from pathlib import Path
from time import perf_counter, process_time

import numpy as np

from kv_cache_rl import __version__
from kv_cache_rl.core.precision import LADDER, WORK_CLASSES
from kv_cache_rl.files import digest_of
from kv_cache_rl.search.eviction.futures import beliefs, one_future
from kv_cache_rl.search.eviction.halving import Round
from kv_cache_rl.search.eviction.judging import in_state
from kv_cache_rl.search.eviction.memory import Memory, published
from kv_cache_rl.search.eviction.planner import BASE, Planner, packed
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction.columns import Dead, Slot, Static
from kv_cache_rl.sim.eviction.episode import Episode, play
from kv_cache_rl.sim.eviction.score import normalized_score
from kv_cache_rl.sim.eviction.spec import (
    BLOCK_TYPES,
    DEAD_KINDS,
    PLACES,
    Prefix,
    Scenario,
    Session,
    Turn,
    dumps,
)
from kv_cache_rl.sim.eviction.state import State

KINDS = ("view", "future", "model")
DECIDING = (
    *("core", "theory", "policies", "sim/eviction", "search/eviction"),
    *("sim/compiled.py", "sim/views.py", "jit.py", "tensors.py", "experiments/eviction/foresight.py"),
)
"""Folders and files of the package that decide how an episode goes."""


class Foreseeing(Planner):
    """The planner's search, with the true future in place of drawn ones."""

    def __init__(self, episode: Episode, seed: int = 0):
        super().__init__(episode.scenario, seed)
        self.rounds = (Round(1, 1),)
        self.episode = episode

    def judge(self, plans, futures):
        values = np.empty((1, len(plans)))
        slots = {name: slot for slot, name in enumerate(self.episode.names)}
        places = np.array([slots[name] for name in self.memory.ids], np.int64)
        in_state(*self.episode.state, places, *packed(plans), values[0])
        return values


def modelled(scenario: Scenario, seed: int = 0) -> Scenario:
    """An episode that the planner's model holds possible at the scenario's first view, on its server."""
    memory = Memory(scenario.steps)
    memory.see(Episode(scenario).observation())
    rules = published(scenario)
    state, _ = one_future(beliefs(memory, rules), np.random.default_rng([seed, 13]))
    prefixes = tuple(
        Prefix(f"p{k}", f"sys{k}", int(row["tokens"])) for k, row in enumerate(state.columns.prefixes)
    )
    sessions = tuple(_session(state, i) for i in range(int(state.columns.constants.sessions)))
    return replace(
        rules, id=scenario.id, prefixes=prefixes, sessions=sessions, floor=scenario.floor, best=scenario.best
    )


def _session(state: State, i: int) -> Session:
    c = state.columns
    static, dyn = c.static[:, i].tolist(), c.dyn[:, i].tolist()
    first = static[Static.FIRST_TURN]
    turns = tuple(
        Turn(
            int(row["arrive"]), int(row["context"]), int(row["new"]), int(row["out"]), int(row["after"]),
            DEAD_KINDS[row["dead_kind"]] if row["dead_kind"] != Dead.NOTHING else "",
            BLOCK_TYPES[row["leaves"]],
        )
        for row in c.turns[first : first + static[Static.NUM_TURNS]]
    )  # fmt: skip
    return Session(
        f"s{i}", BLOCK_TYPES[dyn[Slot.KIND]], WORK_CLASSES[static[Static.CLASS]],
        LADDER[static[Static.TOLERANCE]], static[Static.PRIORITY], static[Static.RATE], static[Static.PREFIX],
        PLACES[dyn[Slot.PLACE]], dyn[Slot.TOKENS], dyn[Slot.LAST], dyn[Slot.COUNT], turns,
    )  # fmt: skip


def key_of(job: tuple[Scenario, str]) -> str:
    """Names the row of an episode: the same for the same kind, scenario with all that it holds, and code."""
    scenario, kind = job
    held = hashlib.sha256(f"{dumps(scenario)} {code_digest()}".encode()).hexdigest()[:24]
    return f"{kind} {scenario.id} {held}"


@functools.lru_cache(1)
def code_digest() -> str:
    """Digest of the package's version and of all code and weights that decide how an episode goes."""
    return digest_of(Path(__file__).parents[2], DECIDING, __version__, pattern="*")


def planned(job: tuple[Scenario, str], seed: int, futures: int) -> dict:
    """One episode of a kind: normalised scores of the planner and of its base, log, and seconds a window."""
    scenario, kind = job
    truth = modelled(scenario, seed) if kind == "model" else scenario
    episode = Episode(truth)
    player = Foreseeing(episode, seed) if kind == "future" else Planner(truth, seed, futures)
    wall_s, cpu_s = perf_counter(), process_time()
    play(episode, player)
    wall_s, cpu_s = perf_counter() - wall_s, process_time() - cpu_s
    total, base = episode.report().total, policy_return(truth, BASE)
    return {
        "scenario": scenario.id,
        "kind": kind,
        "total": total,
        "normalized": normalized_score(total, truth.floor, truth.best),
        "base": normalized_score(base, truth.floor, truth.best),
        "wall_s": round(wall_s / truth.steps, 3),
        "cpu_s": round(cpu_s / truth.steps, 3),
        "log": episode.log if kind == "view" else [],
    }
