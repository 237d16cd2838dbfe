"""Hand-made traffic, players, and a compiled server held to the plain one decision by decision."""

import random

import numpy as np
from plain_serving import Server
from plain_view import inform, mask, observation, paid

from kv_cache_rl.sim.serving.audit import check, members
from kv_cache_rl.sim.serving.columns import ROW
from kv_cache_rl.sim.serving.demand import Lengths, Traffic
from kv_cache_rl.sim.serving.dynamics import act, declared_flow, new_state
from kv_cache_rl.sim.serving.observe import look, new_view
from kv_cache_rl.sim.serving.spec import task

STATUS = ("future", "queued", "active", "finished", "dropped", "rejected")
WHERE = ("nowhere", "gpu", "leaving", "cpu", "entering")
NOTHING = 17


def users(*turns, tick_us=20_000, ticks=1_000, service_rate=10.0):
    """Traffic of these turns (arrival, prompt, output[, vip, power, parent, history]); sorted by arrival
    already.
    """
    rows = [(*turn, *(0, 0, -1, 0)[len(turn) - 3 :]) for turn in turns]
    table = np.array(rows, np.int64).reshape(-1, 7)
    return Traffic(
        table=table,
        user=np.arange(len(table)),
        turn=np.zeros(len(table), np.int64),
        tick_us=tick_us,
        end_us=ticks * tick_us,
        arrival_rate=1.0,
        service_rate=service_rate,
        rho=0.1,
        binding="memory",
        lengths=Lengths(1.0, 1.0, 1.0, 1.0),
    )


def serve(load, ticks=1_000, **settings):
    """A server with this traffic instead of drawn users."""
    return new_state(task("easy", ticks=ticks, **settings), 0, load)


def crowd(rng, ticks=200, tick_us=20_000, longest=60, number=40):
    """Traffic of random users who return, sometimes before they are answered."""
    turns = []  # (arrival, prompt, output, vip, power, turn before, history)
    for _ in range(rng.randint(1, number)):
        arrival, before, vip, power = (
            rng.randrange(ticks * tick_us),
            None,
            rng.random() < 0.4,
            rng.random() < 0.2,
        )
        history = 0
        while arrival < ticks * tick_us and history + 2 <= longest:
            prompt = history + rng.randint(1, max(1, (longest - history) // 2))
            output = rng.randint(1, max(1, longest - prompt))
            turns.append((arrival, prompt, output, int(vip), int(power), before, history))
            before = turns[-1]
            # A trace may tell less of the history than there was.
            history = prompt + output if rng.random() < 0.8 else rng.randint(0, prompt + output)
            arrival += 1 + int(rng.expovariate(1 / (60 * tick_us)))
            if rng.random() < 0.3:
                break
    turns.sort(key=lambda turn: turn[0])
    row = {id(turn): index for index, turn in enumerate(turns)}
    return users(
        *((*turn[:5], -1 if turn[5] is None else row[id(turn[5])], turn[6]) for turn in turns),
        tick_us=tick_us,
        ticks=ticks,
        service_rate=rng.choice((0.5, 5.0, 50.0)),
    )


class Face:
    """A state with its view: `act` returns the reward."""

    def __init__(self, state):
        self.state, (self.seen, self.mask) = state, new_view()
        look(*state.buffers, self.seen, self.mask)

    def act(self, action):
        return act(*self.state.buffers, self.seen, self.mask, action)

    def row(self, index):
        """What became of one request, by name."""
        return dict(zip(ROW.names, self.state.columns.rows[index].tolist(), strict=True))

    @property
    def clock(self):
        return int(self.state.columns.book["clock_us"])

    @property
    def ticks(self):
        return int(self.state.columns.book["ticks"])

    def used(self, pool):
        return int(self.state.columns.book["pools"][pool, 1])

    def until(self, done, action=NOTHING, most=10_000):
        """Takes the same decision until `done(self)`."""
        for _ in range(most):
            if done(self):
                return self
            self.act(action)
        raise AssertionError(f"not so after {most} decisions")


NAMES = ROW.names[: ROW.names.index("found") + 1]
"""What the plain server keeps of a request; the rest links rows into lists."""


class Pair:
    """The same server twice, compiled and plain."""

    def __init__(self, state):
        self.face, self.plain = Face(state), Server(state.scenario, state.load)
        self.flow, self.reward, self.paid = declared_flow(state.scenario, state.load), 0.0, 0.0
        self.entered = set()  # rows seen on their way from the CPU
        self.compare()

    def act(self, action):
        """One decision of both."""
        ticks = self.plain.ticks
        self.reward = self.face.act(action)
        self.plain.decide(action)
        self.entered |= {r.row for r in self.plain.running if r.where == "entering"}
        self.compare(rows=self.plain.ticks != ticks)

    def compare(self, rows=True):
        """Raises AssertionError where they differ."""
        columns, plain = self.face.state.columns, self.plain
        book = columns.book
        if rows:
            check(self.face.state)
        before, self.paid = self.paid, paid(plain)
        inform(self.flow, plain)
        assert self.face.state.done == plain.done and self.face.state.crashed == plain.crashed
        assert (self.face.clock, self.face.ticks) == (plain.clock, plain.ticks)
        free = [int(capacity - used) for capacity, used in book["pools"]]
        assert free == [plain.gpu_free, plain.cpu_free]
        assert min(free) >= 0
        assert abs(self.reward - (self.paid - before)) < 1e-6 * max(1.0, self.paid)
        queues = [members(columns, "queues", vip) for vip in range(2)]
        assert queues == [[r.row for r in queue] for queue in plain.queues]
        idle = [members(columns, "idle", vip) for vip in range(2)]
        assert idle == [[r.row for r in plain.caches("gpu", vip)] for vip in range(2)]
        assert columns.running[: book["serving"]].tolist() == [r.row for r in plain.running]
        if rows:
            rows = columns.rows.copy()
            rows["ended"] = np.maximum(rows["ended"], 0)  # -1 marks a turn whose cache will not be used
            assert rows[list(NAMES)].tolist() == [account(r) for r in plain.requests]
        assert self.face.mask.tolist() == mask(plain)
        seen, expected = self.face.seen.tolist(), observation(plain, self.flow)
        assert all(abs(a - b) < 2e-6 for a, b in zip(seen, expected, strict=True)), (seen, expected)


def account(r):
    """A plain request as the columns write it."""
    counts = (r.blocks, r.pages, r.tokens, r.made, r.high, r.since, r.waited, r.served, r.first, r.ended)
    return (STATUS.index(r.status), WHERE.index(r.where), *counts, -1 if r.found is None else r.found)


def bytes_of(state):
    """Every byte of a state."""
    return [buffer.tobytes() for buffer in state.buffers]


def player(rng, wild=None):
    """choose(mask): random decisions, some illegal; each player has its own tastes, and most let requests
    finish.
    """
    wild = rng.random() < 0.3 if wild is None else wild
    taste = [rng.random() ** 3 + 1e-3 for _ in range(17)]
    taste[8] = taste[9] = 1.0
    taste[10:16] = [weight * 0.2 for weight in taste[10:16]]
    if not wild:
        taste[:8] = [weight * rng.choice((0.02, 0.2, 2.0)) for weight in taste[:8]]
        taste[10:16] = [weight * rng.choice((0.0, 0.005, 0.05)) for weight in taste[10:16]]
    idle, illegal = rng.choice((0.1, 0.4, 0.8)), 0.1 if wild else 0.02

    def choose(allowed):
        if rng.random() < illegal:
            return rng.choice(
                [action for action in range(-1, 19) if not (0 <= action < 18 and allowed[action])]
            )
        able = [action for action in range(17) if allowed[action] and taste[action] > 0]
        if not able or rng.random() < idle:
            return NOTHING
        return rng.choices(able, [taste[action] for action in able])[0]

    return choose


def serve_all(allowed):
    """Admits what fits, VIP first; makes room with the oldest caches where a request does not; else rests."""
    waits = allowed[10] or allowed[11]
    wanted = (9, 8, 2, 3) if waits else ()
    return next((action for action in wanted if allowed[action]), NOTHING)


def rng_of(seed):
    """A generator."""
    return random.Random(seed)
