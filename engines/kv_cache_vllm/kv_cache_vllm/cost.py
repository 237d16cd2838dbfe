"""What the policies cost in a large pool, beside vLLM's own queue: python -m kv_cache_vllm.cost FILE

A round is a request of ROUND blocks: it finds the first of an earlier one, takes room for the rest, stores
what it computed and lets all go. Only what the pool does is timed, in CPU seconds, in turns with vLLM's own
queue. Beside it stand steps of an engine, in CPU seconds of one thread: with a tiny model and one request,
the least that a step takes, and with models of real shapes, whose weights are made up.
"""

import sys
import time
from collections.abc import Sequence
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
PREFILL = 2048
"""Tokens of a prompt that a step computes whole: ROUND blocks of 16."""
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "vocab_size": 49152,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    },
}
"""Model → its shape. Source: the config.json that is published with each."""
DECODED, READ = 12, 3
"""Steps of a real shape that are timed: each decodes a token, or reads a prompt."""


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


def step_seconds(prompts: Sequence[int], answer: int, **shape: Any) -> list[list[float]]:
    """CPU seconds of every step of an engine that answers prompts of so many tokens, one after the other.

    Args:
        answer: tokens of each answer.
        shape: of the model; none: a tiny one.
    """
    import kv_cache_vllm.engine as vllm_engine
    from kv_cache_vllm.answers import answering
    from kv_cache_vllm.model import write_tiny

    length = max(prompts) + answer
    with TemporaryDirectory() as scratch:
        model = write_tiny(Path(scratch) / "model", length, **shape)
        blocks = -(-length // 32) + 2
        engine = vllm_engine.started(vllm_engine.Settings(model, True, blocks, 32, 1, PREFILL, length))
        try:
            return [_steps_of(engine, n, tokens, answering([9] * answer)) for n, tokens in enumerate(prompts)]
        finally:
            engine.engine_core.shutdown()


def _steps_of(engine: Any, number: int, tokens: int, answer: Any) -> list[float]:
    """CPU seconds of the steps of one request, whose prompt no other one begins with."""
    engine.add_request(str(number), {"prompt_token_ids": [number + 7] * tokens}, answer)
    took = []
    while engine.has_unfinished_requests():
        began = time.process_time()
        engine.step()
        took.append(time.process_time() - began)
    return took


def real_steps() -> list[dict[str, Any]]:
    """Of each real shape: microseconds of a step that decodes a token, and of one that reads a prompt."""
    found = []
    for name, shape in SHAPES.items():
        first, *read = step_seconds([PREFILL] * (READ + 1), 1 + DECODED, **shape)
        decoded = [seconds for steps in (first, *read) for seconds in steps[1:]]
        prefill = median(steps[0] for steps in read)
        found.append({"model": name, "decode_us": 1e6 * median(decoded), "prefill_us": 1e6 * prefill})
    return found


def measured() -> dict[str, Any]:
    """The step, and of each policy: microseconds a block, beside vLLM's own queue in turns."""
    engine, rows = version(), list[dict[str, Any]]()
    step = median(step_seconds([33], STEPS)[0])
    for policy in DEFAULT:
        ours, own = Rounds(policy), Rounds(None)
        times = [(ours.seconds(), own.seconds()) for _ in range(ROUNDS)]
        mine, theirs = (1e6 * median(column) / ROUND for column in zip(*times, strict=True))
        rows.append({"policy": policy, "block_us": mine, "own_block_us": theirs, "ratio": mine / theirs})
        rows[-1]["of_a_step"] = (mine - theirs) / (1e6 * step)
    real = real_steps()
    return {"engine": engine, "blocks": BLOCKS, "step_us": 1e6 * step, "rows": rows, "real_steps": real}


if __name__ == "__main__":
    found = {"command": f"python -m kv_cache_vllm.cost {Path(sys.argv[1]).name}"} | measured()
    write_json(Path(sys.argv[1]), found)
    for row in found["rows"]:
        print(row)
