"""Continuous batching: requests join and leave a running batch between steps, as memory allows.

    waiting --admit, first come first served--> running --last token--> finished
       ^                                           |
       +---- preempt the newest when full ---------+

One step: make the running sequences fit | admit while the watermark stays free | bring all their pages into GPU memory |
compute a token more of each (prompts, and what was lost, as prefill; the others in one batch) | finish.

A preempted sequence's pages give way only when, and as far as, their room is needed (`residency`): to the host pool and back
(swap), or dropped and computed anew (recompute), whichever is measured cheaper on this machine.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.paged.block_table import Sequence
from kv_cache_rl.paged.decoding import check_request, drawn, generator_of
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.residency import Page, Residency
from kv_cache_rl.paged.swap import HostPool, measure_costs

WATERMARK = 0.01
"""Share of the blocks that admission leaves free. Source: vLLM's BlockSpaceManager."""
WAYS = ("swap", "recompute")
MEASURED_TOKENS = 256


@dataclass(slots=True, eq=False)
class Request:
    """A prompt and what has become of it."""

    number: int
    prompt: list[int]
    most: int
    """Tokens to generate at most."""
    stop: int | None
    generator: torch.Generator | None
    temperature: float
    sequence: Sequence
    pages: list[Page] = field(default_factory=list)
    computed: int = 0
    """Tokens whose K/V its pages hold, while it does not run."""
    preemptions: int = 0
    finished: bool = False

    @property
    def output(self) -> list[int]:
        """Tokens generated so far."""
        return self.sequence.tokens[len(self.prompt) :]


@dataclass(frozen=True, slots=True)
class Event:
    """Something the scheduler decided: a request was "admitted", "preempted", "resumed" or "finished"."""

    step: int
    kind: str
    request: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a scheduler has done so far."""

    steps: int
    finished: int
    decoded: int
    """Tokens generated; a token computed again counts no second time, a prompt's not at all."""
    prefilled: int
    """Prompt tokens computed for the first time."""
    reused: int
    """Prompt tokens found computed, by other requests."""
    recomputed: int
    """Tokens computed again because their pages were dropped."""
    preemptions: int
    swapped_in: int
    """Pages."""
    swapped_out: int
    evictions: int
    drops: int
    seconds: float
    """Wall time inside `step`."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second."""
        return self.decoded / self.seconds if self.seconds else 0.0


class Scheduler:
    """Requests over one model and one cache, which must be empty and nobody else's."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        host: HostPool | None = None,
        preempt: str | None = None,
        watermark: float = WATERMARK,
        most_running: int = 64,
        prefill_tokens: int = 2048,
    ) -> None:
        """`preempt`: "swap" or "recompute"; by default the one measured cheaper, without a host pool recompute.
        `prefill_tokens`: no further request is admitted to a step that computes so many already."""
        if preempt not in (None, *WAYS) or (preempt == "swap" and host is None):
            raise ValueError(f"preempt {preempt!r}: use {' or '.join(WAYS)}, and give a host pool to swap to")
        if not 0 <= watermark < 1 or most_running < 1 or prefill_tokens < 1:
            raise ValueError(
                f"watermark {watermark}, most_running {most_running}, prefill_tokens {prefill_tokens}; "
                "give a share below 1, and numbers from 1 on"
            )
        self.costs = (
            measure_costs(model, MEASURED_TOKENS, cache.pool.block_tokens) if host is not None and preempt is None else None
        )
        self.preempt = preempt or (self.costs.cheaper if self.costs else "recompute")
        self.model, self.cache = model, cache
        self.residency = Residency(cache, host if self.preempt == "swap" else None)
        self.residency.refuse_occupied()
        self.spare = int(watermark * cache.pool.blocks)
        self.most_running, self.prefill_tokens = most_running, prefill_tokens
        self.requests: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.events: list[Event] = []
        self._steps = self._decoded = self._prefilled = self._reused = self._recomputed = 0
        self._seconds = 0.0

    def add(
        self, prompt: Many[int], most: int, stop: int | None = None, seed: int | None = None, temperature: float = 1.0
    ) -> Request:
        """Queues a request for `most` tokens, fewer if `stop` comes; greedy without a seed.

        Raises ValueError for a request that could not run even alone.
        """
        check_request(prompt, most, temperature)
        tokens, pool = self.model.checked(prompt).tolist(), self.cache.pool
        needed = blocks_for(len(tokens) + most - 1, pool.block_tokens)
        if needed > pool.blocks:
            raise ValueError(
                f"a prompt of {len(tokens)} and {most} new tokens need {needed} blocks, the pool has {pool.blocks}; "
                "ask for fewer tokens, or build a larger pool"
            )
        generator = None if seed is None else generator_of(seed)
        request = Request(len(self.requests), tokens, most, stop, generator, temperature, Sequence(list(tokens)))
        self.requests.append(request)
        self.waiting.append(request)
        return request

    def run(self) -> Report:
        """Steps until every request is finished."""
        while self.waiting or self.running:
            self.step()
        return self.report()

    def step(self) -> None:
        """One token more of every running request, after those that no longer fit were preempted and those that fit admitted."""
        if not self.waiting and not self.running:
            return
        started = time.perf_counter()
        self._steps += 1
        if not self._preempt_the_newest():
            self._admit()
        self._bring()
        try:
            for request, logits in self._computed():
                self._append(request, logits)
        finally:
            for request in self.running:
                self._settle(request)
            self._seconds += time.perf_counter() - started
        for request in [r for r in self.running if r.finished]:
            self._stop(request, "finished")

    def report(self) -> Report:
        """Totals so far."""
        kept = self.residency
        return Report(
            steps=self._steps,
            finished=sum(request.finished for request in self.requests),
            decoded=self._decoded,
            prefilled=self._prefilled,
            reused=self._reused,
            recomputed=self._recomputed,
            preemptions=sum(request.preemptions for request in self.requests),
            swapped_in=kept.swapped_in,
            swapped_out=kept.swapped_out,
            evictions=kept.evictions,
            drops=kept.drops,
            seconds=self._seconds,
        )

    def check(self) -> None:
        """Raises LedgerError unless pages, pools and tables agree."""
        self.residency.check()

    def clear(self) -> None:
        """Gives up the pages kept for prompts to come: all blocks that no running request holds are free."""
        self.residency.clear()

    def _fresh(self, request: Request) -> int:
        """Pages it lacks for the tokens it has."""
        return blocks_for(len(request.sequence.tokens), self.cache.pool.block_tokens) - len(request.pages)

    def _needed(self) -> int:
        """Different pages that the running requests need in this step."""
        held = {page for request in self.running for page in request.pages}
        return len(held) + sum(self._fresh(request) for request in self.running)

    def _preempt_the_newest(self) -> bool:
        """Preempts until the others fit; returns whether anybody was."""
        before = len(self.running)
        while self._needed() > self.cache.pool.blocks:
            request = self.running[-1]
            request.preemptions += 1
            self._stop(request, "preempted")
            self.waiting.appendleft(request)
        return len(self.running) < before

    def _stop(self, request: Request, kind: str) -> None:
        request.computed = request.sequence.length
        self.residency.detach(request.sequence, request.pages)
        self.running.remove(request)
        self.events.append(Event(self._steps, kind, request.number))

    def _admit(self) -> None:
        """Admits in order of arrival while pages and the watermark fit; nobody overtakes."""
        computing = 0
        while self.waiting and len(self.running) < self.most_running and computing < self.prefill_tokens:
            request = self.waiting[0]
            pages = self.residency.present(request.pages) if request.preemptions else self.residency.find(request.prompt)
            request.pages = pages
            self.running.append(request)
            spare = self.spare if len(self.running) > 1 else 0
            if self._needed() > self.cache.pool.blocks - spare:
                self.running.pop()
                return
            self.waiting.popleft()
            computing += self._account(request)
            self.events.append(Event(self._steps, "resumed" if request.preemptions else "admitted", request.number))

    def _account(self, request: Request) -> int:
        """Books what a request that starts running need not compute; returns what it has to."""
        full, total = len(request.pages) * self.cache.pool.block_tokens, len(request.sequence.tokens)
        if request.preemptions:
            known = min(full, request.computed)
            self._recomputed += request.computed - known
        else:
            known = full
            self._reused += known
            self._prefilled += total - known
        request.computed = known
        return total - known

    def _bring(self) -> None:
        """Every page of the running requests into GPU memory, and tables for those that start."""
        for request in self.running:
            request.pages += [Page() for _ in range(self._fresh(request))]
        self.residency.bring(self._steps, [(request.number, request.pages) for request in self.running])
        for request in self.running:
            if not request.sequence.blocks:
                known = blocks_for(request.computed, self.cache.pool.block_tokens)
                self.residency.attach(request.sequence, request.pages[:known], request.computed)

    def _computed(self) -> list[tuple[Request, Tensor]]:
        """Every running request with the logits after its last token."""
        ready = [r for r in self.running if len(r.sequence.tokens) == r.sequence.length + 1]
        rows = {}
        for request in self.running:
            if request not in ready:
                missing = request.sequence.tokens[request.sequence.length :]
                rows[request] = self.model.prefill(self.cache, request.sequence, missing)
        if ready:
            last = [request.sequence.tokens[-1] for request in ready]
            rows |= dict(zip(ready, self.model.decode(self.cache, [r.sequence for r in ready], last), strict=True))
        return [(request, rows[request]) for request in self.running]

    def _append(self, request: Request, logits: Tensor) -> None:
        generator = request.generator
        token = int(logits.argmax()) if generator is None else drawn(logits, generator, request.temperature)
        request.sequence.tokens.append(token)
        self._decoded += 1
        request.finished = len(request.output) == request.most or token == request.stop

    def _settle(self, request: Request) -> None:
        self.residency.discard(request.pages[len(request.sequence.blocks) :])
        del request.pages[len(request.sequence.blocks) :]
        self.residency.settle(request.sequence, request.pages)
