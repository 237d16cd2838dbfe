"""The measurements behind ``bench``: each returns one number, compilation and warm-up left out."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.sim.eviction import Scenario


def best_rate(work: Callable[[], int], seconds: float) -> float:
    """Units per second of `work`, which says how many it did: the best run within `seconds`, after one to
    warm up.
    """
    work()
    best, deadline = 0.0, perf_counter() + seconds
    while perf_counter() < deadline:
        started = perf_counter()
        best = max(best, work() / (perf_counter() - started))
    return best


def packed(scenarios: Sequence["Scenario"], copies: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Scenarios and starting states as rows of two arrays, every scenario `copies` times."""
    import numpy as np

    from kv_cache_rl.sim.eviction.dynamics import new_state

    constants, states = zip(*map(new_state, scenarios), strict=True)

    def rows(buffers: Sequence) -> "np.ndarray":
        table = np.zeros((len(buffers), max(map(len, buffers))), np.int64)
        for row, buffer in zip(table, buffers, strict=True):
            row[: len(buffer)] = buffer
        return np.repeat(table, copies, axis=0)

    return rows(constants), rows(states)


def vectorised_steps(scenarios: Sequence["Scenario"], seconds: float, workers: int = 2) -> float:
    """Environment steps per second of batches side by side, small enough for the cache, one call per step."""
    import numpy as np

    from kv_cache_rl.search.eviction.rollout import step_batch, threads

    scns, start = packed(scenarios, copies=-(-96 // len(scenarios)))
    steps = scenarios[0].steps
    rng = np.random.default_rng(0)
    verbs, slots = rng.integers(1, 4, (steps, len(scns), 1)), rng.integers(0, 30, (steps, len(scns), 1))
    calls = np.ascontiguousarray(np.stack([verbs, slots], axis=3))
    counts = np.ones(len(scns), np.int64)

    def batches() -> None:
        for _ in range(10):
            states = start.copy()
            for step in range(steps):
                step_batch(scns, states, calls[step], counts)

    def work() -> int:
        threads([batches] * workers, workers)
        return workers * 10 * steps * len(scns)

    return best_rate(work, seconds)


def single_steps(scenario: "Scenario", seconds: float) -> float:
    """Steps per second of one episode driven from Python, one compiled call per step, without text."""
    import numpy as np

    from kv_cache_rl.sim.eviction.dynamics import new_state, step

    (scn, start), events, results = new_state(scenario), np.empty((0, 3), np.int64), np.zeros(1, np.int64)
    calls = np.array([[2, 3]], np.int64)

    def work() -> int:
        for _ in range(20):
            state = start.copy()
            for _ in range(scenario.steps):
                step(scn, state, calls, results, events)
        return 20 * scenario.steps

    return best_rate(work, seconds)


def gym_decisions(seconds: float, caches: int = 256) -> tuple[float, float] | None:
    """Decisions per second of the Gymnasium batch, and of Gymnasium's own over single environments.

    Three calls, then a stop. None where gymnasium is not installed.
    """
    if find_spec("gymnasium") is None:
        return None
    import gymnasium

    import kv_cache_rl.gym  # noqa: F401
    from kv_cache_rl.sim.eviction.decisions import STOP, action_of

    actions = [action_of("compress", row) for row in (0, 5, 9)] + [STOP]

    def rate(count: int, how: str) -> float:
        env = gymnasium.make_vec("KVEviction-medium-v0", num_envs=count, vectorization_mode=how)
        env.reset(seed=0)

        def work() -> int:
            for action in actions * 4:
                env.step([action] * count)
            return 4 * len(actions) * count

        return best_rate(work, seconds)

    return rate(caches, "vector_entry_point"), rate(8, "sync")


def text_steps(scenario: "Scenario", seconds: float) -> float:
    """Steps per second of one episode, with observations and the calls' results written as text."""
    from kv_cache_rl.sim.eviction import Call, Episode

    calls = [Call("compress", scenario.sessions[0].seq_id)]

    def work() -> int:
        episode = Episode(scenario)
        while not episode.done:
            episode.prompt()
            episode.step(calls)
        return scenario.steps

    return best_rate(work, seconds)


def json_round_trips(scenario: "Scenario", seconds: float) -> float:
    """Peer of the text steps: how often per second the standard library writes and reads the same
    observation.
    """
    from kv_cache_rl.sim.eviction import Episode

    observation = Episode(scenario).observation()

    def work() -> int:
        for _ in range(100):
            json.loads(json.dumps(observation))
        return 100

    return best_rate(work, seconds)


def oracle_seconds(scenarios: Sequence["Scenario"]) -> float:
    """Mean seconds per scenario of the search at its default width."""
    from kv_cache_rl.search.eviction.oracle import solve

    solve(scenarios[0])
    started = perf_counter()
    for scenario in scenarios:
        solve(scenario)
    return (perf_counter() - started) / len(scenarios)


def fresh_process(code: str, **environment: str) -> float:
    """What `code` prints, run in a new interpreter; best of three."""
    command, found = [sys.executable, "-c", code], []
    for _ in range(3):
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        found.append(float(done.stdout.split()[-1]))
    return min(found)


def import_seconds(module: str) -> float:
    """Seconds to import a module in a new interpreter."""
    return fresh_process(
        f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    )


def help_seconds() -> float:
    """Wall seconds from start to end of ``kv-cache-rl --help``."""
    command, found = [sys.executable, "-c", "from kv_cache_rl.cli import main; main()", "--help"], []
    for _ in range(3):
        started = perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        found.append(perf_counter() - started)
    return min(found)


def interpreted_steps(scenario: "Scenario") -> float:
    """Peer of the compiled steps: the same source run by the Python interpreter, one episode."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.json"
        path.write_text(json.dumps(scenario.to_json()))
        code = (
            "import json, pathlib\n"
            "from kv_cache_rl.cli.eviction.measure import single_steps\n"
            "from kv_cache_rl.sim.eviction import Scenario\n"
            f"scenario = Scenario.from_json(json.loads(pathlib.Path({str(path)!r}).read_text()))\n"
            "print(single_steps(scenario, 0.2))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(done.stdout.split()[-1])


def evaluation_cpu_seconds(num_examples: int, harness: str | None = None, besides: int = 0) -> float | None:
    """CPU seconds of this process and its children per episode evaluated through verifiers, the policy served
    elsewhere.

    With `besides` only those beyond so many are counted: what a run of that many takes, its start-up
    included, is taken off. None where the environment package is not installed, or where `harness` starts
    programs with uv and there is no uv."""
    try:
        evaluate = import_module("kv_cache_eviction").evaluate
    except (ModuleNotFoundError, AttributeError):
        return None
    if harness and shutil.which("uv") is None:
        return None
    from kv_cache_rl.adapters.endpoint import serving

    def cpu() -> float:
        used = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(part.ru_utime + part.ru_stime for part in used)

    def run(base_url: str, count: int) -> float:
        with TemporaryDirectory() as folder:
            before = cpu()
            arguments = {"model": "learned", "base_url": base_url, "api_key_var": "KV_CACHE_RL_NO_KEY"}
            rows = evaluate(**arguments, num_examples=count, output_dir=folder, harness=harness)
            used = cpu() - before
        if any(row["error"] for row in rows):
            raise RuntimeError(
                f"an evaluated episode failed: {next(row['error'] for row in rows if row['error'])}"
            )
        return used

    with serving(process=True) as base_url:
        run(base_url, min(num_examples, besides or 3))
        less = run(base_url, besides) if besides else 0.0
        return (run(base_url, num_examples) - less) / (num_examples - besides)
