"""Continuous batching: requests join and leave a running batch between steps, as memory allows.

    waiting --admit, first come first served--> running --last token--> finished
       ^                                           |        (either may be cancelled)
       +---- preempt the newest when full ---------+

One step:

1. preempt until the running sequences fit;
2. admit while the watermark stays free;
3. bring all their pages into GPU memory;
4. compute one more token of each, in one batch; prompts and lost tokens as prefill;
5. finish.

The pages of a preempted sequence are evicted only as far as their room is needed (`residency`).
They move to the host pool and back (swap), or are dropped and computed again (recompute).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Many

from torch import Tensor

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.numbers import shown
from kv_cache_rl.paged.computing import computed
from kv_cache_rl.paged.drawing import check_request, drawn, generator_of
from kv_cache_rl.paged.ending import Stop, StopText, ending_of
from kv_cache_rl.paged.errors import RequestError, number, whole
from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.requests import Event, Report, Request
from kv_cache_rl.paged.residency import Page, Residency
from kv_cache_rl.paged.sequences import Sequence
from kv_cache_rl.paged.swap import HostPool, PreemptionCosts

WATERMARK = 0.01
"""Share of the blocks that admission leaves free. Source: vLLM's BlockSpaceManager."""
WAYS = ("swap", "recompute")


class Scheduler:
    """Requests over one model and one cache of its own."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        host: HostPool | None = None,
        preempt: str | None = None,
        watermark: float = WATERMARK,
        most_running: int = 64,
        prefill_tokens: int = 2048,
        costs: PreemptionCosts | None = None,
    ) -> None:
        """A scheduler without requests.

        Args:
            model: what computes.
            cache: empty, and of the model's shape.
            host: an empty host pool for the cache, to swap to.
            preempt: "swap" or "recompute". None: the cheaper one by `costs`; without costs "swap"
                where there is a host pool, else "recompute".
            watermark: share of the blocks that admission leaves free.
            most_running: requests that run at once, at most.
            prefill_tokens: a step that computes so many tokens already admits no further request.
            costs: of both ways on this machine.

        Raises:
            RequestError: an option is out of range.
            SwapError, PoolError: the host pool is for another pool, or a pool is in use.
        """
        parts = {"model": (model, Decoder), "cache": (cache, KVCache)}
        given_too = {"host": (host, HostPool), "costs": (costs, PreemptionCosts)}
        parts |= {name: part for name, part in given_too.items() if part[0] is not None}
        for name, (part, kind) in parts.items():
            if not isinstance(part, kind):
                raise RequestError(f"{name} {part!r:.60}; give a {kind.__name__}")
        if preempt not in (None, *WAYS) or (preempt == "swap" and host is None):
            ways = " or ".join(WAYS)
            raise RequestError(f"preempt {preempt!r}: use {ways}, and give a host pool to swap to")
        for name, given in (("most_running", most_running), ("prefill_tokens", prefill_tokens)):
            whole(given, f"{name} {given!r}")
        share = number(watermark, f"watermark {watermark!r}")
        if not 0 <= share < 1 or min(most_running, prefill_tokens) < 1:
            raise RequestError(
                f"watermark {watermark}, most_running {most_running}, prefill_tokens {prefill_tokens}; "
                "give a share below 1, and numbers from 1 on"
            )
        if host is not None:
            host.check_pool(cache.pool)
        if host is None:
            self.preempt = "recompute"
        else:
            self.preempt = preempt or (costs.cheaper if costs else "swap")
        self.model, self.cache = model, cache
        self.residency = Residency(cache, host if self.preempt == "swap" else None)
        self.residency.check_empty()
        self.spare = int(watermark * cache.pool.blocks)
        self.most_running, self.prefill_tokens = most_running, prefill_tokens
        self.requests: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.events: list[Event] = []
        self._steps = self._decoded = self._prefilled = self._reused = self._recomputed = 0
        self._seconds = 0.0

    def add(
        self,
        prompt: Many[int],
        most: int,
        stop: Stop = None,
        seed: int | None = None,
        temperature: float = 1.0,
        *,
        stop_text: StopText = None,
        ignore_eos: bool = False,
    ) -> Request:
        """Queues a request for `most` tokens, or up to a stop (`ending_of`); greedy without a seed.

        Raises:
            RequestError: the request could not run even alone, or is none.
        """
        check_request(prompt, most, temperature)
        ending = ending_of(self.model, stop, stop_text, ignore_eos)
        tokens, pool = self.model.checked(prompt).tolist(), self.cache.pool
        needed = blocks_for(len(tokens) + most - 1, pool.block_tokens)
        if needed > pool.blocks:
            raise RequestError(
                f"a prompt of {len(tokens)} and {most} new tokens need {needed} blocks, "
                f"the pool has {pool.blocks}; ask for fewer tokens, or build a larger pool"
            )
        generator = None if seed is None else generator_of(seed)
        request = Request(
            len(self.requests), tokens, most, ending, generator, temperature, Sequence(list(tokens))
        )
        self.requests.append(request)
        self.waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Ends a waiting or running request; the tokens that it has generated stay in `output`.

        Raises:
            RequestError: the request neither waits nor runs here.
        """
        if not isinstance(request, Request):
            raise RequestError(f"{shown(request)} is no request; give what `add` returned")
        if request in self.running:
            self._stop(request, "cancelled")
        elif request in self.waiting:
            self.waiting.remove(request)
            self.events.append(Event(self._steps, "cancelled", request.number))
        else:
            raise RequestError(
                f"request {request.number} neither waits nor runs here: "
                "it is finished, cancelled or another scheduler's"
            )

    def run(self) -> Report:
        """Steps until every request is finished or cancelled."""
        while self.waiting or self.running:
            self.step()
        return self.report()

    def step(self) -> None:
        """Preempts what no longer fits, admits what fits, computes a token of each running request.

        Raises:
            ValueError: the model cannot compute a request (NaN); a note names it. All other
                requests have their token by then. The next step tries again: `cancel` a request
                that keeps failing.
        """
        if not self.waiting and not self.running:
            return
        started = time.perf_counter()
        self._steps += 1
        if not self._preempt_the_newest():
            self._admit()
        self._bring()
        try:
            for request, logits in computed(self.model, self.cache, self.running):
                self._append(request, logits)
        finally:
            for request in self.running:
                self._settle(request)
            for request in [r for r in self.running if r.finished]:
                self._stop(request, "finished")
            self._seconds += time.perf_counter() - started

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
        """Drops the pages kept for later prompts; blocks without a running request are free."""
        self.residency.clear()

    def _fresh(self, request: Request) -> int:
        """Pages that a request needs for its tokens beyond those it has."""
        return blocks_for(len(request.sequence.tokens), self.cache.pool.block_tokens) - len(request.pages)

    def _needed(self) -> int:
        """Different pages that the running requests need in this step."""
        held = {page for request in self.running for page in request.pages}
        return len(held) + sum(self._fresh(request) for request in self.running)

    def _preempt_the_newest(self) -> bool:
        """Preempts until the others fit; returns whether a request was preempted."""
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
        """Admits in order of arrival, without overtaking, while pages and the watermark fit."""
        computing = 0
        while self.waiting and len(self.running) < self.most_running and computing < self.prefill_tokens:
            request = self.waiting[0]
            pages = (
                self.residency.present(request.pages)
                if request.preemptions
                else self.residency.find(request.prompt)
            )
            request.pages = pages
            self.running.append(request)
            spare = self.spare if len(self.running) > 1 else 0
            if self._needed() > self.cache.pool.blocks - spare:
                self.running.pop()
                return
            self.waiting.popleft()
            computing += self._account(request)
            self.events.append(
                Event(self._steps, "resumed" if request.preemptions else "admitted", request.number)
            )

    def _account(self, request: Request) -> int:
        """Counts the known tokens of a request that starts; returns how many it must compute."""
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
        """Brings every page of the running requests into GPU memory; makes tables for new ones."""
        for request in self.running:
            request.pages += [Page() for _ in range(self._fresh(request))]
        self.residency.bring(self._steps, [(request.number, request.pages) for request in self.running])
        for request in self.running:
            if not request.sequence.blocks:
                known = blocks_for(request.computed, self.cache.pool.block_tokens)
                self.residency.attach(request.sequence, request.pages[:known], request.computed)

    def _append(self, request: Request, logits: Tensor) -> None:
        generator = request.generator
        token = int(logits.argmax()) if generator is None else drawn(logits, generator, request.temperature)
        request.sequence.tokens.append(token)
        self._decoded += 1
        output = request.output
        request.finished = len(output) == request.most or request.ending.reached(output)

    def _settle(self, request: Request) -> None:
        self.residency.discard(request.pages[len(request.sequence.blocks) :])
        del request.pages[len(request.sequence.blocks) :]
        self.residency.settle(request.sequence, request.pages)
