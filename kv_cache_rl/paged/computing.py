"""One more token of every running request: in one batch where it can be, alone where it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many

from torch import Tensor

from kv_cache_rl.paged.kv_cache import KVCache
from kv_cache_rl.paged.model import Decoder
from kv_cache_rl.paged.requests import Request


def computed(model: Decoder, cache: KVCache, running: Many[Request]) -> Iterator[tuple[Request, Tensor]]:
    """Every running request with the logits [vocab] after its last token, as soon as known.

    Prompts and lost tokens are prefilled one request after the other. An error is raised after the
    last one, with a note that names its request.
    """
    alone = [r for r in running if len(r.sequence.tokens) != r.sequence.length + 1]
    ready, failed = [r for r in running if r not in alone], []
    try:
        if ready:
            last = [request.sequence.tokens[-1] for request in ready]
            yield from zip(ready, model.decode(cache, [r.sequence for r in ready], last), strict=True)
    except ValueError:
        alone = list(running)  # a batch does not show which request failed
    for request in alone:
        try:
            missing = request.sequence.tokens[request.sequence.length :]
            logits = model.prefill(cache, request.sequence, missing)
        except ValueError as error:
            error.add_note(f"request {request.number} cannot be computed; mend the cause, or cancel it")
            failed.append(error)
        else:
            yield request, logits
    if failed:
        raise failed[0]
