"""Deciders: from the view to tool calls. All of them are pure functions of what a chat model sees.

A decider is a compiled function ``(rows, head, out) -> how many calls``. It reads the view
(`observe.Row`, `observe.Head`) and writes its calls into `out`, `CALL` records ``[MAX_OUT]`` whose
entries are rows of the view. Adding one is a function and one line in `REGISTRY`.

`blind` deciders do not react; the static ones among them have numbers and names, but no lines of their
own in the registry. `ranked` ones go down one tuned ladder of actions in the order of a rank of
`kv_cache_rl.policies`. The others weigh every (entry, action) pair. `weigh_value`, `weigh_alike` (every
entry returns) and `lookahead` differ in the belief with which they weigh. `stability` leaves to the
queueing controller how much is freed and how coarse it may get. `tuned` weighs with constants that were
optimised on the training scenarios, `learned` with a small network's factors on what the pairs cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.jit import folded, njit, uncounted
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.blind import STATIC, keep, on_everything, random, spam_invalid, static
from kv_cache_rl.sim.eviction.brief import is_brief, read_brief
from kv_cache_rl.sim.eviction.calls import NAMES, Call
from kv_cache_rl.sim.eviction.columns import calls_of
from kv_cache_rl.sim.eviction.learned import learned
from kv_cache_rl.sim.eviction.observe import head_of, rows_of
from kv_cache_rl.sim.eviction.ranked import ranked
from kv_cache_rl.sim.eviction.reserve import reserve
from kv_cache_rl.sim.eviction.returns import return_chance
from kv_cache_rl.sim.eviction.text import read_view
from kv_cache_rl.sim.eviction.trained import LEARNED, TUNED, Trained, WeightsError
from kv_cache_rl.sim.eviction.tuned import tuned
from kv_cache_rl.sim.eviction.weighing import (
    LEVELS,
    believing,
    certain,
    expect_losses,
    importance,
    shortage,
    weigh,
)

MAX_OUT = 20
"""Calls that a decider may make in a window; more than count, so that one may try."""


def weighing(belief):
    """Weighs with a belief about returns; keeps 6 % of the budget free, 22 % where that is cheap."""
    expect_returns = believing(belief)

    @njit(cache=False)
    def calls(rows, head, out):
        n = head.rows
        chance, loss = np.empty(n), np.empty((n, LEVELS))
        expect_returns(rows, n, chance)
        expect_losses(rows, n, loss)
        return weigh(rows, n, head, chance, loss, shortage(head, 60), shortage(head, 220), out)

    return calls


_expect_importance = believing(importance)


@njit
def stability(rows, head, out):
    """Weighs like `weigh_value`, but frees and compresses as the queueing controller's reserve says."""
    n = head.rows
    chance, loss = np.empty(n), np.empty((n, LEVELS))
    _expect_importance(rows, n, chance)
    expect_losses(rows, n, loss)
    kept_free, lowest = reserve(rows, head)
    loss[:, lowest + 1 :] = np.inf
    short = shortage(head, 0) + kept_free
    return weigh(rows, n, head, chance, loss, short, short, out)


def threshold(share):
    """Weighs like `weigh_value`, but frees what is above `share` thousandths of the budget."""

    @njit(cache=False)
    def calls(rows, head, out):
        n = head.rows
        chance, loss = np.empty(n), np.empty((n, LEVELS))
        _expect_importance(rows, n, chance)
        expect_losses(rows, n, loss)
        short = shortage(head, 1000 - share)
        return weigh(rows, n, head, chance, loss, short, short, out)

    return calls


@dataclass(frozen=True, slots=True)
class Registered:
    """One decider and what it is used for."""

    calls: Callable
    canary: bool = False
    """It would win under a faulty score only."""
    floor: bool = False
    """It does not react: a scenario's floor is the best return of these and of the static rules."""
    proposes: bool = False
    """The oracle considers its calls in every window. Stored logs were found with these; the others
    bound the oracle from below."""
    shipped: bool = True
    """Offered by name everywhere; the rest are measures for `stability`."""
    trained: Trained | None = None
    """Its committed weights. What was trained on scenarios takes no part in making them."""


REGISTRY: dict[str, Registered] = {
    "keep": Registered(keep, canary=True, floor=True, proposes=True),
    "random": Registered(random, canary=True, proposes=True),
    "evict_all": Registered(on_everything(Verb.EVICT), canary=True, floor=True, proposes=True),
    "compress_int8": Registered(on_everything(Verb.COMPRESS, 1), canary=True, floor=True, proposes=True),
    "compress_int4": Registered(on_everything(Verb.COMPRESS, 2), canary=True, floor=True, proposes=True),
    "swap_all": Registered(on_everything(Verb.SWAP), canary=True, floor=True, proposes=True),
    "spam_invalid": Registered(spam_invalid, canary=True),
    "lru": Registered(ranked("lru"), proposes=True),
    "fifo": Registered(ranked("fifo"), proposes=True),
    "lfu": Registered(ranked("lfu"), proposes=True),
    "largest_first": Registered(ranked("largest_first"), proposes=True),
    "gdsf": Registered(ranked("gdsf"), proposes=True),
    "weigh_value": Registered(weighing(importance), proposes=True),
    "weigh_alike": Registered(weighing(certain), proposes=True),
    "lookahead": Registered(weighing(return_chance), proposes=True),
    "stability": Registered(stability),
    "tuned": Registered(tuned, trained=TUNED),
    "learned": Registered(learned, trained=LEARNED),
    "threshold_0.80": Registered(threshold(800), shipped=False),
    "threshold_0.90": Registered(threshold(900), shipped=False),
    "threshold_0.95": Registered(threshold(950), shipped=False),
}

_FIRST_STATIC = len(REGISTRY)
_IDS = {name: k for k, name in enumerate((*REGISTRY, *STATIC))}
_decide = folded(tuple(one.calls for one in REGISTRY.values()))


@uncounted
def decide(policy, rows, head, out):
    """Calls of the decider with number `policy` for one window; returns how many."""
    if policy >= _FIRST_STATIC:
        return static(rows, head, out, policy - _FIRST_STATIC)
    return _decide(policy, rows, head, out)


@njit
def decide_view(policy, rows, head, out):
    """`decide` on packed buffers: those of `new_view`, and `out` int64 ``[MAX_OUT, 2]``."""
    return decide(policy, rows_of(rows), head_of(head), calls_of(out))


CANARIES = tuple(name for name, one in REGISTRY.items() if one.canary)
FLOOR = (*(name for name, one in REGISTRY.items() if one.floor), *STATIC)
"""The rules that do not react. The best of them on a scenario is its floor."""
THRESHOLDS = tuple(name for name, one in REGISTRY.items() if not one.shipped)

Decider = Callable[[dict], Sequence[Call]]


def policy_id(name: str) -> int:
    """The number by which compiled code knows a decider.

    Raises:
        ValueError: no decider has that name, or its committed weights cannot be used.
    """
    if name not in _IDS:
        raise ValueError(unknown("decider", name, DECIDERS))
    one = REGISTRY.get(name)
    if one is not None and one.trained is not None and one.trained.trouble:
        raise WeightsError(one.trained.trouble)
    return _IDS[name]


def decider(name: str) -> Decider:
    """A decider by name, as a function from an observation dictionary to tool calls.

    Raises:
        ValueError: no decider has that name.
    """
    policy = policy_id(name)

    def act(observation: dict) -> list[Call]:
        rows, head, ids = (read_brief if is_brief(observation) else read_view)(observation)
        out = np.zeros((MAX_OUT, 2), np.int64)
        count = decide_view(policy, rows, head, out)
        return [
            Call("keep") if verb == Verb.KEEP else Call(NAMES[verb], ids[k] if k >= 0 else f"no-such-id-{m}")
            for m, (verb, k) in enumerate(out[:count].tolist())
        ]

    return act


def factory(name: str) -> Callable[[], Decider]:
    """What `DECIDERS` holds under a name."""

    def make(*given: object) -> Decider:
        if given:
            raise TypeError(f"DECIDERS[{name!r}] makes a decider, it is none; call it: DECIDERS[{name!r}]()")
        return decider(name)

    return make


DECIDERS: dict[str, Callable[[], Decider]] = {
    name: factory(name) for name, one in REGISTRY.items() if one.shipped
}
"""Name -> factory; calling the factory is the episode reset."""
