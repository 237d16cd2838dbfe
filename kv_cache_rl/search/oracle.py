"""The oracle: beam search over copies of the simulator, with the future in hand.

Failures land up to five windows after their cause, so a node is worth what the best completion from it earns, not what
it has earned so far. Children of a node are what differently tuned clairvoyant and shipped policies would do there; every
completion is a whole trajectory and may become the incumbent, which simulated annealing over single calls finally polishes.
"""

import numpy as np

from kv_cache_rl.jit import njit
from kv_cache_rl.search.exhaustive import is_small, optimum
from kv_cache_rl.sim.eviction.calls import named_calls
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, POLICY_IDS, decide
from kv_cache_rl.sim.eviction.dynamics import COMPRESS, EVICT, KEEP, OK, SWAP, step
from kv_cache_rl.sim.eviction.episode import replay
from kv_cache_rl.sim.eviction.observe import MAX_ROWS, N_ROWS, V_SLOT, VIEW_COLS, VIEW_HEAD, view
from kv_cache_rl.sim.eviction.score import total_return
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP, ActionLog, Scenario
from kv_cache_rl.sim.eviction.state import (
    ARRIVE,
    FIRST_TURN,
    IDLE,
    NUM_TURNS,
    PHASE,
    ROLE,
    ROLE_ANCHOR,
    ROLE_SESSION,
    SLOTS,
    STEPS_,
    TOLERANCE,
    TURN,
    T,
    counters_of,
    dynamic_of,
    initial_state,
    pack,
    static_of,
    turns_of,
)  # fmt: skip
from kv_cache_rl.sim.eviction.weighing import shortage, weigh

DEFAULT_WIDTH = 6
_SHIPPED = np.array([POLICY_IDS[name] for name in POLICY_IDS if name != "spam_invalid"], np.int64)

ALL_VERBS = (1 << EVICT) | (1 << COMPRESS) | (1 << SWAP)
_NO_EVICT, _NO_SWAP = ALL_VERBS & ~(1 << EVICT), ALL_VERBS & ~(1 << SWAP)

# Clairvoyant variants: units to keep free for sure and where cheap (thousandths of the budget), weight of distant returns
# (hundredths), verbs used.
_VARIANTS = np.array(
    [
        [0, 0, 0, ALL_VERBS],
        [0, 60, 4, ALL_VERBS],
        [40, 220, 4, ALL_VERBS],
        [60, 220, 12, ALL_VERBS],
        [120, 220, 4, ALL_VERBS],
        [200, 300, 4, ALL_VERBS],
        [200, 520, 12, ALL_VERBS],
        [350, 520, 4, ALL_VERBS],
        [40, 220, 4, _NO_EVICT],
        [200, 300, 4, _NO_EVICT],
        [40, 220, 4, _NO_SWAP],
        [200, 300, 4, _NO_SWAP],
    ],
    np.int64,
)
_COMPLETIONS = np.array([2, 5, 9], np.int64)
_GOLDEN, _MIX_A, _MIX_B = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@njit
def _foresee(scn, state, rows, n, distance, chance, loss):
    """True need of each shown entry: 0 if nobody asks for it again, less the later they do; and its true tolerance."""
    static, turns, dyn = static_of(scn), turns_of(scn), dynamic_of(scn, state)
    t = counters_of(scn, state)[T]
    for k in range(n):
        i = rows[k, V_SLOT]
        loss[k, 0], loss[k, 1], loss[k, 2] = 0.0, 0.0, 0.0
        chance[k] = 0.0
        if static[ROLE, i] == ROLE_ANCHOR:
            chance[k] = 1.0
        if static[ROLE, i] != ROLE_SESSION:
            continue
        for level in range(static[TOLERANCE, i] + 1, 3):
            loss[k, level] = 1.0
        if dyn[PHASE, i] != IDLE:
            chance[k] = 1.0
        elif dyn[TURN, i] < static[NUM_TURNS, i]:
            ahead = turns[static[FIRST_TURN, i] + dyn[TURN, i], ARRIVE] - t
            if t + ahead < scn[STEPS_]:
                chance[k] = 1.0 / (1.0 + 0.01 * distance * max(ahead, 0))


@njit
def _clairvoyant(scn, state, rows, head, variant, out):
    n = head[N_ROWS]
    chance, loss = np.empty(n), np.empty((n, 3))
    _foresee(scn, state, rows, n, variant[2], chance, loss)
    return weigh(rows, n, head, chance, loss, shortage(head, variant[0]), shortage(head, variant[1]), out)


@njit
def _propose(scn, state, rows, head, k, variants, shipped, allowed, out):
    """Calls of proposal `k` in the current state (verb and slot), with verbs that are not allowed left out."""
    view(scn, state, rows, head)
    if k < len(variants):
        m = _clairvoyant(scn, state, rows, head, variants[k], out)
        allowed &= variants[k, 3]
    else:
        m = decide(shipped[k - len(variants)], rows, head, out)
    kept = 0
    for c in range(m):
        verb = out[c, 0]
        if verb == KEEP or (allowed >> verb) & 1 == 0 or out[c, 1] < 0:
            continue
        out[kept, 0], out[kept, 1] = verb, rows[out[c, 1], V_SLOT]
        kept += 1
    return kept


@njit
def _complete(scn, state, variants, shipped, k, allowed, calls, counts):
    """Finishes the episode in `state` with proposal `k`, writing its calls; returns the return."""
    rows, head = np.empty((MAX_ROWS, VIEW_COLS), np.int64), np.empty(VIEW_HEAD, np.int64)
    out, results = np.empty((MAX_OUT, 2), np.int64), np.empty(MAX_OUT, np.int64)
    events = np.empty((0, 3), np.int64)
    counters = counters_of(scn, state)
    while counters[T] < scn[STEPS_]:
        t = counters[T]
        m = _propose(scn, state, rows, head, k, variants, shipped, allowed, out)
        calls[t, :m], counts[t] = out[:m], m
        step(scn, state, out[:m], results, events)
    return total_return(scn, state)


@njit
def _replay(scn, start, calls, counts):
    state = start.copy()
    results, events = np.empty(MAX_OUT, np.int64), np.empty((0, 3), np.int64)
    for t in range(scn[STEPS_]):
        step(scn, state, calls[t, : counts[t]], results, events)
    return total_return(scn, state)


@njit(nogil=True)
def _beam(scn, start, width, variants, shipped, completions, allowed, best_calls, best_counts):
    """Widens every node by every proposal, values the children by completing them, keeps the `width` best distinct ones."""
    steps, proposals = scn[STEPS_], len(variants) + len(shipped)
    nodes, size = np.empty((width, len(start)), np.int64), 1
    logs = np.zeros((width, steps, MAX_OUT, 2), np.int64)
    log_counts = np.zeros((width, steps), np.int64)
    nodes[0] = start
    best = -np.inf
    children = np.empty((width * proposals, len(start)), np.int64)
    child_calls = np.empty((width * proposals, MAX_OUT, 2), np.int64)
    child_counts = np.empty(width * proposals, np.int64)
    parents = np.empty(width * proposals, np.int64)
    values = np.empty(width * proposals)
    rows, head = np.empty((MAX_ROWS, VIEW_COLS), np.int64), np.empty(VIEW_HEAD, np.int64)
    out, results = np.empty((MAX_OUT, 2), np.int64), np.empty(MAX_OUT, np.int64)
    events = np.empty((0, 3), np.int64)
    calls, counts = np.zeros((steps, MAX_OUT, 2), np.int64), np.zeros(steps, np.int64)
    for k in range(proposals):
        value = _complete(scn, start.copy(), variants, shipped, k, allowed, calls, counts)
        if value > best:
            best = value
            best_calls[:], best_counts[:] = calls, counts
    for t in range(steps):
        made = 0
        for b in range(size):
            for k in range(proposals):
                state = nodes[b].copy()
                m = _propose(scn, state, rows, head, k, variants, shipped, allowed, out)
                child_calls[made, :m], child_counts[made] = out[:m], m
                if _seen(child_calls, child_counts, parents, made, b):
                    continue
                step(scn, state, out[:m], results, events)
                children[made], parents[made] = state, b
                values[made] = -np.inf
                for c in completions:
                    value = _complete(scn, state.copy(), variants, shipped, c, allowed, calls, counts)
                    if value > values[made]:
                        values[made] = value
                    if value > best:
                        best = value
                        best_calls[:t], best_counts[:t] = logs[b, :t], log_counts[b, :t]
                        best_calls[t], best_counts[t] = child_calls[made], m
                        best_calls[t + 1 :], best_counts[t + 1 :] = calls[t + 1 :], counts[t + 1 :]
                made += 1
        order = np.argsort(-values[:made])[:width]
        new_logs, new_counts = logs.copy(), log_counts.copy()
        for place in range(len(order)):
            c = order[place]
            new_logs[place], new_counts[place] = logs[parents[c]], log_counts[parents[c]]
            new_logs[place, t], new_counts[place, t] = child_calls[c], child_counts[c]
            nodes[place] = children[c]
        logs, log_counts, size = new_logs, new_counts, len(order)
    return best


@njit
def _seen(calls, counts, parents, made, parent):
    """Whether an earlier child of the same node was made by the same calls."""
    for other in range(made):
        if parents[other] == parent and counts[other] == counts[made]:
            same = True
            for c in range(counts[made]):
                if calls[other, c, 0] != calls[made, c, 0] or calls[other, c, 1] != calls[made, c, 1]:
                    same = False
                    break
            if same:
                return True
    return False


@njit
def _edit(calls, counts, word, steps, slots, allowed):
    """One change of a log: drop a call, add one, or move one by a window."""
    draw = np.int64(word >> np.uint64(16))
    t, kind, draw = draw % steps, (draw // steps) % 4, draw // (steps * 4)
    if kind == 0:
        _remove(calls, counts, t, draw)
    elif kind < 3:
        verb = EVICT + draw % 3
        if (allowed >> verb) & 1:
            _insert(calls, counts, t, verb, (draw // 3) % slots)
    elif counts[t] > 0:
        c = draw % counts[t]
        verb, slot = calls[t, c, 0], calls[t, c, 1]
        _remove(calls, counts, t, draw)
        _insert(calls, counts, (t + 1 if (draw // 64) % 2 else t - 1) % steps, verb, slot)


@njit
def _draw(word):
    """SplitMix64's output for a counter. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators"."""
    word = (word ^ (word >> np.uint64(30))) * _MIX_A
    word = (word ^ (word >> np.uint64(27))) * _MIX_B
    return word ^ (word >> np.uint64(31))


@njit(nogil=True)
def _anneal(scn, start, value, allowed, windows, seed, best_calls, best_counts):
    """Simulated annealing around the incumbent: one to three changes at a time, for `windows` simulated windows."""
    steps, slots = scn[STEPS_], scn[SLOTS]
    rounds = windows // steps
    calls, counts = best_calls.copy(), best_counts.copy()
    trial, trial_counts = calls.copy(), counts.copy()
    best, here = value, value
    word = np.uint64(seed)
    for r in range(rounds):
        trial[:], trial_counts[:] = calls, counts
        word += _GOLDEN
        for _ in range(1 + np.int64(_draw(word) >> np.uint64(8)) % 3):
            word += _GOLDEN
            _edit(trial, trial_counts, _draw(word), steps, slots, allowed)
        value = _replay(scn, start, trial, trial_counts)
        word += _GOLDEN
        chance = np.float64(_draw(word) >> np.uint64(11)) / 9007199254740992.0
        temperature = 0.002 * (1.0 - (r + 1) / rounds) ** 2 + 1e-9
        if value >= here - temperature * -np.log(max(chance, 1e-12)):
            here = value
            calls[:], counts[:] = trial, trial_counts
            if value > best:
                best = value
                best_calls[:], best_counts[:] = trial, trial_counts
    return best


@njit(nogil=True)
def _prune(scn, start, value, calls, counts):
    """Drops the calls that were refused, then, last to first, every call without which the return is no lower."""
    state, results, events = start.copy(), np.empty(MAX_OUT, np.int64), np.empty((0, 3), np.int64)
    for t in range(scn[STEPS_]):
        step(scn, state, calls[t, : counts[t]], results, events)
        kept = 0
        for c in range(counts[t]):
            if results[c] == OK:
                calls[t, kept] = calls[t, c]
                kept += 1
        counts[t] = kept
    trial, trial_counts = calls.copy(), counts.copy()
    for t in range(scn[STEPS_] - 1, -1, -1):
        for c in range(counts[t] - 1, -1, -1):
            trial[:], trial_counts[:] = calls, counts
            _remove(trial, trial_counts, t, c)
            without = _replay(scn, start, trial, trial_counts)
            if without >= value:
                value = without
                calls[:], counts[:] = trial, trial_counts


@njit
def _remove(calls, counts, t, draw):
    if counts[t] > 0:
        c = draw % counts[t]
        for k in range(c, counts[t] - 1):
            calls[t, k] = calls[t, k + 1]
        counts[t] -= 1


@njit
def _insert(calls, counts, t, verb, slot):
    if counts[t] < MAX_CALLS_PER_STEP:
        calls[t, counts[t], 0], calls[t, counts[t], 1] = verb, slot
        counts[t] += 1


def solve(
    scenario: Scenario, width: int = DEFAULT_WIDTH, allowed: int = ALL_VERBS, windows: int = 30_000
) -> tuple[ActionLog, float]:
    """The best action log known and its return, never below any shipped decider of the verbs allowed.

    Instances of at most three entries and windows are solved exactly, the rest by `beam`, whose arguments these are.
    """
    log = optimum(scenario)[0] if is_small(scenario) and allowed == ALL_VERBS else beam(scenario, width, allowed, windows)
    return log, replay(scenario, log).total


def beam(scenario: Scenario, width: int = DEFAULT_WIDTH, allowed: int = ALL_VERBS, windows: int = 30_000) -> ActionLog:
    """The best action log that the search alone finds.

    Args:
        width: nodes kept per window.
        allowed: bit set of verbs, for the ablations.
        windows: simulated windows spent on annealing the incumbent at the end.
    """
    scn = pack(scenario)
    start = initial_state(scenario, scn)
    calls = np.zeros((scenario.steps, MAX_OUT, 2), np.int64)
    counts = np.zeros(scenario.steps, np.int64)
    best = _beam(scn, start, width, _VARIANTS, _SHIPPED, _COMPLETIONS, allowed, calls, counts)
    best = _anneal(scn, start, best, allowed, windows, scenario.seed % 2**31, calls, counts)
    _prune(scn, start, best, calls, counts)
    # What a dropped call leaves may be refused now.
    _prune(scn, start, best, calls, counts)
    return [named_calls(scenario, calls[t, : counts[t]].tolist()) for t in range(scenario.steps)]
