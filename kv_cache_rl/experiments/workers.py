"""The same work on one core, on all cores of this machine, or on a Ray cluster; results say nothing of where
they were made.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from kv_cache_rl.code_cache import say
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.extras import need

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
PATIENCE_S, START_S = 4.0, 15.0
"""Seconds an address has to accept a connection, and Ray behind it to answer."""
GCS_PORT, CLIENT_PORT = 6379, 10001
"""Ports that Ray uses unless told otherwise. Source: Ray documentation, "Configuring Ray"."""


class WorkerError(Refused):
    """Work that could not be spread as asked: says why, and what to do."""


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    keep: Callable[[int, Result], None],
    workers: int = 1,
    ray: str | None = None,
    lasting: bool = True,
) -> None:
    """Calls `keep(index, work(item))` for every item, in the order in which they are finished.

    Whatever ends it early, an interrupt inside `keep` included, what is finished by then is kept first.

    Args:
        lasting: whether what is kept outlives an interrupt. If so, what is under way on the cores is
            finished first, which a second interrupt ends; if not, it is stopped at once.

    Raises:
        MissingExtra: Ray is not installed.
        WorkerError: a worker died, or Ray does not answer.
    """
    if ray is not None:
        _on_ray(work, items, keep, workers, ray)
    elif workers <= 1 or len(items) <= 1:
        for index, item in enumerate(items):
            keep(index, work(item))
    else:
        _on_cores(work, items, keep, workers, lasting)


def on_threads(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    keep: Callable[[int, Result], None],
    workers: int,
) -> None:
    """`spread` over threads, for work that waits for others rather than computes.

    What ends it early does not wait for what is under way, which the caller ends.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(work, item): index for index, item in enumerate(items)}
        for done in as_completed(waiting):
            keep(waiting[done], done.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def mapped(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """The results in the order of the items; `progress` is called with how many there are."""
    found: dict[int, Result] = {}

    def keep(index: int, result: Result) -> None:
        found[index] = result
        progress(len(found))

    spread(work, items, keep, workers, lasting=False)
    return [found[index] for index in range(len(items))]


class _Parts:
    """Pieces of work under way, and the results of each that are still to be kept."""

    def __init__(self, keep: Callable[[int, Any], None], waiting: dict[Any, range]) -> None:
        self.keep, self.waiting = keep, {future: list(part) for future, part in waiting.items()}

    def take(self, future: Any, results: Sequence) -> None:
        """Keeps the results of a piece that are not kept yet."""
        left = self.waiting[future]
        while left:
            self.keep(left[0], results[-len(left)])
            del left[0]
        del self.waiting[future]


def _on_cores(
    work: Callable, items: Sequence, keep: Callable[[int, Any], None], workers: int, lasting: bool
) -> None:
    # Forked workers inherit compiled code and loaded traces; elsewhere they start afresh, with the same
    # results.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(min(workers, len(items)), context, initializer=_ignore_interrupt)
    try:
        pieces = parts(len(items), workers)
        unkept = _Parts(keep, {pool.submit(_several, work, items, part): part for part in pieces})
        try:
            for future in as_completed(unkept.waiting):
                unkept.take(future, future.result())
        except BaseException as wrong:
            if lasting:
                _finish(unkept, interrupted=isinstance(wrong, KeyboardInterrupt))
            raise
    except BrokenProcessPool:
        saved = "Finished work is saved: run" if lasting else "Run"
        remedy = f"it may have run out of memory. {saved} the same again, with fewer --workers"
        raise WorkerError(f"one of {workers} worker processes died; {remedy}") from None
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(unkept: _Parts, interrupted: bool) -> None:
    """Keeps what is under way once it is finished: no result is thrown away, not even where the first `keep`
    is what tells of the interrupt.
    """
    if interrupted:
        say("what is under way is finished and saved first; a second interrupt stops it")
    for future in unkept.waiting:
        future.cancel()
    wait(unkept.waiting)
    for future in list(unkept.waiting):
        if future.cancelled() or future.exception() is not None:
            continue
        try:
            unkept.take(future, future.result())
        except KeyboardInterrupt:
            unkept.take(future, future.result())


def _several(work: Callable, items: Sequence, part: range) -> list:
    return [work(items[index]) for index in part]


def parts(count: int, workers: int) -> list[range]:
    """Neighbouring indices together, in pieces small enough that little is lost when interrupted and no
    worker waits long.
    """
    size = max(1, min(16, count // (4 * workers)))
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _ignore_interrupt() -> None:
    """Ctrl-C is the parent's business, which saves what is finished; SIGTERM ends a worker at once.

    A network in a worker runs on one thread: threads of PyTorch that a parent had are not there after a fork,
    and waiting for them would never end. PyTorch's own loaders do the same.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _on_ray(
    work: Callable, items: Sequence, keep: Callable[[int, Any], None], workers: int, address: str
) -> None:
    ray = connect(address, workers)
    try:
        remote = ray.remote(_several)
        data = ray.put(list(items))
        pieces = parts(len(items), max(workers, 1))
        unkept = _Parts(keep, {remote.remote(work, data, part): part for part in pieces})
        try:
            while unkept.waiting:
                done, _ = ray.wait(list(unkept.waiting), num_returns=1)
                unkept.take(done[0], ray.get(done[0]))
        except BaseException as wrong:
            _rescue(ray, unkept)
            if not isinstance(wrong, ray.exceptions.RayError):
                raise
            said = str(wrong).strip().splitlines()[-1]
            raise WorkerError(
                f"a Ray task failed ({said}). Finished work is saved: mend the cluster, run the same again"
            ) from wrong
    finally:
        ray.shutdown()


def _rescue(ray: Any, unkept: _Parts) -> None:
    """Keeps what is finished at this moment, as far as the cluster still gives it."""
    references = list(unkept.waiting)
    done, _ = ray.wait(references, num_returns=len(references), timeout=0)
    for reference in done:
        try:
            unkept.take(reference, ray.get(reference))
        except ray.exceptions.RayError:
            continue


def connect(address: str, workers: int) -> Any:
    """The `ray` module, connected to the cluster at an address (`local`: one started here).

    Raises:
        MissingExtra: Ray is not installed.
        WorkerError: nothing answers there within seconds.
    """
    need("--ray", "ray", instead="or leave it out to use this machine's cores")
    # Ray's own defaults: be quiet, report nothing to its makers, no warning about what a later version
    # changes.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = importlib.import_module("ray")
    package = Path(__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(package.parent), os.environ.get("PYTHONPATH", "")]))
    quiet = {"logging_level": "ERROR", "log_to_driver": False, "ignore_reinit_error": True}
    if address == LOCAL:
        found = {"env_vars": {"PYTHONPATH": paths}}
        ray.init(LOCAL, num_cpus=max(workers, 1), include_dashboard=False, runtime_env=found, **quiet)
        return ray
    if address != "auto":
        _knock(address)
    _within(
        START_S,
        address,
        lambda: ray.init(address=address, runtime_env={"py_modules": [str(package)]}, **quiet),
    )
    return ray


def _knock(address: str) -> None:
    """Raises WorkerError if nothing accepts a connection at the address."""
    place = urlsplit(address if "://" in address else f"gcs://{address}")
    try:
        port = place.port or (CLIENT_PORT if place.scheme == "ray" else GCS_PORT)
        if not place.hostname:
            raise ValueError("it names no host")
    except ValueError as wrong:
        raise WorkerError(
            f"{address!r} is no Ray address ({wrong}); write HOST:PORT, ray://HOST:PORT, auto or local"
        ) from None
    try:
        socket.create_connection((place.hostname, port), PATIENCE_S).close()
    except OSError as wrong:
        raise WorkerError(_silent(address, str(wrong.strerror or wrong))) from None


def _silent(address: str, why: str) -> str:
    remedy = (
        "check the address, that `ray start --head` runs there and that this process has its token, or "
        "use --ray local"
    )
    return f"no Ray cluster answers at {address} ({why}); {remedy}"


def _within(seconds: float, address: str, start: Callable[[], Any]) -> None:
    """Runs `start`, which may hang; raises WorkerError if it fails or takes longer."""
    failed: list[BaseException] = []
    done = threading.Event()

    def attempt() -> None:
        try:
            start()
        except BaseException as wrong:
            failed.append(wrong)
        done.set()

    threading.Thread(target=attempt, daemon=True).start()
    if not done.wait(seconds):
        raise WorkerError(_silent(address, f"no answer within {seconds:g} s"))
    if failed:
        raise WorkerError(_silent(address, str(failed[0]).strip().splitlines()[0])) from failed[0]
