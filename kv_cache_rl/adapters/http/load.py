"""``python -m kv_cache_rl.adapters.http.load``: many clients at once against a server of their own.

Each client opens a session (serving and eviction by turns), steps it, reads it, and begins anew; some hang up
in the middle of a stream. Printed: answers, errors, seconds of the slowest, and the server's memory before
and after.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from kv_cache_rl.extras import need
from kv_cache_rl.files import json_text

need("the load test", "httpx")

import httpx

SCENARIO = "eviction-eval-easy-0000-v2"
TICKS = 2_000
"""Of a serving session."""
STREAM_EVERY = 20
"""One client in so many reads streams, and hangs up."""
START_S = 900.0
"""How long the server may take to start: the first time it compiles."""


@dataclass(slots=True)
class Found:
    """What the clients saw."""

    sessions: int
    seconds: float
    answers: int = 0
    by_status: dict[int, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    rss_mb_before: float = 0.0
    rss_mb_after: float = 0.0

    def note(self, what: str, status: int, took: float, wanted: tuple[int, ...]) -> None:
        self.answers += 1
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.slowest_s = max(self.slowest_s, took)
        if status not in wanted:
            self.errors.append(f"{what}: {status}")


def main_command() -> list[str]:
    """What runs the command line of this installation."""
    program = "import sys; sys.argv[0] = 'kv-cache-rl'; from kv_cache_rl.cli import main; main()"
    return [sys.executable, "-c", program]


@contextmanager
def running(*options: str) -> Iterator[tuple[str, int]]:
    """(URL, process id) of a server that lives as long as the block."""
    command = [*main_command(), "serve", "--port", "0", "--json", *options]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        said = ""
        while not said.endswith("}\n"):
            line = child.stdout.readline()
            if not line:
                raise RuntimeError(f"the server ended with {child.wait()} before it answered")
            said += line
        yield json.loads(said)["url"], child.pid
    finally:
        child.terminate()
        child.wait(timeout=30)
        child.stdout.close()


def rss_mb(process: int) -> float:
    """Memory of a process that is in RAM, in MB."""
    shown = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True
    )
    return int(shown.stdout) / 1024


async def client(number: int, http: httpx.AsyncClient, until: float, found: Found) -> None:
    """One client's work until the time is over."""

    async def ask(method: str, path: str, wanted: tuple[int, ...], **given) -> httpx.Response:
        started = time.monotonic()
        answer = await http.request(method, path, **given)
        found.note(f"{method} {path}", answer.status_code, time.monotonic() - started, wanted)
        return answer

    try:
        while time.monotonic() < until:
            if number % STREAM_EVERY == 0:
                await hang_up(http)
            await session(number, ask, until)
    except (httpx.HTTPError, KeyError, ValueError) as wrong:
        found.errors.append(f"client {number}: {type(wrong).__name__} {wrong}")


async def hang_up(http: httpx.AsyncClient) -> None:
    """Reads the beginning of a stream and goes."""
    path = "/api/simulate/stream?agent=lru&agent=fifo&task=hard&pace_ms=20"
    async with http.stream("GET", path) as answer:
        async for _ in answer.aiter_bytes():
            break


async def session(number: int, ask, until: float) -> None:
    """One session from its beginning to its end."""
    eviction = number % 2
    opened = {"world": "eviction", "scenario": SCENARIO} if eviction else {"task": "medium", "ticks": TICKS}
    answer = await ask("POST", "/api/sessions", (201,), json=opened | ({} if eviction else {"seed": number}))
    path = f"/api/sessions/{answer.json()['session']}"
    done = False
    while not done and time.monotonic() < until:
        step = {"calls": []} if eviction else {"agent": "lru", "ticks": 200}
        done = (await ask("POST", f"{path}/step", (200,), json=step)).json()["done"]
        await ask("GET", f"{path}/state", (200,))
    await ask("DELETE", path, (204,))


async def loaded(url: str, process: int, sessions: int, seconds: float) -> Found:
    """So many clients for so long."""
    found = Found(sessions, seconds, rss_mb_before=rss_mb(process))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60.0, limits=limits) as http:
        until = time.monotonic() + seconds
        await asyncio.gather(*(client(number, http, until, found) for number in range(sessions)))
        left = (await http.get("/health")).json()
    if left["sessions"]:
        found.errors.append(f"{left['sessions']} sessions are left")
    found.rss_mb_after = rss_mb(process)
    return found


def run(sessions: int, seconds: float) -> Found:
    """A server, and so many clients for so long."""
    with running() as (url, process):
        return asyncio.run(loaded(url, process, sessions, seconds))


def main() -> None:
    """Prints what the clients saw, as JSON; exit code 1 where there was an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    found = run(given.sessions, given.seconds)
    print(json_text(asdict(found) | {"errors": found.errors[:10], "error_count": len(found.errors)}))
    raise SystemExit(bool(found.errors))


if __name__ == "__main__":
    main()
