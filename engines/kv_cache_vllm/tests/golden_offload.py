"""Writes tests/golden/engine/offload.json: what vLLM's host tier moves for requests that share prefixes.

Run it in the engine's environment: python golden_offload.py ../../../tests/golden/engine/offload.json
"""

import json
import sys
from pathlib import Path

import numpy as np
from kv_cache_vllm.host import EngineHost, named, version

from kv_cache_rl.experiments.engine.offload import offloaded

POLICIES, GPU, HOSTS = ("lru", "arc", "s3fifo", "ttl"), 12, (24, 60)


def requests(count: int = 170, sessions: int = 14) -> list[list[int]]:
    """Conversations that grow behind a common beginning, and begin anew now and then."""
    rng, fresh = np.random.default_rng(11), iter(range(3, 10**6))
    open_ones, found = [[0, 1, 2] for _ in range(sessions)], []
    for _ in range(count):
        who = min(int(rng.exponential(3)), sessions - 1)
        if len(open_ones[who]) > 10:
            open_ones[who] = [0, 1, 2]
        open_ones[who] = [*open_ones[who], *(next(fresh) for _ in range(int(rng.integers(1, 4))))]
        found.append(open_ones[who])
    return found


def main(path: Path) -> None:
    asked, cases = requests(), []
    for policy in POLICIES:
        for blocks in HOSTS:
            moved = offloaded(asked, GPU, EngineHost(named(policy), blocks))
            rows = [[one.gpu, one.host, one.stored, one.evicted] for one in moved]
            cases.append({"policy": policy, "gpu_blocks": GPU, "host_blocks": blocks, "moved": rows})
    lines = [json.dumps(case) for case in cases]
    head = json.dumps({"engine": version(), "requests": asked})[:-1]
    path.write_text(f'{head}, "cases": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
