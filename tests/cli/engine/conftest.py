"""A stand-in for the package that drives vLLM: the same seam over vLLM's block pool in plain Python."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from block_pool import one_at_a_time, recorded

from kv_cache_rl.cli.engine import record
from kv_cache_rl.experiments.engine.writer import Writer


@dataclass(frozen=True)
class Pace:
    at: str
    rate: float


@pytest.fixture
def stand_in(monkeypatch):
    """Takes the place of kv_cache_vllm.record; `dies_at` is the request after which it is interrupted."""
    asked = SimpleNamespace(configs=[], dies_at=None)

    def recording(plan, config, folder, pace, model, resume, told):
        asked.configs.append(config)
        found, _ = one_at_a_time(plan.requests, config.blocks, plan.block_tokens)
        with Writer(Path(folder), config, resume) as out:
            known = len(out.finished)
            lines = recorded(plan, found)
            for at, one in enumerate(lines[known:], known):
                if at == asked.dies_at:
                    raise KeyboardInterrupt
                out.request(replace(one, done_s=float(at)))
                told(at + 1, len(lines))
        return lines

    module = SimpleNamespace(version=lambda tiny: "vllm 0.32.0", Pace=Pace, record=recording)
    monkeypatch.setattr(record, "engine_module", lambda name, command: module)
    return asked
