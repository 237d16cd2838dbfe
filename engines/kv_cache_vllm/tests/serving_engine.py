"""A vLLM that publishes its KV events and answers requests, one at a time, for a test that watches it.

python serving_engine.py FOLDER PORT REPLAY_PORT REQUESTS SEED: prints what each request found, one JSON
object a line.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from kv_cache_vllm.answers import answering
from kv_cache_vllm.engine import Settings, started
from kv_cache_vllm.model import write_tiny

BLOCK, BLOCKS = 32, 200
PAUSE_S = 0.2


def main(folder: Path, port: int, replay_port: int, count: int, seed: int) -> None:
    from vllm.config import KVEventsConfig

    events = KVEventsConfig(
        enable_kv_cache_events=True,
        publisher="zmq",
        endpoint=f"tcp://*:{port}",
        replay_endpoint=f"tcp://*:{replay_port}",
    )
    model = write_tiny(folder / "model", 2048)
    engine = started(Settings(model, True, BLOCKS, BLOCK, 4, 2048, 2048, {"kv_events_config": events}))
    time.sleep(1)
    rng = np.random.default_rng(seed)
    talks = [rng.integers(3, 2000, 2 * BLOCK).tolist()] * 6
    for at in range(count):
        who = int(rng.integers(len(talks)))
        talks[who] = [*talks[who], *rng.integers(3, 2000, BLOCK * int(rng.integers(1, 4))).tolist()]
        engine.add_request(str(at), {"prompt_token_ids": [*talks[who], 7]}, answering([5]))
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    found = {"blocks": len(talks[who]) // BLOCK, "found": output.num_cached_tokens // BLOCK}
                    print(json.dumps(found), flush=True)
        time.sleep(PAUSE_S)
    time.sleep(1)
    engine.engine_core.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:6]))
