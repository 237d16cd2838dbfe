"""KV precisions: bits, bytes, and what they cost in answers."""

from dataclasses import dataclass

WORK_CLASSES = ("chat", "extraction", "code", "reasoning")


@dataclass(frozen=True, slots=True)
class Precision:
    """A storage format of cached keys and values."""

    name: str
    bits: int
    multiplier: float
    """Bytes relative to fp16, scales not counted (they are counted where real tensors are quantised)."""
    loss: dict[str, float]
    """Work class -> probability that an answer decoded over this cache is wrong although fp16 would have it
    right.
    """


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp16", 16, 1.0, {"chat": 0.0, "extraction": 0.0, "code": 0.0, "reasoning": 0.0}),
        # FP8 e4m3: 94-99 % recovery; the middle of the published range. Source: vLLM blog, April 2026.
        Precision("fp8", 8, 0.5, {"chat": 0.01, "extraction": 0.01, "code": 0.01, "reasoning": 0.035}),
        # INT8 per head and token: gsm8k 70.13 -> 69.75 is a relative 0.54 %. Source: LMDeploy kv_quant.md.
        Precision("int8", 8, 0.5, {"chat": 0.005, "extraction": 0.005, "code": 0.005, "reasoning": 0.005}),
        # INT4: mmlu 63.91 -> 62.36 (chat), ceval 70.56 -> 68.62 (extraction), gsm8k 70.13 -> 66.87 (exact
        # answers, the
        # nearest published number to code), LMDeploy kv_quant.md; aime25 75.3 -> 35.3 (reasoning), SGLang
        # MXFP4 page.
        Precision("int4", 4, 0.25, {"chat": 0.024, "extraction": 0.027, "code": 0.046, "reasoning": 0.40}),
        # 2 bits: only as a footprint in the hierarchy lab; no per-class loss is published, so none is claimed
        # here.
        Precision("int2", 2, 0.125, {}),
    )
}

LADDER = ("fp16", "int8", "int4")
"""What one `compress` after the other does: each step halves the bytes."""


def tolerated_level(work_class: str, draw: float) -> int:
    """Lowest rung of `LADDER` at which this sequence still answers right, for a uniform `draw` in [0, 1).

    >>> tolerated_level("reasoning", 0.39), tolerated_level("reasoning", 0.41), tolerated_level("chat", 0.001)
    (1, 2, 0)
    """
    return max(level for level, name in enumerate(LADDER) if draw >= PRECISIONS[name].loss[work_class])
