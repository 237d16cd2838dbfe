"""A server under vLLM's rules: what it is asked, its settings, and its steps one by one."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from kv_cache_rl.core import pool
from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.numbers import shown
from kv_cache_rl.sim.serving import vllm
from kv_cache_rl.sim.serving.audit import demand, members
from kv_cache_rl.sim.serving.columns import (
    ACTIVE,
    FREE,
    GPU_POOL,
    QUEUED,
    REQUEST,
    SETTINGS,
    SETTINGS_WORDS,
    Columns,
    fixed_size,
    live_size,
    views,
)
from kv_cache_rl.sim.serving.shared_blocks import NONE, Blocks, blocks_of
from kv_cache_rl.sim.serving.spec import MOST_BLOCKS, ServingError, whole

MOST_TOKENS = 1 << 24
MANY = 4096
"""Steps that compiled code takes in one call."""


@dataclass(frozen=True, slots=True)
class Rules:
    """A server that schedules itself as vLLM does; the defaults are vLLM's."""

    blocks: int
    """Of its pool, those that can hold something."""
    block_tokens: int = 16
    token_budget: int = 2_048
    """Tokens that a step computes at most."""
    most_running: int = 256
    """Requests that run at once."""
    prefix_caching: bool = True
    long_prefill: int = 0
    """Tokens of a prompt that a step computes at most beside other requests; 0: any."""
    watermark: int = 0
    """Blocks that stay free where a request is admitted beside others."""
    whole_prompt: bool = True
    """Whether a request is admitted only if all its tokens so far find room, not only the step's."""

    def __post_init__(self) -> None:
        """Raises ServingError, naming the field, its value and the range."""
        for name, low, high in (
            ("blocks", 1, MOST_BLOCKS),
            ("block_tokens", 1, 4_096),
            ("token_budget", 1, MOST_TOKENS),
            ("most_running", 1, 1_000_000),
            ("long_prefill", 0, MOST_TOKENS),
            ("watermark", 0, self.blocks),
        ):
            object.__setattr__(self, name, whole(name, getattr(self, name), low, high))
        for name in ("prefix_caching", "whole_prompt"):
            if not isinstance(getattr(self, name), bool):
                raise ServingError(f"{name} is {shown(getattr(self, name))}; give True or False")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    step: int
    """Before which it comes."""
    prompt: int
    """Tokens."""
    output: int
    """Tokens, at least 1."""
    content: Sequence[int] = ()
    """What its full blocks hold, of prompt and output: the same number is the same prefix. Those without a
    number are shared by none."""
    after: int = NONE
    """An earlier request that has to be over before this one comes; -1: none."""


@dataclass(slots=True)
class Server:
    """A server under vLLM's rules in the middle of its work."""

    rules: Rules
    fixed: np.ndarray
    """int64: settings and requests (`columns`); arrivals are steps."""
    live: np.ndarray
    """int64: everything that changes (`columns`); the clock counts steps."""
    blocks: Blocks
    after: np.ndarray
    """int64 [R]: `Ask.after`."""
    columns: Columns = field(init=False, repr=False, compare=False)
    """Both buffers by name."""

    def __post_init__(self) -> None:
        self.columns = views(self.fixed, self.live)

    def advance(self, until: int = 1 << 62) -> np.ndarray:
        """The steps up to `until`, or all; int64 [steps, 5] by `vllm.COUNTS`. Idle ones are left out."""
        rules = np.zeros(1, vllm.RULES)
        for name in vllm.RULES.names or ():
            rules[name] = getattr(self.rules, name)
        parts = [np.zeros((0, len(vllm.COUNTS)), np.int64)]
        while True:
            counts = np.zeros((MANY, len(vllm.COUNTS)), np.int64)
            done = vllm.advance(self.fixed, self.live, self.blocks, rules, self.after, until, counts)
            parts.append(counts[:done])
            if done < MANY:
                return np.concatenate(parts)

    def check(self) -> None:
        """Counts the books anew.

        Raises:
            core.pool.LedgerError: they do not balance; a bug in the simulator, never the user's doing.
        """
        c, b = self.columns, self.blocks
        held = [
            b.table[first : first + count]
            for first, count in zip(b.begins[:-1], c.rows["blocks"].tolist(), strict=True)
        ]
        holders = np.bincount(np.concatenate([*held, np.zeros(0, np.int64)]), minlength=len(b.block))
        demand(bool(np.all(holders == b.block["holders"])), "blocks are held by another number of requests")
        pool.check(c.book["pools"][:1], np.array([np.sum(holders > 0)]))
        demand(sorted(_free(b)) == np.flatnonzero(holders == 0).tolist(), "the free list holds other blocks")
        demand(b.free["count"][0] == np.sum(holders == 0), "free blocks are miscounted")
        for content, oldest in enumerate(b.oldest.tolist()):
            copies = []
            while oldest != NONE and len(copies) <= len(b.block):
                copies.append(oldest)
                oldest = int(b.block["younger"][oldest])
            right = np.flatnonzero(b.block["content"] == content).tolist()
            demand(sorted(copies) == right, f"content {content} is not where its list says")
        status = c.rows["status"]
        in_service = sorted(c.running[: c.book["serving"]].tolist())
        demand(in_service == np.flatnonzero(status == ACTIVE).tolist(), "rows in service are not active")
        queued = sorted(members(c, "queues", FREE))
        demand(queued == np.flatnonzero(status == QUEUED).tolist(), "the queue holds the wrong rows")


def _free(b: Blocks) -> list[int]:
    """The free blocks, next to leave first."""
    found, block = [], int(b.free["first"][0])
    while block != NONE and len(found) <= len(b.block):
        found.append(block)
        block = int(b.block["after"][block])
    return found


def new_server(asks: Sequence[Ask], rules: Rules) -> Server:
    """The empty server before its first step.

    Raises:
        ServingError: a request that no such server can serve, or that comes in no order.
    """
    for row, ask in enumerate(asks):
        _check(row, ask, asks[row - 1] if row else ask, rules)
    fixed = np.zeros(fixed_size(len(asks)), np.int64)
    live = np.zeros(live_size(len(asks)), np.int64)
    settings = fixed[:SETTINGS_WORDS].view(SETTINGS)[0]
    settings["requests"], settings["tick_us"] = len(asks), 1
    settings["block_tokens"], settings["token_budget"] = rules.block_tokens, rules.token_budget
    requests = fixed[SETTINGS_WORDS:].view(REQUEST)
    for name, values in (
        ("arrival", [ask.step for ask in asks]),
        ("prompt", [ask.prompt for ask in asks]),
        ("output", [ask.output for ask in asks]),
    ):
        requests[name] = values
    requests["parent"] = NONE
    after = np.array([ask.after for ask in asks], np.int64)
    server = Server(rules, fixed, live, blocks_of(_paths(asks, rules.block_tokens), rules.blocks), after)
    book, rows = server.columns.book, server.columns.rows
    book["pools"][GPU_POOL, pool.CAPACITY] = rules.blocks
    book["queues"]["first"], book["queues"]["last"], book["alive"] = NONE, NONE, 1
    for name in ("found", "before", "after", "next"):
        rows[name] = NONE
    return server


def _paths(asks: Sequence[Ask], size: int) -> list[np.ndarray]:
    """The contents of each request, numbered densely; a full block without a name has one of its own."""
    numbers: dict[Hashable, int] = {}
    paths = []
    for row, ask in enumerate(asks):
        unnamed = ((row, at) for at in range(len(ask.content), (ask.prompt + ask.output) // size))
        path = [numbers.setdefault(name, len(numbers)) for name in (*ask.content, *unnamed)]
        part = blocks_for(ask.prompt + ask.output, size) - len(path)
        paths.append(np.array(path + [NONE] * part, np.int64))
    return paths


def _check(row: int, ask: Ask, before: Ask, rules: Rules) -> None:
    """Raises ServingError for a request that breaks a rule."""
    for name, low in (("step", before.step), ("prompt", 1), ("output", 1), ("after", NONE)):
        high = row - 1 if name == "after" else 1 << 40
        whole(f"{name} of request {row}", getattr(ask, name), low, max(low, high))
    need, most = blocks_for(ask.prompt + ask.output - 1, rules.block_tokens), len(ask.content)
    if need > rules.blocks:
        raise ServingError(
            f"request {row} needs {need:,} blocks, the pool has {rules.blocks:,}; give it {need:,} or more"
        )
    if most > (ask.prompt + ask.output) // rules.block_tokens:
        raise ServingError(f"request {row} names {most:,} full blocks, more than it fills; name fewer")
