"""What a hand may have changed in a recording: kinds and ranges of every value, before anything uses it.

Each function gives what is wrong, for an error that names the file; None where nothing is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from kv_cache_rl.core.numbers import shown
from kv_cache_rl.sim.serving.spec import MOST_BLOCKS

if TYPE_CHECKING:
    from kv_cache_rl.experiments.engine.folder import Config, Recorded, Step

KINDS = {"int": int, "float": (int, float), "str": str, "bool": bool, "dict[str, Any]": dict}
AT = ("trace", "once", "step")
"""When requests come: at their times, all at the start, or before the step of their time."""
MOST = 1 << 53
"""No number of a recording is above: a float64 holds each whole number up to here."""
LEAST_BLOCKS = 2
"""vLLM's null block, and one that holds something."""


def wrong_kind(record: Any) -> str | None:
    """A field of another kind than the class says, or a number below 0 or above `MOST`."""
    for one in fields(record):
        kind, value = KINDS.get(str(one.type)), getattr(record, one.name)
        if kind is None:
            continue  # a tuple, which has a check of its own
        right = isinstance(value, kind) and isinstance(value, bool) == (one.type == "bool")
        if not right or (isinstance(value, int | float) and not 0 <= value <= MOST):
            return f"{one.name} is {shown(value)}"
    return None


def wrong_config(config: Config) -> str | None:
    """What no recorder writes about a recording."""
    if (what := wrong_kind(config)) is not None:
        return what
    if config.at not in AT or config.block_tokens < 1:
        return f"requests that come {config.at}, in blocks of {config.block_tokens} tokens"
    if not LEAST_BLOCKS <= config.blocks <= MOST_BLOCKS:
        return f"blocks is {config.blocks}"
    return f"watermark is {config.watermark}" if config.watermark > 1 else None


def wrong_request(one: Recorded) -> str | None:
    """What no recorder writes about a request."""
    if (what := wrong_kind(one)) is not None:
        return what
    if not all(map(_pair, one.blocks)) or any(length < 1 for _, length in one.blocks):
        return f"blocks of request {one.request} are {str(one.blocks)[:80]}, no runs of first and length"
    if not _pair(one.steps) or one.steps[0] > one.steps[1]:
        return f"steps of request {one.request} are {str(one.steps)[:80]}, not its first and its last"
    return None


def unfit_request(one: Recorded, config: Config) -> str | None:
    """What of a request does not fit the recording: its number, its length, its blocks."""
    if one.request >= config.requests:
        return f"request {one.request} is none of {config.requests:,}"
    tokens, size = one.prompt + one.generated, config.block_tokens
    if one.prompt < 1 or one.generated < 1:
        return f"request {one.request} has {one.prompt:,} tokens and generated {one.generated:,}"
    # The last token of an answer is sampled and not computed, so a block that it completes may be left out.
    least, most, has = (tokens - 1) // size, tokens // size, sum(length for _, length in one.blocks)
    if not least <= has <= most:
        return f"request {one.request} fills {most:,} blocks of {size} tokens and names {has:,}"
    if has >= config.blocks:
        return f"request {one.request} names {has:,} blocks, the pool has {config.blocks:,} and one is empty"
    if one.found > one.prompt // size:
        return f"request {one.request} found {one.found:,} blocks, its prompt has {one.prompt // size:,}"
    return None


def wrong_step(one: Step, config: Config) -> str | None:
    """What no recorder writes about a step."""
    if (what := wrong_kind(one)) is not None:
        return what
    for op in one.ops:
        if not _op(op, config):
            return f"step {one.step} has {str(list(op))[:80]}, which is no taking and no freeing of blocks"
    return None


def _op(op: Sequence[Any], config: Config) -> bool:
    if not op or op[0] not in ("take", "free") or len(op) != {"take": 5, "free": 2}[op[0]]:
        return False
    if not _whole(op[1]) or op[1] >= config.requests:
        return False
    if op[0] == "free":
        return True
    _, _, found, full, held = op
    counted = (found is None or _whole(found)) and _whole(full) and _whole(held)
    return counted and full <= held <= config.blocks and (found or 0) <= config.blocks


def _pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_whole, value))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
