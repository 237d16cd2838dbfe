"""KV precisions: bits, bytes, and how many right answers they cost."""

from dataclasses import dataclass

WORK_CLASSES = ("chat", "extraction", "code", "reasoning")


@dataclass(frozen=True, slots=True)
class Precision:
    """A storage format of cached keys and values."""

    name: str
    bits: int
    loss: dict[str, float]
    """Work class -> probability that an answer over this cache is wrong where fp16 has it right."""

    @property
    def multiplier(self) -> float:
        """Bytes relative to fp16, without scales; `paged` counts those too."""
        return self.bits / 16


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp16", 16, {"chat": 0.0, "extraction": 0.0, "code": 0.0, "reasoning": 0.0}),
        # FP8 e4m3: 94-99 % recovery; the middle of the published range. Source: vLLM blog, April
        # 2026.
        Precision("fp8", 8, {"chat": 0.01, "extraction": 0.01, "code": 0.01, "reasoning": 0.035}),
        # INT8 per head and token: gsm8k 70.13 -> 69.75 is a relative 0.54 %. Source: LMDeploy
        # kv_quant.md.
        Precision("int8", 8, {"chat": 0.005, "extraction": 0.005, "code": 0.005, "reasoning": 0.005}),
        # INT4. Source: LMDeploy kv_quant.md for mmlu 63.91 -> 62.36 (chat), ceval 70.56 -> 68.62
        # (extraction) and gsm8k 70.13 -> 66.87 (exact answers, the published number nearest to
        # code); SGLang's MXFP4 page for aime25 75.3 -> 35.3 (reasoning).
        Precision("int4", 4, {"chat": 0.024, "extraction": 0.027, "code": 0.046, "reasoning": 0.40}),
        # 2 bits are only a footprint in the hierarchy lab: no loss by work class is published.
        Precision("int2", 2, {}),
    )
}

LADDER = ("fp16", "int8", "int4")
"""The steps of `compress`: each one halves the bytes."""


def tolerated_level(work_class: str, draw: float) -> int:
    """Index of the last rung of `LADDER` at which a sequence still answers right.

    `draw` in [0, 1) is the sequence's own uniform number. The sequence tolerates each rung with a loss
    for its work class of at most `draw`.

    >>> tolerated_level("reasoning", 0.39), tolerated_level("reasoning", 0.41), tolerated_level("chat", 0.001)
    (1, 2, 0)
    """
    return max(level for level, name in enumerate(LADDER) if draw >= PRECISIONS[name].loss[work_class])
