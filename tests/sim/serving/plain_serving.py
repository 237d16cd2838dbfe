"""The rules of the serving world written a second time, as plainly as they can be: objects and lists, nothing
compiled.
"""

import math
from collections import Counter

from plain_request import Link, requests_of

from kv_cache_rl.core.blocks import blocks_for
from kv_cache_rl.core.hardware import HARDWARE, prefill_microseconds

FREE, VIP = 0, 1
CLASSES = (FREE, VIP)
ACTIONS = 18
NOTHING = 17


class Server:
    """Two queues, those in service in order of admission, idle caches in order of becoming idle, two lanes of
    a link.
    """

    def __init__(self, scenario, load):
        self.scenario, self.nominal, self.service_rate = scenario, load.tick_us, load.service_rate
        self.requests = requests_of(load.table)
        self.future = list(self.requests)
        self.queues, self.running, self.finished = ([], []), [], []
        self.link = Link(scenario)
        profile = HARDWARE[scenario.hardware]
        self.fixed = round(profile.decode_fixed_s * 1e6)
        self.per_kv = round(profile.decode_per_kv_token_s * 1e12)
        self.c1, self.c2 = round(profile.prefill_c1_s * 1e9), round(profile.prefill_c2_s * 1e12)
        self.clock = self.ticks = self.decisions = self.streak = 0
        self.lasted, self.carried = (
            1,
            0,
        )  # microseconds of the last tick, and of it those in which a lane was busy
        self.done, self.crashed = False, ""
        self.past = [0] * 6  # blocks in use at the ends of the last ticks
        self.terms = Counter()  # units of each reward term
        # What reached the rate estimates: ("arrive", seconds) or ("complete", seconds, service, blocks).
        self.heard = []
        self.arrive()

    def sla(self, request):
        """Microseconds its class may wait."""
        ticks = self.scenario.sla_vip if request.vip else self.scenario.sla_free
        return math.inf if ticks is None else round(ticks * self.nominal)

    @property
    def holders(self):
        """All that may hold memory."""
        return [
            r
            for r in (*self.running, *self.finished, *self.queues[FREE], *self.queues[VIP])
            if r.where != "nowhere"
        ]

    @property
    def gpu_free(self):
        return self.scenario.gpu_blocks - sum(r.blocks for r in self.holders)

    @property
    def cpu_free(self):
        return self.scenario.cpu_blocks - sum(r.pages for r in self.holders)

    def caches(self, where, vip):
        """Finished requests of a class whose KV is there, first idle first."""
        return [r for r in self.finished if r.where == where and r.vip == vip]

    def size(self, tokens):
        """Blocks of so many tokens."""
        return blocks_for(tokens, self.scenario.block_tokens)

    def target(self, action):
        """What an action is about, None where there is nothing to do it to."""
        if action == NOTHING:
            return "time"
        if action == 16:
            old = [r for r in self.caches("cpu", FREE) if self.clock - r.since > 200 * self.nominal]
            return old or None
        vip = action % 2
        if action < 8:
            idle = self.caches("gpu", vip)
            largest = action in (0, 1, 4, 5)
            found = None if not idle else max(idle, key=lambda r: r.blocks) if largest else idle[0]
            return self.if_it_fits_below(found) if action >= 4 else found
        if action < 12:
            head = self.queues[vip][0] if self.queues[vip] else None
            if head is None or (action >= 10 and head.where == "leaving"):
                return None
            return head if action >= 10 or self.would_fit(head) else None
        active = [r for r in self.running if r.where == "gpu" and r.vip == vip]
        found = max(reversed(active), key=lambda r: r.blocks) if active else None
        return self.if_it_fits_below(found) if action >= 14 else found

    def if_it_fits_below(self, request):
        """The request if the CPU has room for its blocks."""
        return request if request is not None and self.cpu_free >= request.blocks else None

    def decide(self, action):
        """One decision, and the tick if it was the last of it; no such action, no target, or all over:
        nothing happens.
        """
        if self.done:
            return
        target = self.target(action) if 0 <= action < ACTIONS else None
        self.decisions += 1
        if target is None:
            pass
        elif action == 16:
            for request in target:
                request.lose_kv()
        elif action < 4:
            target.lose_kv()
        elif action < 8:
            self.leave(target)
        elif action < 10:
            self.admit(target)
        elif action < 12:
            self.reject(target)
        elif action < 16:
            self.preempt(target, swap=action >= 14)
        if action == NOTHING or self.decisions == self.scenario.actions_per_tick:
            self.decisions = 0
            self.tick()

    def leave(self, request):
        """Its blocks begin to cross to the CPU."""
        request.where, request.pages = "leaving", request.blocks
        self.link.send("out", request)
        self.terms["swap_traffic"] += request.pages

    def reject(self, request):
        """The head of a queue is turned away."""
        self.terms["rejected"] += 2 if self.would_fit(request) else 1
        self.queues[request.vip].remove(request)
        request.status = "rejected"
        request.lose_kv()

    def preempt(self, request, swap):
        """One in service returns to the front of its queue."""
        self.running.remove(request)
        self.queues[request.vip].insert(0, request)
        request.status, request.since = "queued", self.clock
        if swap:
            self.leave(request)
        else:
            request.lose_kv()

    def cache_of(self, request):
        """(cache a return would use, or None, tokens of it) of one that was never admitted."""
        shared, ancestor = request.history, request.parent
        while ancestor is not None and request.found is None:
            if ancestor.status == "finished" and ancestor.where != "nowhere":
                return ancestor, min(shared, ancestor.tokens, request.prompt - 1)
            shared, ancestor = min(shared, ancestor.history), ancestor.parent
        return None, 0

    def blocks_needed(self, request):
        """Blocks it takes at admission: room for the next token too."""
        return self.size(request.target + 1)

    def would_fit(self, request):
        """Whether it could be admitted now."""
        need, room = self.blocks_needed(request), self.gpu_free
        if request.where == "leaving":
            return False
        cache, _ = self.cache_of(request)
        if cache is not None:
            if cache.where == "leaving":
                return False
            room += cache.blocks
        return need <= room and (
            self.scenario.admission == "optimistic" or self.all_can_finish(request, room)
        )

    def all_can_finish(self, request, room):
        """Whether everyone in service and `request`, each growing by a token an iteration and counted one
        block too large, fits until the last of them is done, if each frees its blocks when it is."""
        rows = [*self.running, request]
        room += sum(r.blocks for r in self.running)
        for t in [self.iterations_left(r) for r in rows]:
            use = sum(r.target + t + self.scenario.block_tokens for r in rows if self.iterations_left(r) >= t)
            if use > room * self.scenario.block_tokens:
                return False
        return True

    def iterations_left(self, request):
        """Iterations it takes to the end if the whole budget is its own."""
        return (
            request.output
            - request.made
            + math.ceil((request.target - request.tokens) / self.scenario.token_budget)
        )

    def admit(self, request):
        """The head of its queue enters service."""
        need = self.blocks_needed(request)
        self.queues[request.vip].remove(request)
        self.running.append(request)
        request.waited += self.clock - request.since
        request.status, request.since = "active", self.clock
        cache, reuse = self.cache_of(request)
        if request.where == "nowhere":
            request.where, request.tokens = "gpu", reuse
            if cache is not None:
                request.pages = min(self.size(reuse), cache.pages)
                cache.lose_kv()
        if request.pages:
            request.where = "entering"
            self.link.send("in", request)
            self.terms["swap_traffic"] += request.pages
        request.found = reuse if request.found is None else request.found
        request.blocks = need

    def tick(self):
        """One engine iteration, and what happens until it ends."""
        heads = [queue[0] for queue in self.queues if queue]
        pressed = not all(self.would_fit(head) for head in heads)
        micros, progressed = self.iterate()
        if self.done:
            return
        self.lasted = micros if progressed else min(self.nominal, max(1, self.link.inbound_wait()))
        self.ticks += 1
        self.clock += self.lasted
        self.terms["memory_pressure"] += self.lasted if pressed else 0
        self.carried = self.link.move(self.lasted)
        for request in list(self.running):
            self.settle(request)
        self.finished = [r for r in self.finished if r.where != "nowhere"]
        self.arrive()
        self.close()

    def iterate(self):
        """(microseconds, how many got something) of one pass over those in service, oldest first."""
        decoding = [r for r in self.running if r.decodes]
        budget = max(0, self.scenario.token_budget - len(decoding))
        decoding = decoding[: self.scenario.token_budget]
        progressed = micros = read = 0
        for request in list(self.running):
            if request in decoding and self.grow(request):
                request.made, request.tokens = request.made + 1, request.tokens + 1
                read += request.tokens
                progressed += 1
            elif self.done:
                break
            elif (
                request not in decoding
                and request.where == "gpu"
                and request.tokens < request.target
                and budget
            ):
                n = min(budget, request.target - request.tokens)
                micros += prefill_microseconds(n, request.tokens, self.c1, self.c2)
                request.tokens += n
                budget -= n
                progressed += 1
        return self.fixed + micros + read * self.per_kv // 1_000_000, progressed

    def grow(self, request):
        """Whether it has room for one more token, be it at the cost of the newest."""
        while request.status == "active" and self.size(request.tokens + 1) > request.blocks:
            if self.gpu_free:
                request.blocks += 1
            elif self.scenario.strict:
                self.done, self.crashed = True, "no block for decode growth"
                return False
            else:
                newest = [r for r in self.running if r.where == "gpu"][-1]
                self.terms["forced_preemption"] += 1
                self.preempt(newest, swap=False)
        return request.status == "active"

    def settle(self, request):
        """Books what one in service got in a tick, what it inherited included; it may be done."""
        if request.where != "gpu":
            return
        if request.tokens > request.high:
            self.terms["tokens_served"] += request.tokens - request.high
            request.high = request.tokens
            request.served += self.lasted
        if request.made and not request.first:
            request.first = self.clock
        if request.made < request.output:
            return
        self.running.remove(request)
        request.status, request.ended, request.since = "finished", self.clock, self.clock
        self.terms["completed_in_sla" if request.waited <= self.sla(request) else "sla_missed"] += 1
        self.heard.append(
            ("complete", self.clock, self.clock - request.arrival - request.waited, request.blocks)
        )
        self.finished.append(request)
        if not self.scenario.reuse or self.superseded(request):
            request.lose_kv()

    def superseded(self, request):
        """Whether a later turn of the user was ever admitted."""
        return any(child.found is not None or self.superseded(child) for child in request.children)

    def arrive(self):
        """Who has come by now enters a queue or is dropped."""
        caps = self.scenario.queue_free, self.scenario.queue_vip
        while self.future and self.future[0].arrival <= self.clock:
            request = self.future.pop(0)
            self.heard.append(("arrive", request.arrival))
            if len(self.queues[request.vip]) >= caps[request.vip]:
                request.status = "dropped"
                self.terms["dropped"] += 1
            else:
                request.status, request.since = "queued", request.arrival
                self.queues[request.vip].append(request)

    def close(self):
        """Books the end of a tick, and whether it is the end of all."""
        scenario = self.scenario
        self.past = self.past[1:] + [scenario.gpu_blocks - self.gpu_free]
        full = len(self.queues[FREE]) >= scenario.queue_free and len(self.queues[VIP]) >= scenario.queue_vip
        self.streak = self.streak + 1 if full and self.gpu_free * 100 < scenario.gpu_blocks else 0
        if self.streak == 50:
            self.done, self.crashed = True, "queues full and no memory"
        if self.clock >= scenario.ticks * self.nominal:
            self.done = True
