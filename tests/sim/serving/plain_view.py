"""What an agent sees of the plain server, and what it is paid: a second time, as plainly as they can be."""

from statistics import fmean, pstdev

from plain_serving import ACTIONS, CLASSES

from kv_cache_rl.sim.serving.score import TERM_WEIGHTS
from kv_cache_rl.theory import flow as theory


def mask(server):
    """1 for each action that would not be refused."""
    return [int(server.target(action) is not None) for action in range(ACTIONS)]


def observation(server, flow):
    """The 24 numbers; the last three by the theory's own estimates (`flow`)."""
    capacity, horizon = server.scenario.gpu_blocks, 500 * server.nominal
    pages, free = server.scenario.cpu_blocks, server.gpu_free
    numbers = [
        1 - free / capacity,
        1 - server.cpu_free / pages if pages else 0.0,
        (server.past[-1] - server.past[0]) / capacity,
    ]
    caps, limits = (
        (server.scenario.queue_free, server.scenario.queue_vip),
        (server.scenario.sla_free, server.scenario.sla_vip),
    )
    numbers += [len(queue) / cap for queue, cap in zip(server.queues, caps, strict=True)]
    for queue, limit in zip(server.queues, limits, strict=True):
        longest = max((server.clock - r.since for r in queue), default=0)
        numbers.append(longest / (horizon if limit is None else max(1, round(limit * server.nominal))))
    numbers.append(max((r.blocks for r in server.running if r.where == "gpu"), default=0) / capacity)
    idle = [server.caches("gpu", vip) for vip in CLASSES]
    for caches in idle:
        numbers += three([r.blocks / capacity for r in caches])
    for caches in idle:
        numbers += three([(server.clock - r.since) / horizon for r in caches])
    now = server.clock / 1e6
    numbers.append(server.carried / server.lasted)
    numbers.append(theory.arrival_rate(flow, now) / (2 * server.service_rate))
    numbers.append(theory.utilisation(flow, now, capacity) / 2)
    active = capacity - free - sum(r.blocks for caches in idle for r in caches)
    active -= sum(r.blocks for r in server.requests if r.where == "leaving")
    numbers.append((free - theory.blocks_to_keep_free(flow, now, capacity, active)) / capacity)
    return [min(max(number, -1.0 if i in (2, 23) else 0.0), 1.0) for i, number in enumerate(numbers)]


def three(values):
    """Largest, mean, standard deviation."""
    return [max(values), fmean(values), pstdev(values)] if values else [0.0, 0.0, 0.0]


def inform(flow, server):
    """Tells the rate estimates what the server heard since the last time."""
    for what, at, *service in server.heard:
        if what == "arrive":
            theory.arrive(flow, at / 1e6)
        else:
            theory.complete(flow, at / 1e6, service[0] / 1e6, float(service[1]))
    server.heard.clear()


def paid(server):
    """Weighted sum of all terms so far."""
    units = dict(server.terms, memory_pressure=server.terms["memory_pressure"] / server.nominal)
    return sum(weight * units.get(name, 0) for name, weight in TERM_WEIGHTS.items())
