"""Traffic: users drawn from the seed (here) or replayed from a trace (`replay`).

A user arrives once, by the pattern's rate, and returns with a fixed probability. Both the return and its
instant (arrival + nominal service + think time) are drawn in advance, whatever becomes of the turn before.
Each turn's prompt is the history (the prompt and output before) and something new; a conversation ends where
the next turn would not fit the context limit.

What would arrive after the episode's end is folded back to its beginning (time modulo its length), as from a
user of another server: a long prompt whose history is nowhere here. So the load is steady from the first tick
on, and exact: the requests of an episode are the turns of the users that first arrived in it.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from kv_cache_rl.sim.serving import replay
from kv_cache_rl.sim.serving.arrivals import ONE, gaps, instants, load_curve
from kv_cache_rl.sim.serving.demand import Capacity, Lengths, Traffic, checked_size
from kv_cache_rl.sim.serving.draws import (
    GAP,
    IS_POWER,
    IS_VIP,
    REFERENCE,
    USERS,
    WORLD,
    branch,
    exponential,
    lengths,
    root,
    uniform,
)
from kv_cache_rl.sim.serving.spec import Scenario

__all__ = ["Traffic", "traffic"]

CHATTER = (100.0, 50.0), (250.0, 100.0)
POWER_USER = (3_500.0, 1_200.0), (800.0, 300.0)
"""Mean and deviation of what is new in a prompt, and of an output, in tokens; clipped to at least 1."""
THINK_TICKS = 200.0
"""Mean of the (exponential) think time before a return, in nominal ticks."""
BURST_TICKS, BURST_WIDTH_TICKS, BURST_SHARE = 500, 4.0, 0.5
"""Bursty returns: one burst at a drawn instant of every stretch of BURST_TICKS. Of the returns since the last
burst, BURST_SHARE wait for it and arrive within BURST_WIDTH_TICKS."""

TURNS = 16
"""The first branch of a user that is one of their turns; below it are draws of the user."""
FRESH, ANSWER, RETURNS, THINKS, WAITS, SPREADS = range(6)
"""Draws of a turn; the last four are about the turn that follows it."""
BURSTS = 1 << 20
"""Draws of the world from this number on are instants of bursts."""

REFERENCE_USERS = 10_000
LEAST_WEIGHT = 1e-6
"""The mix of turn depths is measured on so many users of each kind, down to turns this rare."""


def traffic(scenario: Scenario, seed: int) -> Traffic:
    """The requests of an episode; the same for the same scenario and seed, byte for byte.

    Raises:
        ServingError: the seed is no whole number from 0 to 2**64 - 1, or no such traffic exists.
        TraceError: the scenario names a trace that cannot be used.
    """
    key = root(seed)
    return replay.traffic(scenario, key) if scenario.trace is not None else _drawn(scenario, key)


class Depth(NamedTuple):
    """The turns of one depth: position of the user, key and lengths, each ``[n]``."""

    user: np.ndarray
    keys: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    history: np.ndarray


def depths(users: np.ndarray, power: np.ndarray, longest: int, return_probability: float) -> Iterator[Depth]:
    """The first turns of the users with these keys, their second ones, and so on, until no user returns or
    fits `longest`.
    """
    user, history, turn = np.arange(len(users)), np.zeros(len(users), np.int64), 0
    while len(user) or not turn:
        keys = branch(users[user], TURNS + turn)
        chatter = ~power[user]
        prompt, output = _either(CHATTER, POWER_USER, chatter, uniform(keys, FRESH), uniform(keys, ANSWER))
        if turn == 0:
            # A first turn has to happen: its output leaves room for a prompt, and the prompt takes what is
            # left.
            output = np.minimum(output, longest // 2)
            prompt = np.minimum(prompt, longest - output)
        prompt += history
        fits = prompt + output <= longest
        depth = Depth(user[fits], keys[fits], prompt[fits], output[fits], history[fits])
        yield depth
        stays = uniform(depth.keys, RETURNS) < return_probability
        user, history, turn = depth.user[stays], (depth.prompt + depth.output)[stays], turn + 1


def _either(chatter, power, is_chatter: np.ndarray, *shares: np.ndarray) -> list[np.ndarray]:
    drawn = []
    for (small, large), share in zip(zip(chatter, power, strict=True), shares, strict=True):
        values = np.empty(len(share), np.int64)
        values[is_chatter] = lengths(share[is_chatter], *small)
        values[~is_chatter] = lengths(share[~is_chatter], *large)
        drawn.append(values)
    return drawn


class Mix(NamedTuple):
    """What the users of a scenario bring on average."""

    turns: float
    """Requests per user."""
    lengths: Lengths


def mix(scenario: Scenario) -> Mix:
    """Means over the turns of a fixed sample of users that depends on no seed; chatters and power users in
    exact shares.
    """
    chances = scenario.return_probability, scenario.power_share
    return _measured_mix(*chances, scenario.longest, scenario.token_budget, scenario.block_tokens)


@functools.lru_cache(maxsize=256)
def _measured_mix(return_probability: float, power_share: float, longest: int, chunk: int, block: int) -> Mix:
    users = branch(branch(root(0), REFERENCE), np.arange(2 * REFERENCE_USERS))
    power = np.arange(len(users)) < REFERENCE_USERS
    share = np.where(power, power_share, 1 - power_share) / REFERENCE_USERS
    prompts, outputs, weights, reached = [], [], [], 1.0
    # All users return; turns weigh by the probability of getting so far, which has less noise than drawing.
    for depth in depths(users, power, longest, 1.0):
        prompts.append(depth.prompt)
        outputs.append(depth.output)
        weights.append(share[depth.user] * reached)
        reached *= return_probability
        if reached < LEAST_WEIGHT:
            break
    weight = np.concatenate(weights)
    return Mix(
        float(weight.sum()),
        Lengths.of(np.concatenate(prompts), np.concatenate(outputs), chunk, block, weight),
    )


@functools.lru_cache(maxsize=256)
def demand(scenario: Scenario) -> tuple[Capacity, float]:
    """What the server can serve of this scenario's mix, and how many users an episode brings on average."""
    turns, means = mix(scenario)
    capacity = Capacity.of(scenario, means)
    requests = scenario.rho * capacity.service_rate * scenario.ticks * capacity.tick_us / 1e6
    checked_size(scenario, requests)
    return capacity, requests / turns


def _drawn(scenario: Scenario, key: np.ndarray) -> Traffic:
    capacity, expected = demand(scenario)
    end = scenario.ticks * capacity.tick_us
    world = branch(key, WORLD)
    users, arrival = _newcomers(branch(key, USERS), expected, load_curve(scenario, world), end)
    power = uniform(users, IS_POWER) < scenario.power_share
    vip = uniform(users, IS_VIP) < scenario.vip_share
    bursts = burst_instants(scenario, world, end) if scenario.bursty_returns else None
    before, rows, parts = np.full(len(users), -1), 0, []
    for turn, (user, keys, prompt, output, history) in enumerate(
        depths(users, power, scenario.longest, scenario.return_probability)
    ):
        depth = np.full(len(user), turn)
        parts.append(
            (arrival[user], prompt, output, vip[user], power[user], before[user], history, user, depth)
        )
        before[user] = np.arange(rows, rows + len(user))
        rows += len(user)
        service = (output - (-prompt // scenario.token_budget)) * capacity.tick_us
        arrival[user] += (
            service + 1 + (exponential(keys, THINKS) * THINK_TICKS * capacity.tick_us).astype(np.int64)
        )
        if bursts is not None:
            arrival[user] = _gathered(arrival[user], keys, bursts, end, capacity.tick_us)
    table, user, turns = folded(
        [np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True)], end
    )
    return Traffic(
        table=table,
        user=user,
        turn=turns,
        tick_us=capacity.tick_us,
        end_us=end,
        arrival_rate=scenario.rho * capacity.service_rate,
        service_rate=capacity.service_rate,
        rho=scenario.rho,
        binding=capacity.binding,
        lengths=capacity.lengths,
    )


def _newcomers(
    key: np.ndarray, expected: float, curve: np.ndarray, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and first arrivals of the users that arrive before the end."""
    number = int(expected + 6 * expected**0.5) + 16
    while True:
        users = branch(key, np.arange(number))
        passed = np.cumsum(gaps(users, GAP))
        come = int(np.searchsorted(passed, ONE * expected))
        if come < number:
            return users[:come], instants(passed[:come], expected, curve, end)
        number *= 2


def burst_instants(scenario: Scenario, world: np.ndarray, end: int) -> np.ndarray:
    """When returns gather, in microseconds before `end`, ascending: one instant in each of equal stretches of
    the episode.
    """
    stretches = max(1, round(scenario.ticks / BURST_TICKS))
    at = np.arange(stretches)
    return ((at + uniform(world, BURSTS + at)) / stretches * end).astype(np.int64)


def _gathered(
    natural: np.ndarray, keys: np.ndarray, bursts: np.ndarray, end: int, tick_us: int
) -> np.ndarray:
    """Instants of returns, of which a share wait for the next burst; bursts come round again in every
    episode.
    """
    lap, within = np.divmod(natural, end)
    burst = np.append(bursts, bursts[0] + end)[np.searchsorted(bursts, within)] + lap * end
    spread = (uniform(keys, SPREADS) * BURST_WIDTH_TICKS * tick_us).astype(np.int64)
    return np.where(uniform(keys, WAITS) < BURST_SHARE, burst + spread, natural)


def folded(columns: list[np.ndarray], end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Table, user and turn of these turns, in order of arrival, with what would come after the end at the
    beginning.

    `columns` are those of the table, then user and turn; arrivals count on beyond `end`, parents are
    positions. A turn keeps its parent only within a lap."""
    lap, within = np.divmod(columns[0], end)
    parent = columns[5]
    order = np.lexsort((columns[8], columns[7], within))
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    here = (parent >= 0) & (lap == lap[parent])
    columns = [
        within,
        *columns[1:5],
        np.where(here, row[parent], -1),
        np.where(here, columns[6], 0),
        *columns[7:],
    ]
    table = np.column_stack([column[order] for column in columns[:7]])
    return np.ascontiguousarray(table), columns[7][order], columns[8][order]
