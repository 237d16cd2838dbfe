"""The measurements behind ``hierarchy bench``: each returns a rate, a time or an exponent, compilation left
out.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from kv_cache_rl.sim.hierarchy.spec import Scenario
    from kv_cache_rl.sim.hierarchy.traces.trace import Trace

RESIDENT, PAGES = 50_000, 200_000
SKEW = 0.8
SIZES = (1_000, 65_536)
"""Bytes of the smallest page and of the largest."""
DRIFT_EVICTIONS = 200_000
"""Evictions that policies whose keys drift are measured over."""


def best_of(work: Callable[[], object], times: int = 3) -> float:
    """CPU seconds of the fastest of some runs."""
    found = []
    for _ in range(times):
        started = process_time()
        work()
        found.append(process_time() - started)
    return min(found)


def zipf_pages(accesses: int, pages: int = PAGES) -> "Trace":
    from kv_cache_rl.sim.hierarchy.generate import zipf

    return zipf(pages, accesses, SKEW)


def sized_pages(accesses: int) -> "tuple[Trace, Scenario]":
    """A trace of pages that differ in size, and a tier for RESIDENT mean ones."""
    import numpy as np

    from kv_cache_rl.sim.hierarchy.generate import zipf
    from kv_cache_rl.sim.hierarchy.spec import one_tier

    sizes = np.random.default_rng(0).integers(*SIZES, PAGES)
    return zipf(PAGES, accesses, SKEW, page_bytes=sizes), one_tier(RESIDENT * int(sizes.mean()))


def ordered_dict_rate(ids: "np.ndarray", capacity: int) -> float:
    """Peer: accesses per second of LRU as a Python loop over an OrderedDict."""
    listed = ids.tolist()
    return len(listed) / best_of(lambda: ordered_dict_hits(listed, capacity), 2)


def run_length_rate(trace: "Trace", capacity: int) -> float:
    """Accesses per second of LRU in one tier."""
    from kv_cache_rl.sim.hierarchy.curves.runs import lru

    lru(trace, capacity)
    return trace.accesses / best_of(lambda: lru(trace, capacity))


def engine_seconds(trace: "Trace", scenario: "Scenario", policy: str, times: int = 3) -> float:
    """Seconds of a whole `engine.run`: columns, replay and metrics."""
    from kv_cache_rl.sim.hierarchy.engine import run

    return best_of(lambda: run(trace, scenario, policy), times)


def tiers_for(resident: int, tiers: int = 1) -> "Scenario":
    """A fastest tier for so many pages, and below it twice, four and sixteen times as many."""
    from kv_cache_rl.sim.hierarchy.spec import one_tier, physical

    return one_tier(resident) if tiers == 1 else physical(resident, 2 * resident, 4 * resident, 16 * resident)


def drift_rate(policy: str, resident: int = RESIDENT) -> float:
    """Evictions per CPU second of a policy whose keys drift, at so many resident pages: the time to fill the
    tier is taken off.
    """
    import numpy as np

    from kv_cache_rl.sim.hierarchy.engine import run
    from kv_cache_rl.sim.hierarchy.traces.trace import pages

    def seconds(evictions: int) -> float:
        trace = pages("scan", np.arange(resident + evictions, dtype=np.int64))
        started = process_time()
        if run(trace, tiers_for(resident), policy).metrics["eviction_count"] != evictions:
            raise RuntimeError(f"{policy} did not evict one page per access; the measurement means nothing")
        return process_time() - started

    seconds(1)  # loads what is compiled, which must not be taken for filling
    evicting = seconds(DRIFT_EVICTIONS) - seconds(0)
    if evicting <= 0:
        raise RuntimeError(f"{policy} took no longer to evict than not to; measure on a quieter machine")
    return DRIFT_EVICTIONS / evicting


def drift_exponent(policy: str) -> float:
    """How the time of an eviction grows with the pages resident, 4,096 to 65,536, where keys drift."""
    sizes = (4096, 16_384, 65_536)
    return exponent(sizes, [1 / max(drift_rate(policy, n) for _ in range(2)) for n in sizes])


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Slope of log seconds over log size: 1 is linear, near 0 at most logarithmic."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def length_exponent(policy: str) -> float:
    """How the time of a replay grows with the accesses of its trace, 1 to 8 million."""
    lengths = (1_000_000, 2_000_000, 4_000_000, 8_000_000)
    return exponent(lengths, [engine_seconds(zipf_pages(n), tiers_for(RESIDENT), policy, 2) for n in lengths])


def resident_exponent(policy: str) -> float:
    """How the time of a million accesses grows with the pages resident, 4,096 to 65,536 of four times as
    many: the hit rate and the evictions stay about the same, only their order grows."""
    sizes = (4096, 8192, 16_384, 32_768, 65_536)
    return exponent(
        sizes, [engine_seconds(zipf_pages(1_000_000, 4 * n), tiers_for(n), policy, 3) for n in sizes]
    )


SESSIONS = """
import json, resource, sys, time
from kv_cache_rl.cli.hierarchy.measure import tiers_for
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.curves.runs import lru, lru_curve
small = workload("rag_burst")
lru_curve(small); lru(small, 10, end_hint=True)  # compiles
started = time.process_time()
trace = load_trace(sys.argv[1], decode_writes=False)
loaded = time.process_time()
hits = lru(trace, int(sys.argv[2]))
replayed = time.process_time()
curve = lru_curve(trace)
done = time.process_time()
gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
policy_s = {}
for tiers, policies in ((1, sys.argv[3]), (4, sys.argv[4])):
    for policy in filter(None, policies.split(",")):
        run(small, tiers_for(10**9, tiers), policy)  # compiles
        began = time.process_time()
        run(trace, tiers_for(int(sys.argv[2]), tiers), policy)
        policy_s[f"{policy}, {'one tier' if tiers == 1 else 'four tiers'}"] = time.process_time() - began
print(json.dumps({"load_s": loaded - started, "replay_s": replayed - loaded, "curve_s": done - replayed,
                  "gib": gib, "policy_s": policy_s,
                  "accesses": trace.accesses, "hit_rate": hits / trace.accesses,
                  "curve_hit_rate": curve.at(int(sys.argv[2]))}))
"""


def session_facts(
    path: Path, capacity: int = 100_000, one: Sequence[str] = (), four: Sequence[str] = ()
) -> dict:
    """CPU seconds to load, to replay under LRU and for the curve of a session trace, and the most memory, in
    its own process; also those of the engine under policies in `one` tier and in `four`.
    """
    words = (str(path), str(capacity), ",".join(one), ",".join(four))
    return _in_process(f"the replay of {path}", SESSIONS, *words)


WRITE = """
import json, sys, time
from kv_cache_rl.sim.hierarchy.generate import zipf_accesses
from kv_cache_rl.sim.hierarchy.traces.accesses import save_accesses
began = time.process_time()
save_accesses(zipf_accesses(int(sys.argv[2]), int(sys.argv[3])), sys.argv[1])
print(json.dumps({"seconds": time.process_time() - began}))
"""
SCALE = """
import json, resource, sys, time
import numpy as np
from kv_cache_rl.sim.hierarchy.flat import hits_of
from kv_cache_rl.sim.hierarchy.traces.accesses import load_accesses
from kv_cache_rl.traces.reading import Reading
path, policies = sys.argv[1], sys.argv[2:]
small = load_accesses(Reading(limit=1000).named(path))
for policy in policies:
    hits_of(policy, [small.ids], small.blocks, 100)  # compiles
began = time.process_time()
found = load_accesses(path)
facts = {"load_s": time.process_time() - began, "accesses": found.requests, "seconds": {}}
for policy in policies:
    began = time.process_time()
    hits_of(policy, [found.ids], found.blocks, found.blocks // 10)
    facts["seconds"][policy] = time.process_time() - began
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(facts | {"bytes": peak}))
"""


def scale_facts(accesses: int, policies: Sequence[str], pages: int = 1_000_000) -> dict:
    """A Zipf trace of so many accesses written to disk, and in another process read and replayed at 10 % of
    its pages: CPU seconds of each, and the most memory of that process in bytes, all in all.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scale.oracleGeneral")
        written = _in_process("writing a trace", WRITE, path, str(pages), str(accesses))
        found = _in_process("the replay of a large trace", SCALE, path, *policies)
    return found | {"write_s": written["seconds"]}


def _in_process(what: str, program: str, *words: str) -> dict:
    """What a program prints, as JSON, run by a Python of its own. Raises RuntimeError where it fails."""
    package = str(Path(__file__).parents[3])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{what} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def ordered_dict_hits(ids: Iterable[int], capacity: int) -> int:
    """Accesses that hit in an LRU cache of `capacity` pages, the plainest way."""
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for page in ids:
        if page in cache:
            hits += 1
            cache.move_to_end(page)
        else:
            if len(cache) >= capacity:
                cache.popitem(last=False)
            cache[page] = None
    return hits
