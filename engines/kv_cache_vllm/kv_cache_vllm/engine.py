"""A vLLM that runs in this process, so that its scheduler can be watched between two steps."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kv_cache_rl.experiments.engine.plan import EngineError

# Before vLLM is imported: engine and caller in one process, memory for a small cache, no look-ups outside.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def one_thread() -> None:
    """Has a tiny model computed by one thread: several would wait for each other longer than they compute.

    Before vLLM is imported, since its threads are made then.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


CPU_BLOCK_TOKENS = 32
"""vLLM's attention for CPUs takes blocks of multiples of so many tokens."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is started with."""

    model: Path
    dummy: bool
    """Whether the weights are made up."""
    blocks: int
    block_tokens: int
    max_num_seqs: int
    token_budget: int
    """Tokens that a step computes at most."""
    length: int
    """Tokens of a prompt and its answer at most."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further arguments of vLLM's engine, such as scheduler_cls."""


def check_platform(block_tokens: int) -> None:
    """Raises EngineError for a block size that the platform's attention does not take."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and block_tokens % CPU_BLOCK_TOKENS:
        next_size = -(-block_tokens // CPU_BLOCK_TOKENS) * CPU_BLOCK_TOKENS
        raise EngineError(
            f"vLLM's attention for CPUs takes blocks of {CPU_BLOCK_TOKENS} tokens or a multiple, not "
            f"{block_tokens}; give --engine-block-size {next_size}"
        )


def started(settings: Settings) -> Any:
    """A running engine (vllm.v1.engine.llm_engine.LLMEngine).

    Raises:
        EngineError: vLLM refuses the settings.
    """
    check_platform(settings.block_tokens)
    from vllm.config import KVEventsConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = {
        "model": str(settings.model),
        "load_format": "dummy" if settings.dummy else "auto",
        "skip_tokenizer_init": True,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "async_scheduling": False,  # a step is over when the next is scheduled, as in the lab
        "max_model_len": settings.length,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": settings.token_budget,
        "num_gpu_blocks_override": settings.blocks,
        "block_size": settings.block_tokens,
        "kv_events_config": KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
        "logits_processors": ["kv_cache_vllm.answers:GivenAnswers"],
        "disable_log_stats": True,
    }
    try:
        with without_llvmlite():
            return LLMEngine.from_engine_args(EngineArgs(**arguments | settings.more))
    except (ValueError, TypeError, AssertionError, NotImplementedError, RuntimeError) as refused:
        said = " ".join(str(refused).split())[:400]
        raise EngineError(
            f"vLLM refuses these settings: {said}; change them, or see its documentation"
        ) from refused


@contextmanager
def without_llvmlite() -> Generator[None]:
    """Keeps one module out of `sys.modules` as long as the block lasts.

    Where it starts, vLLM looks at every object of every module (triton_utils/dispatcher.py). The library of
    llvmlite answers to any attribute, `__dict__` among them, with a function, and vLLM ends in an error.
    """
    name = "llvmlite.binding.ffi"
    hidden = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if hidden is not None:
            sys.modules[name] = hidden


def scheduler_of(engine: Any) -> Any:
    """The scheduler of an engine in this process."""
    return engine.engine_core.engine_core.scheduler
