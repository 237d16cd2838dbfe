"""Work in a process of its own, with a limit on its time and its memory: the oracle's plans, and traces that
clients send.

    server --JSON on stdin--> python -m kv_cache_rl.adapters.http.jobs --JSON on stdout--> server
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import json_text
from kv_cache_rl.sim.serving.spec import TASKS

NEEDS_BYTES = 2**30
"""Address space that Python, numba and their libraries take before any work."""


def plan(scenario: dict[str, Any], seed: int) -> Any:
    """The oracle's plan for an episode."""
    from kv_cache_rl.adapters import playing
    from kv_cache_rl.sim.serving.spec import Scenario

    return list(playing.plan(Scenario(**scenario), seed))


def curves(source: dict[str, Any], **given: Any) -> Any:
    """Hit rate by capacity."""
    from kv_cache_rl.adapters.http.replays import curves

    return curves(source, **given)


def replays(source: dict[str, Any], **given: Any) -> Any:
    """The metrics of replays, and their course."""
    from kv_cache_rl.adapters.http.replays import replays

    return replays(source, **given)


def described(source: dict[str, Any]) -> Any:
    """What a trace holds."""
    from kv_cache_rl.adapters.http.replays import described

    return described(source)


WORK: dict[str, Callable[..., Any]] = {
    "plan": plan,
    "curves": curves,
    "replays": replays,
    "described": described,
}


_SOURCE = {"workload": "periodic_reuse", "parameters": {"pages": 8, "length": 16}}
_TINY = {"source": _SOURCE, "model": None, "seed": None}
SMALL: dict[str, dict[str, Any]] = {
    "plan": {"scenario": {**asdict(TASKS["easy"]), "ticks": 5}, "seed": 0},
    "curves": {**_TINY, "policies": ["lru", "arc"], "points": 2, "capacities": None},
    "replays": {**_TINY, "policies": ["lru", "gdsf"], "points": 2, "capacity": "4"},
}
"""What compiles the code of each work, as small as it can be."""


class JobFailed(Exception):
    """A process that ended without a result: `why` is time, memory or bug."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


async def run(work: str, given: dict[str, Any], seconds: float, memory: int) -> Any:
    """What the work gives.

    Raises:
        Refused: the work refused what it was given.
        JobFailed: it took too long, or too much memory, or ended in a bug.
    """
    asked = json.dumps({"work": work, "given": given, "seconds": seconds, "memory": memory}).encode()
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        async with asyncio.timeout(seconds):
            out, _ = await child.communicate(asked)
    except TimeoutError:
        raise JobFailed("time") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        said = json.loads(out)
    except ValueError:
        raise JobFailed("memory" if child.returncode and child.returncode < 0 else "bug") from None
    if "refused" in said:
        raise Refused(said["refused"])
    if "failed" in said:
        raise JobFailed(said["failed"])
    return said["found"]


def limited(seconds: float, memory: int) -> None:
    """Holds this process to so much time and address space, where the system has such limits."""
    try:
        import resource
    except ImportError:
        return
    for limit, most in (
        (resource.RLIMIT_AS, max(memory, NEEDS_BYTES)),
        (resource.RLIMIT_CPU, int(seconds) + 5),
    ):
        _, hard = resource.getrlimit(limit)
        ceiling = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (ceiling, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Does the work that stdin describes; stdout gets the result alone."""
    asked = json.loads(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    limited(asked["seconds"], asked["memory"])
    try:
        said = {"found": WORK[asked["work"]](**asked["given"])}
    except Refused as refused:
        said = {"refused": str(refused)}
    except MemoryError:
        said = {"failed": "memory"}
    answers.write(json_text(said, indent=None))
    answers.flush()


if __name__ == "__main__":
    main()
