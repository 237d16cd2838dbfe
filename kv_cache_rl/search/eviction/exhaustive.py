"""The exact optimum of small instances: every joint action of every window, equal states merged."""

from itertools import permutations, product

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.build import HARDWARE_NAME, MODEL_NAME
from kv_cache_rl.sim.eviction.calls import named_calls
from kv_cache_rl.sim.eviction.columns import Place, Slot, columns
from kv_cache_rl.sim.eviction.dynamics import new_state, step
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.score import total_return
from kv_cache_rl.sim.eviction.spec import Prefix, Scenario, Session, Turn
from kv_cache_rl.sim.eviction.state import slot_names

_CHOICES = (
    (),
    (Verb.EVICT,),
    (Verb.COMPRESS,),
    (Verb.SWAP,),
    (Verb.COMPRESS, Verb.SWAP),
    (Verb.COMPRESS, Verb.COMPRESS),
    (Verb.COMPRESS, Verb.COMPRESS, Verb.SWAP),
)
"""What may be done with one entry in one window: nothing, or calls of which each changes something."""


def is_small(scenario: Scenario) -> bool:
    """Whether `optimum` answers within seconds: at most three entries and three windows."""
    return len(scenario.sessions) <= 3 and not scenario.prefixes and scenario.steps <= 3


def optimum(scenario: Scenario) -> tuple[ActionLog, float]:
    """The best log over all sequences of joint actions, and its return."""
    scn, start = new_state(scenario)
    level: dict[bytes, list] = {start.tobytes(): []}
    joint: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    best, best_log = -np.inf, []
    for window in range(scenario.steps):
        following: dict[bytes, list] = {}
        for packed, log in level.items():
            state = np.frombuffer(packed, np.int64)
            place = columns(scn, state).dyn[Slot.PLACE]
            if place.tobytes() not in joint:
                joint[place.tobytes()] = _joint_actions(place)
            calls, counts = joint[place.tobytes()]
            if window < scenario.steps - 1:
                for k, child in enumerate(_children(scn, state, calls, counts)):
                    following.setdefault(child.tobytes(), [*log, calls[k, : counts[k]]])
                continue
            value, k = _best_child(scn, state, calls, counts)
            if value > best:
                best, best_log = value, [*log, calls[k, : counts[k]]]
        level = following
    names = slot_names(scenario)
    return [named_calls(names, calls.tolist()) for calls in best_log], round(best, 6)


def _joint_actions(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every joint action on the entries in memory: calls [A, K, 2] and how many of them count [A]."""
    entries = [int(i) for i in np.flatnonzero(place != Place.NOWHERE)]
    options = [_CHOICES[:2] if place[i] == Place.CPU else _CHOICES for i in entries]
    actions = []
    for chosen in product(*options):
        # Only swaps get in each other's way (link, CPU room): they come last, in every order.
        calls = [
            (verb, i) for i, verbs in zip(entries, chosen, strict=True) for verb in verbs if verb != Verb.SWAP
        ]
        swapped = [i for i, verbs in zip(entries, chosen, strict=True) if Verb.SWAP in verbs]
        actions += [
            [*calls, *((Verb.SWAP, i) for i in order)] or [(Verb.KEEP, -1)] for order in permutations(swapped)
        ]
    counts = np.array([len(calls) for calls in actions], np.int64)
    packed = np.zeros((len(actions), int(counts.max()), 2), np.int64)
    for k, calls in enumerate(actions):
        packed[k, : len(calls)] = calls
    return packed, counts


@njit
def _children(scn, state, calls, counts):
    children = np.empty((len(calls), len(state)), np.int64)
    results, events = np.empty(calls.shape[1], np.int64), np.empty((0, 3), np.int64)
    for k in range(len(calls)):
        children[k] = state
        step(scn, children[k], calls[k, : counts[k]], results, events)
    return children


@njit
def _best_child(scn, state, calls, counts):
    """Return and index of the best joint action of the last window."""
    child, best, best_k = np.empty(len(state), np.int64), -np.inf, -1
    results, events = np.empty(calls.shape[1], np.int64), np.empty((0, 3), np.int64)
    for k in range(len(calls)):
        child[:] = state
        step(scn, child, calls[k, : counts[k]], results, events)
        value = total_return(scn, child)
        if value > best:
            best, best_k = value, k
    return best, best_k


def small_scenario(seed: int) -> Scenario:
    """Three sessions on a cache that holds two of them, for three windows."""
    rng = np.random.default_rng([seed, 77])
    sessions = []
    for k in range(3):
        own = int(rng.integers(60_000, 110_000))
        arrive, turns, context = int(rng.integers(0, 2)), [], own
        for _ in range(2):
            new, out = int(rng.integers(100, 2_000)), int(rng.integers(60, 120))
            turns.append(Turn(arrive, context, new, out, context + new + out, "", "tool_result"))
            context, arrive = context + new + out, arrive + int(rng.integers(1, 3))
        place = ("gpu", "gpu", "cpu")[k]
        work = ("chat", "code", "reasoning")[k]
        tolerance = ("fp16", "int8", "int4")[int(rng.integers(0, 3))]
        sessions.append(
            Session(
                f"s{k}",
                "tool_result",
                work,
                tolerance,
                int(rng.integers(100, 900)),
                90,
                -1,
                place,
                own,
                -1,
                2,
                tuple(turns),
            )
        )
    held = [-(-s.tokens // 128) for s in sessions if s.place == "gpu"]
    budget = sum(held) + 40
    prefixes: tuple[Prefix, ...] = ()
    return Scenario(
        id=f"eviction-small-{seed:04d}-v{ENVIRONMENT_VERSION}", version=ENVIRONMENT_VERSION,
        difficulty="easy", split="test", seed=seed, source="small", hardware=HARDWARE_NAME, model=MODEL_NAME,
        steps=3, step_ms=2000, gpu_pages=budget + 200, budget_pages=budget,
        cpu_pages=-(-sessions[2].tokens // 128) + 500, link_ns_per_page=374_491, link_fixed_us=20,
        prefill_c1_ns=36_100, prefill_c2_ps=480, norm=600, prefixes=prefixes, sessions=tuple(sessions),
    )  # fmt: skip
