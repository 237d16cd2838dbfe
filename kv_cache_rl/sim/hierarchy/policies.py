"""The names of all policies of the lab, how the order of each is kept, and a policy written as text."""

from __future__ import annotations

from typing import Any

from kv_cache_rl.core.candidates import Column
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.policies.rank import RANKS
from kv_cache_rl.sim.hierarchy.queues import QUEUES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.state import Order

POLICIES = tuple(dict.fromkeys((*RANKS, *QUEUES)))
"""Ranks and queues; `lru` and `fifo` are both, and their order is kept as a queue."""
PARAMETERS: dict[str, tuple[Column, float, float]] = {
    "seed": (Column.DRAW, 0, 2**63 - 1),
    "window": (Column.RECENT_USES, 1, 2**31),
    "regret_weight": (Column.REGRET, 0.0, 1e9),
    "regret_decay": (Column.REGRET, 0.0, 1.0),
    "regret_horizon": (Column.REGRET, 1, 2**31),
}
"""A parameter → the column that a rank reads to have it, and its least and largest value."""
WHOLE = ("seed", "window", "regret_horizon")
REGRET = {"regret_weight": 6.0, "regret_decay": 0.98, "regret_horizon": 0}
"""Their values where none is given; a horizon of 0 is as long as pages fit."""


def order_of(policy: str) -> Order:
    """How the order of a policy is kept."""
    if policy in QUEUES:
        return Order.LISTED
    rank = RANKS[policy]
    if rank.stands_still:
        return Order.HEAPED
    return Order.MATCHED if rank.foretells else Order.SCANNED


def parameters_of(policy: str) -> list[str]:
    """The parameters of a policy."""
    needs = RANKS[policy].needs if policy in RANKS and policy not in QUEUES else ()
    return [name for name, (column, _, _) in PARAMETERS.items() if column in needs]


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A policy and its tuning as `dynamics.new_state` takes it, from `NAME` or `NAME:PARAMETER=VALUE:...`.

    Raises:
        HierarchyError: the lab does not have the policy, or the policy not the parameter, or it takes another
            value.

    >>> parsed("windowed_recency:window=64")
    ('windowed_recency', {'window': 64})
    """
    policy, *pairs = text.split(":")
    if policy not in POLICIES:
        raise HierarchyError(unknown("policy", policy, POLICIES))
    given: dict[str, float] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in parameters_of(policy):
            known = ", ".join(parameters_of(policy)) or "none"
            raise HierarchyError(f"policy {policy} has no parameter {name!r}; it has {known}")
        if name in given:
            raise HierarchyError(f"{text!r} gives {name} twice; write it once")
        given[name] = _value(name, value)
    regret = {name: given.pop(name, value) for name, value in REGRET.items()}
    return policy, given if regret == REGRET else given | {"regret": tuple(regret.values())}


def _value(name: str, text: str) -> float:
    _, low, high = PARAMETERS[name]
    kind = int if name in WHOLE else float
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise HierarchyError(f"{name}={text!r} is not possible; give {what} from {low:,} to {high:,}")
    return value
