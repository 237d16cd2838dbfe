"""The rules of the default engine written a second time, as plainly as they can be: no columns, no compiled
code, every byte a flow on a link. Policies: those whose order has no ties (`KEYS`)."""

from collections import Counter, defaultdict
from itertools import pairwise

from kv_cache_rl.core.precision import LADDER, PRECISIONS
from kv_cache_rl.sim.hierarchy.spec import recompute_seconds

KEYS = {
    "lru": lambda m, p: m.turn[p],
    "fifo": lambda m, p: m.turn[p],
    "lfu": lambda m, p: (m.uses[p], m.last[p]),
    "heavy_hitter": lambda m, p: 10_000 * m.ever[p] + m.last[p],
    "predictive": lambda m, p: 100 * m.ever[p] + m.last[p],
    "windowed_recency": lambda m, p: 1_000_000 * m.lately[-32:].count(p) + m.last[p],
}


class Line:
    """A link: flows up and down, each direction shared equally, both slower while both are busy."""

    def __init__(self, link):
        self.link, self.flows = link, []  # [bytes left, way, whether the request waits for it]

    def run(self, until=float("inf"), waited=False):
        """Seconds until all flows (those waited for, if `waited`) are through, at most `until`."""
        spent = 0.0
        while spent < until and any(not waited or flow[2] for flow in self.flows):
            busy = Counter(flow[1] for flow in self.flows)
            rate = self.link.both_ways if len(busy) == 2 else self.link.one_way
            step = min(min(left * busy[way] / rate for left, way, _ in self.flows), until - spent)
            for flow in self.flows:
                flow[0] -= rate / busy[flow[1]] * step
            self.flows = [flow for flow in self.flows if flow[0] > 1e-9]
            spent += step
        return spent

    def add(self, size, way, waited):
        """Bytes that join the flow of their kind."""
        for flow in self.flows:
            if flow[1:] == [way, waited]:
                flow[0] += size
                return
        if size:
            self.flows.append([float(size), way, waited])


class Hierarchy:
    """Tiers of sets of pages; `parent` for prefix trees."""

    def __init__(self, scenario, policy, sizes, parent=None, block_tokens=16):
        self.scenario, self.policy, self.sizes, self.parent = scenario, policy, sizes, parent
        self.tiers = [set() for _ in scenario.tiers]
        self.lines = [Line(tier.link) for tier in scenario.tiers]
        self.uses, self.ever, self.last, self.turn, self.level = Counter(), Counter(), {}, {}, Counter()
        self.lately, self.pending, self.follow, self.before = [], set(), defaultdict(list), None
        self.now = self.at = self.squeezed = self.loss = 0.0
        self.clock = self.turns = self.moved = 0
        self.count, self.served, self.crossed = Counter(), Counter(), Counter()
        self.latency, self.peak = [], [0] * len(scenario.tiers)
        sums = recompute_seconds(scenario.hardware, block_tokens, len(sizes) + 1)
        self.compute = [later - sooner for sooner, later in pairwise(sums)]

    def where(self, page):
        """The tier a page lies in, None: nowhere."""
        return next((t for t, pages in enumerate(self.tiers) if page in pages), None)

    def bytes(self, page):
        """Bytes of a page now."""
        return self.sizes[page] >> self.level[page]

    def renew(self, page):
        """A page becomes the newest."""
        self.turns += 1
        self.turn[page] = self.turns

    def put(self, tier, page):
        """A page enters a tier."""
        self.tiers[tier].add(page)
        self.renew(page)

    def victim(self, tier):
        """The page that leaves next: the lowest key; in a closed tree one without children in the tier."""
        here = self.tiers[tier]
        closed = self.parent is not None and self.policy != "fifo"
        blocked = {self.parent[page] for page in here} if closed else set()
        return min(here - blocked, key=lambda page: KEYS[self.policy](self, page))

    def make_room(self, tier, need, cause):
        """Evicts until `need` more bytes fit."""
        scenario = self.scenario
        while sum(map(self.bytes, self.tiers[tier])) + need > scenario.tiers[tier].capacity:
            page = self.victim(tier)
            if self.level[page] < LADDER.index(scenario.squeeze):
                before, self.level[page] = self.bytes(page), self.level[page] + 1
                self.squeezed += (before + self.bytes(page)) / scenario.tiers[tier].link.one_way
                self.count["compressions"] += 1
                continue
            self.tiers[tier].remove(page)
            self.count["evictions"] += 1
            if tier == 0 and page in self.pending:
                self.pending.remove(page)
                self.count["wasted"] += 1
            if tier + 1 < len(self.tiers):
                self.make_room(tier + 1, self.bytes(page), cause)
                self.cross(tier + 1, page, "down", cause)
                self.put(tier + 1, page)
            else:
                self.count["drops"] += 1
                self.level[page] = 0

    def cross(self, link, page, way, cause):
        """A page's bytes cross one link."""
        self.crossed[link, way, cause] += self.bytes(page)
        self.lines[link].add(self.bytes(page), way, way == "up" and cause == "demand")

    def climb(self, tier, page, cause):
        """A page's bytes come up to the fastest tier."""
        for link in range(1, tier + 1):
            self.cross(link, page, "up", cause)

    def remember(self, page, tier):
        """What policies know of an access."""
        self.clock += 1
        self.ever[page] += 1
        self.uses[page] = 1 if tier is None else self.uses[page] + 1
        self.last[page] = self.clock
        self.lately.append(page)

    def fetch(self, page, tier, depth):
        """(seconds of compute, first byte, whether it was computed) of a page not in the fastest tier."""
        tiers, fast = self.scenario.tiers, self.scenario.tiers[0]
        compute = self.compute[depth] + self.sizes[page] / fast.link.one_way
        if tier is None:
            return compute, fast.write_s, True
        path = tiers[1 : tier + 1]
        first = tiers[tier].read_s + fast.write_s + sum(step.link.latency_s for step in path)
        load = first + self.bytes(page) / min(step.link.one_way for step in path)
        if self.scenario.recompute and compute + fast.write_s < load:
            self.count["recomputed"] += 1
            return compute, fast.write_s, True
        self.climb(tier, page, "demand")
        return 0.0, first, False

    def read(self, page):
        """Seconds of a read in the fastest tier, and its loss."""
        self.loss += PRECISIONS[LADDER[self.level[page]]].loss[self.scenario.work_class]
        return self.scenario.tiers[0].read_s + self.bytes(page) / self.scenario.tiers[0].link.one_way

    def request(self, path):
        """One request: a path, or a single page of a page trace."""
        for line in self.lines[1:]:
            line.run(self.now - self.at)
        self.at = self.now
        places = [self.where(page) for page in path]
        found = next((i for i, tier in enumerate(places) if tier is None), len(path))
        compute = first = read = 0.0
        for depth in reversed(range(len(path))):
            page, lies = path[depth], places[depth]
            tier = lies if depth < found else None
            self.remember(page, lies)
            self.served[tier] += 1
            if page in self.pending:
                self.pending.remove(page)
                self.count["useful"] += 1
            if tier != 0:
                seconds, wait, computed = self.fetch(page, tier, depth)
                compute, first = compute + seconds, max(first, wait)
                if lies:  # neither nowhere nor in the fastest tier
                    self.tiers[lies].remove(page)
                    self.level[page] = 0 if computed else self.level[page]
            read += self.read(page)
            if lies == 0:
                if self.policy == "lru":
                    self.renew(page)
                continue
            lands = lies - 1 if self.scenario.promotion == "step" and lies and not computed else 0
            if self.parent is None:
                self.make_room(lands, self.bytes(page), "demand")
            self.put(lands, page)
        self.make_room(0, 0, "demand")
        if self.scenario.prefetch and self.policy == "predictive" and self.parent is None:
            self.foresee(path[0])
        finish = max((line.run(waited=self.scenario.overlap) for line in self.copies()), default=0.0)
        for line in self.lines[1:]:
            line.run(finish)
        self.at = self.now + finish
        self.latency.append(compute + first + read + finish + self.squeezed)
        self.squeezed = 0.0
        self.now += self.latency[-1] + self.scenario.compute_s
        self.peak = [
            max(peak, sum(map(self.bytes, pages))) for peak, pages in zip(self.peak, self.tiers, strict=True)
        ]

    def copies(self):
        """The links as they are, to look ahead on."""
        for line in self.lines[1:]:
            copy = Line(line.link)
            copy.flows = [list(flow) for flow in line.flows]
            yield copy

    def foresee(self, page):
        """Learns which page follows which (four successors each) and brings the likeliest to the top."""
        if self.before is not None:
            known = self.follow[self.before]
            mine = next((entry for entry in known if entry[0] == page), None)
            if mine:
                mine[1] += 1
            elif len(known) < 4:
                known.append([page, 1])
            else:
                weakest = min(known, key=lambda entry: entry[1])
                weakest[1] -= 1
                if weakest[1] == 0:
                    weakest[:] = page, 1
        self.before = page
        best = sorted(self.follow[page], key=lambda entry: -entry[1])[: self.scenario.max_prefetch]
        for candidate in [name for name, count in best if count >= 2]:
            tier = self.where(candidate)
            if tier:
                self.climb(tier, candidate, "prefetch")
                self.tiers[tier].remove(candidate)
                self.make_room(0, self.bytes(candidate), "prefetch")
                self.put(0, candidate)
                self.pending.add(candidate)
                self.count["prefetches"] += 1
