"""What the policies cost in a large pool, beside vLLM's own queue: python -m kv_cache_vllm.cost FILE

A round is a request of ROUND blocks: it finds the first of an earlier one, takes room for the rest, stores
what it computed and lets all go. Only what the pool does is timed, in CPU seconds, in turns with vLLM's own
queue. The step beside it is one of an engine with a tiny model and one request, the least that a step takes.
"""

import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from kv_cache_rl.cli.engine.policies import DEFAULT
from kv_cache_rl.files import write_json
from kv_cache_vllm.record import version

BLOCKS = 50_000
ROUND, FOUND = 128, 64
BACK = 100
"""Rounds after which a prefix is asked for again."""
ROUNDS = 200
STEPS = 300


class Rounds:
    """A pool that is full, and the requests on it."""

    def __init__(self, policy: str | None) -> None:
        from vllm.v1.core.block_pool import BlockPool

        from kv_cache_vllm.scheduler import PolicyQueue

        self._pool = BlockPool(BLOCKS + 1, enable_caching=True, hash_block_size=16)
        if policy is not None:
            PolicyQueue(self._pool, policy)
        self._count = 0
        self._paths: list[list[bytes]] = []
        for _ in range(BLOCKS // FOUND):
            self.seconds()

    def seconds(self) -> float:
        """CPU seconds of the pool in the next round."""
        before = self._paths[-BACK][:FOUND] if len(self._paths) >= BACK else []
        path = before + [f"{self._count}/{at}".encode() for at in range(ROUND - len(before))]
        self._count += 1
        self._paths = [*self._paths[-BACK:], path]
        request: Any = SimpleNamespace(block_hashes=path)
        pool, began = self._pool, time.process_time()
        mine = []
        for one in path:
            found = pool.get_cached_block(one, [0])  # pyrefly: ignore[bad-argument-type]
            if found is None:
                break
            mine += found
        pool.touch(mine)
        hits = len(mine)
        mine += pool.get_new_blocks(ROUND - hits)
        pool.cache_full_blocks(request, mine, hits, ROUND, 16, 0)
        pool.free_blocks(reversed(mine))
        return time.process_time() - began


def step_seconds() -> float:
    """CPU seconds of a step that decodes a token of one request with a tiny model (the median)."""
    import kv_cache_vllm.engine as vllm_engine
    from kv_cache_vllm.answers import answering
    from kv_cache_vllm.model import write_tiny

    with TemporaryDirectory() as scratch:
        model, length = write_tiny(Path(scratch) / "model", STEPS + 40), STEPS + 40
        engine = vllm_engine.started(vllm_engine.Settings(model, True, 64, 32, 1, 2048, length))
        try:
            engine.add_request("0", {"prompt_token_ids": [7] * 33}, answering([9] * STEPS))
            took = []
            while engine.has_unfinished_requests():
                began = time.process_time()
                engine.step()
                took.append(time.process_time() - began)
        finally:
            engine.engine_core.shutdown()
    return median(took)


def measured() -> dict[str, Any]:
    """The step, and of each policy: microseconds a block, beside vLLM's own queue in turns."""
    engine, rows = version(), list[dict[str, Any]]()
    step = step_seconds()
    for policy in DEFAULT:
        ours, own = Rounds(policy), Rounds(None)
        times = [(ours.seconds(), own.seconds()) for _ in range(ROUNDS)]
        mine, theirs = (1e6 * median(column) / ROUND for column in zip(*times, strict=True))
        rows.append({"policy": policy, "block_us": mine, "own_block_us": theirs, "ratio": mine / theirs})
        rows[-1]["of_a_step"] = (mine - theirs) / (1e6 * step)
    return {"engine": engine, "blocks": BLOCKS, "step_us": 1e6 * step, "rows": rows}


if __name__ == "__main__":
    found = {"command": f"python -m kv_cache_vllm.cost {Path(sys.argv[1]).name}"} | measured()
    write_json(Path(sys.argv[1]), found)
    for row in found["rows"]:
        print(row)
