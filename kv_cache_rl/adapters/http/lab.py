"""What one server holds: sessions, uploads, run folders, threads, and the numbers that its metrics show."""

import asyncio
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kv_cache_rl.adapters.http import jobs
from kv_cache_rl.adapters.http.bodies import Held
from kv_cache_rl.adapters.http.errors import Problem
from kv_cache_rl.adapters.http.gates import Gate, Threads
from kv_cache_rl.adapters.http.limits import Limits
from kv_cache_rl.adapters.http.metrics import Collected, Engines, Metrics, Numbers
from kv_cache_rl.adapters.http.runs import Runs
from kv_cache_rl.adapters.http.sessions import Sessions
from kv_cache_rl.adapters.http.trainings import Trainings
from kv_cache_rl.sim.serving.spec import Scenario

COMPILE_S = 900.0
"""How long compiling the code of a job may take."""
STEP_THREADS = 4
"""Threads for what takes milliseconds, beside those of the simulations."""


class Lab:
    """The state of a server.

    Args:
        closing: whether the server is about to end, so that streams end too.
        clock: seconds.
    """

    def __init__(
        self,
        limits: Limits,
        runs: Path | None = None,
        closing: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits, self.closing, self.clock = limits, closing, clock
        self.sessions, self.runs, self.uploads = Sessions(limits, clock), Runs(runs), Uploads(limits, clock)
        self.trainings = Trainings(self.runs.root)
        self.steps = Threads("step", STEP_THREADS, limits.waiting)
        self.simulations = Threads("simulation", limits.simulations, limits.waiting)
        self.jobs = Gate("jobs", limits.jobs, limits.waiting // 8, retry_after_s=5.0)
        self.receiving = Gate("uploads", limits.uploads, limits.waiting // 8)
        self.engines, self.streams, self.held = Engines(), 0, Held()
        self._compiled: dict[str, asyncio.Lock] = {work: asyncio.Lock() for work in jobs.SMALL}
        own: dict[str, tuple[str, Callable[[], float]]] = {
            "sessions": ("Open sessions.", lambda: len(self.sessions)),
            "session_bytes": ("Memory of the open sessions.", lambda: self.sessions.nbytes),
            "simulations": ("Simulations that run now.", lambda: self.simulations.gate.running),
            "streams": ("Streams that are read now.", lambda: self.streams),
        }
        self.metrics = Metrics(Collected(self.playing, own))

    def answerable(self) -> None:
        """Raises Problem where clients read so many long answers that no more are made."""
        if self.held.bytes > self.limits.answer_bytes:
            what = f"{self.held.bytes:,} bytes of answers are being read, which is all that this server holds"
            raise Problem(429, f"{what}; try again, or leave out the tick_logs", retry_after_s=10.0)

    def enter_stream(self) -> None:
        """Takes a place among the streams. Raises Problem where none is left."""
        if self.streams >= self.limits.streams:
            what = f"{self.streams} streams are read, which is all that this server sends"
            raise Problem(429, f"{what}; try again", retry_after_s=5.0)
        self.streams += 1

    def leave_stream(self) -> None:
        """Gives the place back."""
        self.streams -= 1

    def playing(self) -> Iterator[tuple[str, Numbers]]:
        """Every server that is simulated now, by the name of its engine."""
        for one in self.sessions:
            if one.world.kind == "serving":
                if not one.busy:
                    one.told = one.world.numbers()
                if one.told is not None:
                    yield str(one.slot), one.told
        yield from self.engines

    async def job(self, work: str, given: dict[str, Any]) -> Any:
        """Work done in a process of its own.

        Raises:
            Refused: the work refused what it was given.
            Problem: it took too long, or more memory than this server gives away.
        """
        seconds = self.limits.run_seconds
        async with self.jobs.entered():
            await self._compile(work)
            try:
                return await jobs.run(work, given, seconds, self.limits.job_bytes)
            except jobs.JobFailed as failed:
                if failed.why == "time":
                    what = f"this took longer than the {seconds:g} s that the server allows"
                    raise Problem(503, f"{what}; ask for less", retry_after_s=seconds) from None
                if failed.why == "memory":
                    what = f"this takes more than the {self.limits.job_bytes:,} bytes that are allowed"
                    raise Problem(422, f"{what}; ask for less") from None
                raise

    async def _compile(self, work: str) -> None:
        """Has the code of this work compiled: the first time on a machine takes longer than any work may."""
        if work in self._compiled:
            async with self._compiled[work]:
                if work in self._compiled:
                    await jobs.run(work, jobs.SMALL[work], COMPILE_S, self.limits.job_bytes)
                    del self._compiled[work]

    async def plan(self, scenario: Scenario, seed: int) -> tuple[str, ...]:
        """The oracle's plan for an episode."""
        given = {"scenario": asdict(scenario), "seed": seed}
        return tuple(await self.job("plan", given))

    def close(self) -> None:
        """Frees what the server holds."""
        self.steps.close()
        self.simulations.close()
        self.uploads.close()


@dataclass(slots=True)
class Upload:
    """A trace that a client sent."""

    id: str
    name: str
    path: Path
    used: float
    facts: dict[str, Any]


class Uploads:
    """Traces that clients sent, for as long as they are not left alone."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.limits, self.clock = limits, clock
        self._folder: Path | None = None
        self._lock = threading.Lock()
        """Threads write: the room that one has seen is its own until it is taken."""
        self._kept: dict[str, Upload] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def sweep(self) -> None:
        """Deletes what was left alone."""
        before = self.clock() - self.limits.idle_s
        for one in list(self._kept.values()):
            if one.used < before:
                self.remove(one.id)

    def room(self) -> None:
        """Raises Problem where no more traces are kept."""
        self.sweep()
        if len(self._kept) >= self.limits.traces:
            what = f"{len(self._kept)} uploaded traces are kept, which is all that this server keeps"
            raise Problem(429, f"{what}; delete one of yours, or try again", retry_after_s=60.0)

    def write(self, name: str, data: bytes) -> Upload:
        """Keeps a trace in a file that no other user of the machine can read. Raises Problem for no room."""
        id = secrets.token_urlsafe(12)
        with self._lock:
            self.room()
            if self._folder is None:
                self._folder = temporary_folder()
            path = self._folder / f"{id}{ending(name)}"
            one = self._kept[id] = Upload(id, name, path, self.clock(), {"bytes": len(data)})
        try:
            path.write_bytes(data)
        except OSError as error:
            self.remove(id)
            raise not_kept(error) from None
        except BaseException:
            self.remove(id)
            raise
        return one

    def find(self, id: str) -> Upload:
        """The trace of that id. Raises Problem (404) for one that is not kept."""
        self.sweep()
        if id not in self._kept:
            what = f"there is no uploaded trace {id[:40]!r}"
            idle = f"perhaps it was left alone for {self.limits.idle_s:g} s"
            raise Problem(404, f"{what}: {idle}; send it again with POST /api/hierarchy/traces", "trace")
        self._kept[id].used = self.clock()
        return self._kept[id]

    def remove(self, id: str) -> None:
        """Deletes a trace. Raises Problem (404) for one that is not kept."""
        if id not in self._kept:
            self.find(id)
        self._kept.pop(id).path.unlink(missing_ok=True)

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._kept.clear()


def temporary_folder() -> Path:
    """A folder of this server's own. Raises Problem where no folder for temporary files can be written."""
    try:
        return Path(tempfile.mkdtemp(prefix="kv-cache-rl-"))
    except OSError as error:
        raise not_kept(error) from None


def not_kept(error: OSError) -> Problem:
    """What is said of a trace that the disk does not take."""
    what = f"the server cannot keep traces: {error.strerror or error}"
    remedy = "its operator sets TMPDIR to a folder that it may write to, with room for them"
    return Problem(503, f"{what}; {remedy}")


ENDINGS = (".jsonl", ".json", ".csv", ".txt", ".bin")
"""Endings that the readers of traces know; any other name is read by what the file begins with."""


def ending(name: str) -> str:
    """The ending of a file's name, of those that readers know."""
    return next((one for one in ENDINGS if name.lower().endswith(one)), "")
