"""Requests of the plain server, and the link their KV crosses."""

import math

from kv_cache_rl.core.geometry import MODELS, bytes_per_token
from kv_cache_rl.core.hardware import HARDWARE, LINKS


class Request:
    """One turn of a user: what it asks for, and what became of it."""

    def __init__(self, row, arrival, prompt, output, vip, power, history):
        self.row, self.arrival, self.prompt, self.output = row, arrival, prompt, output
        self.vip, self.power, self.history = vip, power, history
        self.parent, self.children = None, []
        self.status, self.where = "future", "nowhere"
        self.blocks = self.pages = self.tokens = self.made = self.high = 0
        self.since = self.waited = self.served = self.first = self.ended = 0
        self.found = None

    @property
    def target(self):
        """Tokens of KV it needs before it can decode."""
        return self.prompt + self.made

    @property
    def decodes(self):
        """Whether its next step is a token."""
        return self.where == "gpu" and self.tokens == self.target

    def lose_kv(self):
        """Its KV is nowhere any more."""
        self.where, self.blocks, self.pages, self.tokens = "nowhere", 0, 0, 0

    def land(self, lane):
        """Its transfer has ended."""
        if lane == "out":
            self.where, self.blocks = "cpu", 0
        else:
            self.where, self.pages = "gpu", 0


def requests_of(table):
    """The rows of a traffic table as linked objects."""
    requests = [Request(row, *values[:5], values[6]) for row, values in enumerate(table.tolist())]
    for request, parent in zip(requests, table[:, 5].tolist(), strict=True):
        if parent >= 0:
            request.parent = requests[parent]
            requests[parent].children.append(request)
    return requests


class Link:
    """Two lanes between GPU and CPU, each first come first served."""

    def __init__(self, scenario):
        profile = HARDWARE[scenario.hardware]
        link = LINKS[profile.link]
        self.block_bytes = int(bytes_per_token(MODELS[scenario.model])) * scenario.block_tokens
        self.one_way = round(link.one_way * profile.links / 1e6)  # bytes per microsecond
        self.both_ways = round(link.both_ways * profile.links / 1e6)
        self.latency = round(link.latency_s * 1e6) * self.one_way
        self.lanes = {"out": [], "in": []}  # of [request, bytes yet to cross]

    def send(self, lane, request):
        """Its pages queue up on a lane."""
        self.lanes[lane].append([request, request.pages * self.block_bytes + self.latency])

    def move(self, microseconds):
        """Carries bytes for so long; how many of these microseconds a lane was busy.

        Each transfer takes whole ones.
        """
        spent = 0
        while any(self.lanes.values()) and spent < microseconds:
            busy = [(name, lane) for name, lane in self.lanes.items() if lane]
            rate = self.both_ways if len(busy) == 2 else self.one_way
            step = min(microseconds - spent, *(math.ceil(lane[0][1] / rate) for _, lane in busy))
            spent += step
            for name, lane in busy:
                lane[0][1] -= rate * step
                if lane[0][1] <= 0:
                    lane.pop(0)[0].land(name)
        return spent

    def inbound_wait(self):
        """Microseconds until the next return has landed, at the rate of this moment."""
        rate = self.both_ways if self.lanes["out"] else self.one_way
        return math.ceil(self.lanes["in"][0][1] / rate) if self.lanes["in"] else math.inf
