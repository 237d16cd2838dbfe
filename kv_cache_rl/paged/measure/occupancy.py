"""How full a memory is while requests wait for it: in blocks of a pool, and in contiguous reservations."""

import bisect
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.errors import unknown
from kv_cache_rl.paged.block_pool import PoolError
from kv_cache_rl.paged.errors import RequestError
from kv_cache_rl.paged.measure.memory import LONGEST, TICK_TOKENS, small_cache
from kv_cache_rl.paged.sequences import Sequence


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Shares of a memory, means over a run."""

    name: str
    tokens: float
    """Holds tokens."""
    internal: float
    """Reserved or in blocks, without a token."""
    external: float
    """In gaps that no request can use."""
    at_once: float
    """Mean number of requests held together; not a share."""


class _Blocks:
    """Blocks of a pool, taken as a request grows; without a free one the newest request stops."""

    def __init__(self, memory: int, block_tokens: int) -> None:
        self.cache, self.held = small_cache(memory, block_tokens), {}

    def least(self, prompt: int, total: int) -> int:
        """Tokens of memory without which a request never starts, or never ends."""
        size = self.cache.pool.block_tokens
        return blocks_for(max(prompt + TICK_TOKENS, total), size) * size

    def start(self, number: int, prompt: int, total: int) -> bool:
        if blocks_for(prompt + TICK_TOKENS, self.cache.pool.block_tokens) > self.cache.pool.free:
            return False
        self.held[number] = Sequence()
        self.cache.extend(self.held[number], prompt)
        return True

    def grow(self, number: int, tokens: int) -> bool:
        try:
            self.cache.extend(self.held[number], tokens)
        except PoolError:
            return False
        return True

    def stop(self, number: int) -> None:
        self.cache.release(self.held.pop(number))

    def taken(self) -> int:
        return self.cache.pool.used * self.cache.pool.block_tokens

    def unusable(self, _: int) -> int:
        return 0


class _Contiguous:
    """One stretch of memory per request, found first-fit, as long as `reserve` says."""

    def __init__(self, memory: int, reserve: Callable[[int], int]) -> None:
        self.memory, self.reserve = memory, reserve
        self.stretches: list[tuple[int, int, int]] = []  # start, length, request; sorted

    def gaps(self) -> list[tuple[int, int]]:
        at, found = 0, []
        for start, length, _ in self.stretches:
            found.append((at, start - at))
            at = start + length
        return [gap for gap in [*found, (at, self.memory - at)] if gap[1]]

    def least(self, prompt: int, total: int) -> int:
        return self.reserve(total)

    def start(self, number: int, prompt: int, total: int) -> bool:
        need = self.reserve(total)
        for start, length in self.gaps():
            if length >= need:
                bisect.insort(self.stretches, (start, need, number))
                return True
        return False

    def grow(self, number: int, tokens: int) -> bool:
        return True

    def stop(self, number: int) -> None:
        self.stretches = [s for s in self.stretches if s[2] != number]

    def taken(self) -> int:
        return sum(length for _, length, _ in self.stretches)

    def unusable(self, need: int) -> int:
        """Tokens in gaps too short for the waiting request; 0 where all gaps together are too short."""
        gaps = [length for _, length in self.gaps()]
        return sum(gaps) if sum(gaps) >= need > max(gaps, default=0) else 0


def _next_power(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


RESERVATIONS: dict[str, Callable[[int], int]] = {
    "contiguous, longest": lambda total: LONGEST,
    "contiguous, power of two": _next_power,
    "contiguous, length known": lambda total: total,
}
"""Layout → tokens reserved for a request.

Source: the three Orca variants of the PagedAttention paper.
"""


def occupancy(requests: Many[tuple[int, int]], memory: int, name: str, block_tokens: int = 16) -> Occupancy:
    """How a memory of `memory` tokens is used while requests wait, start, grow and leave.

    `name` is "paged" or one of RESERVATIONS.

    Raises:
        RequestError: another name, a request that never fits, or a memory so large that none waits.
    """
    if name != "paged" and name not in RESERVATIONS:
        raise RequestError(unknown("layout", name, ["paged", *RESERVATIONS]))
    store = _Contiguous(memory, RESERVATIONS[name]) if name in RESERVATIONS else _Blocks(memory, block_tokens)
    for prompt, output in requests:
        if store.least(prompt, prompt + output) > memory:
            raise RequestError(
                f"a request of {prompt} + {output} tokens never fits a memory of {memory}, {name}; enlarge it"
            )
    waiting, running, looks = list(enumerate(requests))[::-1], {}, []
    while waiting or running:
        while waiting:
            number, (prompt, output) = waiting[-1]
            if not store.start(number, prompt, prompt + output):
                break
            running[number] = [prompt, prompt + output]
            waiting.pop()
        if waiting:  # without a waiting request, the memory need not be full
            held = sum(tokens for tokens, _ in running.values())
            need = store.reserve(sum(waiting[-1][1])) if isinstance(store, _Contiguous) else 0
            looks.append((held, store.taken() - held, store.unusable(need), len(running)))
        for number, at in list(running.items()):
            if number not in running:
                continue
            step = min(TICK_TOKENS, at[1] - at[0])
            while number in running and not store.grow(number, step):
                newest = max(running)
                store.stop(newest)
                del running[newest]
                waiting.append((newest, requests[newest]))
            at[0] += step
            if number in running and at[0] == at[1]:
                store.stop(number)
                del running[number]
    if not looks:
        raise RequestError(
            f"a memory of {memory} tokens holds all {len(requests)} requests at once; "
            "give more, or less memory"
        )
    tokens, internal, external, at_once = (float(mean) for mean in np.mean(looks, axis=0))
    return Occupancy(name, tokens / memory, internal / memory, external / memory, at_once)
