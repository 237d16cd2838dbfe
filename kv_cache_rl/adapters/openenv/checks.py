"""What the grader looks at: each check plays sessions of a running server, and says what it found."""

import json
import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from kv_cache_rl.adapters.openenv.plays import BEST_RULE, Play, World, played_here
from kv_cache_rl.adapters.openenv.socket import Session, Told, Unreachable, read
from kv_cache_rl.core.errors import Refused

STEPS = 4
"""Steps of a session that is looked at for its own sake."""
MOST_SESSIONS = 4_096
"""Sessions that are opened at most to fill a server."""
FREE_WITHIN_S = 20.0
"""How long a server may take to notice that a client is gone."""


class Failed(Refused):
    """A check that did not pass; the text says what was found instead."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server and what it has to be."""

    url: str
    name: str
    world: World
    sessions: int
    idle_s: float | None
    """After how long a silent session has to be closed; None: not looked at."""


def held(condition: bool, text: str) -> None:
    """Raises Failed with the text unless the condition holds."""
    if not condition:
        raise Failed(text)


def contract(server: Server) -> str:
    """A reset without a reward, rewards in their range, an episode's id and steps as they were."""
    low, high = server.world.reward
    with Session(server.url) as session:
        begun = session.reset(episode_id="graded", seed=1)
        held(
            not begun["done"] and begun["reward"] is None,
            f"a reset gave reward {begun['reward']}, done {begun['done']}",
        )
        for steps in range(1, STEPS + 1):
            found = session.step(server.world.nothing)
            reward = found["reward"]
            held(
                isinstance(reward, int | float) and low <= reward <= high,
                f"a reward is {reward}, outside {low} to {high}",
            )
            state = session.state()
            held((state["episode_id"], state["step_count"]) == ("graded", steps), f"the state is {state}")
    return f"rewards from {low:g} to {high:g}, the state counts steps"


def tasks(server: Server) -> str:
    """The committed splits, and a reset to the first and last of each."""
    all_ids = {split: server.world.tasks.ids(split) for split in server.world.tasks.splits}
    with Session(server.url) as session:
        for split, ids in all_ids.items():
            for index in (0, len(ids) - 1):
                session.reset(split=split, index=index)
                state = session.state()
                held(state["task"] == ids[index], f"{split} {index} is {state['task']}, not {ids[index]}")
    return ", ".join(f"{len(ids):,} {split}" for split, ids in all_ids.items())


def returned(session: Session, play: Play, low: float, high: float) -> float:
    """A play's sum of rewards on a server. Raises Failed where it does not end with its last action."""
    session.reset(**play.reset)
    total = 0.0
    for at, action in enumerate(play.actions):
        found = session.step(action)
        total += found["reward"]
        held(
            low <= found["reward"] <= high, f"{play.by}: reward {found['reward']} is outside {low} to {high}"
        )
        last = at == len(play.actions) - 1
        held(
            found["done"] == last,
            f"{play.by}: done is {found['done']} after {at + 1} of {len(play.actions)} actions",
        )
    return total


def as_known(server: Server, by: str) -> list[float]:
    """The scores of one player on the graded tasks. Raises Failed where the server gives another return."""
    plays = {task: played_here(server.name, by, task) for task in server.world.graded}
    with Session(server.url) as session:
        for task, play in plays.items():
            total = returned(session, play, *server.world.reward)
            held(
                math.isclose(total, play.total, rel_tol=1e-9, abs_tol=1e-9),
                f"{by} on {task}: the server's return is {total}, a replay's {play.total}",
            )
    return [play.score for play in plays.values()]


def oracle(server: Server) -> str:
    """The oracle's actions come to what they come to in a replay, and it is above the floor."""
    best, floor = as_known(server, server.world.oracle), as_known(server, BEST_RULE)
    gaps = [one - other for one, other in zip(best, floor, strict=True)]
    held(
        min(gaps) >= server.world.margin,
        f"the oracle is {min(gaps):.4f} above the floor, not {server.world.margin}",
    )
    return (
        f"scores {', '.join(f'{one:.3f}' for one in best)}; floor {', '.join(f'{one:.3f}' for one in floor)}"
    )


def canaries(server: Server) -> str:
    """Each canary stays at or below the floor."""
    floor = as_known(server, BEST_RULE)
    highest = -math.inf
    for name in server.world.canaries:
        for score, limit, task in zip(as_known(server, name), floor, server.world.graded, strict=True):
            held(score <= limit + 1e-9, f"{name} reaches {score:.4f} on {task}, above the floor {limit:.4f}")
            highest = max(highest, score - limit)
    return f"{len(server.world.canaries)} of them, the best {highest:+.3f} from the floor"


def answers(server: Server, session: Session, number: int) -> list[str]:
    """The bytes of a short session that its number decides."""
    return [session.ask(kind, data) for kind, data in messages(server, number)]


def messages(server: Server, number: int) -> list[tuple[str, dict[str, Any] | None]]:
    """What a short session sends."""
    world = server.world
    acts = [world.something if (number >> k) & 1 else world.nothing for k in range(STEPS)]
    reset = {"seed": number, "episode_id": f"session {number}"}
    return [("reset", reset), *(("step", act) for act in acts), ("state", None)]


def determinism(server: Server) -> str:
    """The same seed and actions give the same bytes, another seed others."""
    runs = []
    for number in (5, 5, 6):
        with Session(server.url) as session:
            runs.append(answers(server, session, number))
    held(runs[0] == runs[1], "two sessions of one seed and the same actions differ")
    held(runs[0] != runs[2], "two seeds give the same bytes")
    return f"{sum(map(len, runs[0])):,} bytes of a session, twice"


def isolation(server: Server) -> str:
    """Many sessions at once, message by message in turn, answer as each does alone."""
    alone = []
    for number in range(server.sessions):
        with Session(server.url) as session:
            alone.append(answers(server, session, number))
    with ExitStack() as stack:
        open_ones = [stack.enter_context(Session(server.url)) for _ in range(server.sessions)]
        together: list[list[str]] = [[] for _ in open_ones]
        for turn in range(STEPS + 2):
            for number, session in enumerate(open_ones):
                session.put(*messages(server, number)[turn])
            for number, session in enumerate(open_ones):
                together[number].append(session.answer())
    wrong = [number for number, (one, other) in enumerate(zip(alone, together, strict=True)) if one != other]
    held(not wrong, f"sessions {wrong[:5]} answer differently among others")
    return f"{server.sessions} sessions at once answer as each alone"


@contextmanager
def filled(server: Server) -> Generator[tuple[list[Session], Told]]:
    """All the sessions that a server gives away, and its answer to one more."""
    with ExitStack() as stack:
        open_ones: list[Session] = []
        while len(open_ones) < MOST_SESSIONS:
            session = stack.enter_context(Session(server.url))
            try:
                session.reset(seed=0)
            except Told as told:
                yield open_ones, told
                return
            open_ones.append(session)
        raise Failed(f"{MOST_SESSIONS} sessions are open, and there is no limit")


def waits_for_room(server: Server) -> float:
    """Seconds until a new session is taken. Raises Failed where none is."""
    started = time.monotonic()
    while time.monotonic() - started < FREE_WITHIN_S:
        try:
            with Session(server.url) as session:
                session.reset(seed=0)
                return time.monotonic() - started
        except (Told, Unreachable):
            time.sleep(0.1)
    raise Failed(f"after {FREE_WITHIN_S:g} s no session is free")


def capacity(server: Server) -> str:
    """One session too many is refused by name, and those that are open go on."""
    with filled(server) as (open_ones, told):
        held(told.code == "CAPACITY_REACHED", f"one too many is answered with {told.code}: {told}")
        held(";" in str(told), f"the refusal has no remedy: {told}")
        open_ones[0].step(server.world.nothing)
        most = len(open_ones)
    waits_for_room(server)
    held(most >= server.sessions, f"{most} sessions are given away, not {server.sessions}")
    return f"{most} sessions, then: {told}"


HOLD = """
import sys, time
from kv_cache_rl.adapters.openenv.socket import Session, Told
held = []
try:
    while True:
        held.append(Session(sys.argv[1]))
        held[-1].reset(seed=0)
except Told:
    print(len(held) - 1, flush=True)
time.sleep(600)
"""


def killed(server: Server) -> str:
    """A client that holds every session is killed; its places are free again."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, server.url], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        most = child.stdout.readline().strip()
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    held(most.isdigit() and int(most) >= server.sessions, f"the client held {most or 'no'} sessions")
    return f"{most} sessions of a killed client were free after {waits_for_room(server):.1f} s"


def half_open(server: Server) -> str:
    """Connections that never finish what they begin keep no session from a client."""
    address = urlsplit(server.url)
    port = address.port or (443 if address.scheme == "https" else 80)
    with ExitStack() as stack:
        for begun in (
            b"",
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: webso",
            b"POST /reset HTTP/1.1\r\nHost: x\r\n",
        ):
            for _ in range(server.sessions):
                one = stack.enter_context(
                    socket.create_connection((address.hostname or "", port), timeout=10)
                )
                one.sendall(begun)
        waited = waits_for_room(server)
    return f"{3 * server.sessions} begun connections; a session was there after {waited:.1f} s"


def silence(server: Server) -> str:
    """A session that says nothing is told so, and closed."""
    if server.idle_s is None:
        return "not looked at; give --idle-s as the server was started with"
    with Session(server.url) as session:
        session.reset(seed=0)
        try:
            found = read(session.answer())
        except Told as told:
            held(told.code == "SESSION_ERROR", f"a silent session ends with {told.code}: {told}")
            return str(told)
    raise Failed(f"a silent session was told {found}")


def refusals(server: Server) -> str:
    """What cannot be taken is answered with a sentence and its remedy, and the session goes on."""
    world, split = server.world, server.world.tasks.splits[0]
    with Session(server.url) as session:
        early = session.ask("step", world.nothing)
        session.reset(seed=3)
        before = session.ask("state")
        sent = list(faults(world, split))
        for text in sent:
            session.send(text)
            found = json.loads(session.answer())
            held(found["type"] == "error", f"{shown(text)} was taken")
            said = found["data"]["message"]
            held(";" in said and len(said) < 1_500, f"{shown(text)} is answered without a remedy: {said}")
            held(session.ask("state") == before, f"{shown(text)} changed the session")
        session.step(world.nothing)
    said = json.loads(early)["data"].get("message", "")
    held("reset" in said, f"a step before a reset is answered with {early[:200]}")
    return f"{len(sent)} of them, and a step before a reset: {said}"


def faults(world: World, split: str) -> Iterator[str | bytes]:
    """Messages that no server may take."""
    last = len(world.tasks.ids(split))
    arguments: list[dict[str, Any]] = [
        *({"split": wrong} for wrong in ("nope", 3, ["train"], "Train ")),
        *({"split": split, "index": wrong} for wrong in (last, -1, "0", 1.5, True, 10**30)),
        *({"seed": wrong} for wrong in (-1, "x", 0.5, {})),
        *({"task": wrong} for wrong in ("", "x-y-z-w", f"a-{split}-b-c", 7)),
        {"episode_id": "x" * 300},
        {"view": "nope"},
        {"unheard_of": 1},
    ]
    yield from (json.dumps({"type": "reset", "data": data}) for data in arguments)
    yield from (json.dumps({"type": "step", "data": action}) for action in world.broken)
    yield from ('{"type": "step"}', '{"type": "step", "data": [1]}', '{"type": "stepp"}', '{"type": 3}')
    yield from ("", "{", "null", "[1]", '"reset"', "NaN", '{"type": "reset", "data": {"seed": NaN}}')
    yield from ('{"type": "reset", "data": {"task": "\\ud800"}}', '{"type": "reset", "type": "close"}')
    yield from ("[" * 50_000, '{"type": "step", "data": ' + '{"a":' * 300 + "1" + "}" * 301)
    yield from (b"\x00\x01", json.dumps({"type": "step", "data": {"calls": "x" * 70_000}}))


def shown(text: str | bytes) -> str:
    return repr(text[:80])


CHECKS: dict[str, Callable[[Server], str]] = {
    "contract": contract,
    "tasks": tasks,
    "oracle": oracle,
    "canaries": canaries,
    "same seed, same bytes": determinism,
    "isolation": isolation,
    "capacity": capacity,
    "killed clients": killed,
    "half-open sockets": half_open,
    "silence": silence,
    "refusals": refusals,
}
"""Name of a check → what it does; it says what it found, or raises Failed."""
