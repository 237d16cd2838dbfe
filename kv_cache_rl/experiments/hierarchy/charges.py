"""What a block of a trace is charged in the cache of a model."""

from dataclasses import replace

from kv_cache_rl.amounts import amount
from kv_cache_rl.core.geometry import block_bytes, is_linear, not_linear
from kv_cache_rl.models.fields import ModelError
from kv_cache_rl.models.reading import model_at
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import Trace


def with_model(trace: Trace, model: str) -> Trace:
    """The trace with blocks as large as in a model's cache; of a model that is not linear, as the requests of
    the trace fill it on average.

    Raises:
        HierarchyError: there is no such model, its configuration cannot be used, or it is not linear and the
            pages of the trace belong to no sequence.
    """
    try:
        found = model_at(model)
    except ModelError as wrong:
        raise HierarchyError(str(wrong)) from None
    lengths = trace.lengths * trace.block_tokens
    if not (trace.chained or is_linear(found)):
        raise HierarchyError(
            f"the cache of {found.name} is not linear in tokens ({not_linear(found)}), and the pages of "
            f"{trace.name!r} belong to no sequence; give a trace of requests, or a model of which every "
            "layer keeps every token"
        )
    return replace(trace, page_bytes=block_bytes(found, trace.block_tokens, lengths))


def how_charged(trace: Trace, model: str | None, size: float) -> str:
    """That a block of this trace is charged these bytes, and why, where the model's cache is not linear in
    tokens; "" where it is, or where no model is named.
    """
    found = None if model is None else model_at(model)
    if found is None or is_linear(found):
        return ""
    mean = float(trace.lengths.mean()) * trace.block_tokens
    return (
        f"each block of {trace.block_tokens:,} tokens is charged {amount(size)}, the mean over this trace's "
        f"requests ({mean:,.0f} tokens on average): {found.name} is not linear in tokens, {not_linear(found)}"
    )
