"""vLLM's scheduler in plain Python, over its block pool: the rules once more, written otherwise.

Source: vLLM 0.32, v1/core/sched/scheduler.py and v1/core/kv_cache_manager.py.
"""

from block_pool import BlockPool

from kv_cache_rl.core.blocks import blocks_for


class Request:
    def __init__(self, ask, size):
        self.ask, self.made, self.computed, self.blocks, self.cached = ask, 0, 0, [], 0
        full = (ask.prompt + ask.output) // size
        # What has no number of its own can be found by none but this very request.
        self.path = [*ask.content, *((id(self), at) for at in range(len(ask.content), full))]

    @property
    def tokens(self):
        return self.ask.prompt + self.made


class PlainServer:
    def __init__(self, asks, rules):
        self.rules, self.size = rules, rules.block_tokens
        self.pool = BlockPool(rules.blocks + 1)
        self.all = [Request(ask, self.size) for ask in asks]
        self.coming, self.waiting, self.running = list(self.all), [], []
        self.over, self.preempted, self.now = set(), 0, 0

    def steps(self):
        """(step, running, waiting, free blocks, preemptions so far) of each step until all are over."""
        while len(self.over) < len(self.all):
            if not self.running and not self.waiting:
                self.now = max(self.now, self.coming[0].ask.step)
            for one in list(self.coming):
                if one.ask.step <= self.now and (one.ask.after < 0 or self.all[one.ask.after] in self.over):
                    self.coming.remove(one)
                    self.waiting.append(one)
            self.step()
            yield self.now, len(self.running), len(self.waiting), len(self.pool.free), self.preempted
            self.now += 1

    def step(self):
        budget, worked = self.rules.token_budget, []
        several = len(self.running) + len(self.waiting) > 1
        most = self.rules.long_prefill if several and self.rules.long_prefill else budget
        preempted = False
        for one in list(self.running):
            if one not in self.running or not budget:
                break
            new = min(one.tokens - one.computed, most, budget)
            while self.need(one, one.computed + new) > len(self.pool.free):
                victim = self.running.pop()
                self.let_go(victim)
                victim.computed, preempted, self.preempted = 0, True, self.preempted + 1
                self.waiting.insert(0, victim)
                if victim is one:
                    break
            if one not in self.running:
                break
            self.take(one, one.computed + new)
            worked.append((one, new))
            budget -= new
        while not preempted and self.waiting and budget and len(self.running) < self.rules.most_running:
            one = self.waiting[0]
            limit = (one.tokens - 1) // self.size if self.rules.prefix_caching else 0
            found = self.pool.find(one.path, limit)
            computed = len(found) * self.size
            new = min(one.tokens - computed, most, budget)
            idle = sum(self.pool.references[block] == 0 for block in found)
            room = len(self.pool.free) - idle - (self.rules.watermark if self.running else 0)
            until = one.tokens if self.rules.whole_prompt else computed + new
            if blocks_for(max(until, computed + new), self.size) - len(found) > room:
                break
            self.waiting.pop(0)
            self.running.append(one)
            self.pool.touch(found)
            one.blocks, one.cached, one.computed = list(found), len(found), computed
            self.take(one, computed + new)
            worked.append((one, new))
            budget -= new
        for one, new in worked:
            one.computed += new
            if one.computed == one.tokens:
                one.made += 1
                if one.made == one.ask.output:
                    self.let_go(one)
                    self.running.remove(one)
                    self.over.add(one)

    def need(self, one, tokens):
        return blocks_for(tokens, self.size) - len(one.blocks)

    def take(self, one, tokens):
        one.blocks += self.pool.take(self.need(one, tokens))
        if self.rules.prefix_caching:
            for at in range(one.cached, tokens // self.size):
                self.pool.cache(one.blocks[at], one.path[at])
            one.cached = max(one.cached, tokens // self.size)

    def let_go(self, one):
        self.pool.let_go(one.blocks)
        one.blocks, one.cached = [], 0
