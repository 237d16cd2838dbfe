"""The figures of memory: what paging wastes and saves, and what samples and beams share."""

from dataclasses import asdict

from kv_cache_rl.paged.measure.figure import BLOCK_SIZES, Figure, Found, Setup
from kv_cache_rl.paged.measure.memory import TRACES, beam_sharing, parallel_saving, requests_like, usage
from kv_cache_rl.paged.measure.occupancy import RESERVATIONS, occupancy

SIZES = (2, 4, 6)
"""Samples and beam widths. Source: the PagedAttention paper, figure 15."""
PAPER = {"sharegpt": (16.2, 30.5), "alpaca": (6.1, 9.8)}
"""Per cent of memory that parallel sampling saves in that paper, over `SIZES`."""
PAPER_BEAM = (37.6, 66.3)
MEMORY_TOKENS = 16_384
"""Size of the memory that requests wait for."""


def memory(setup: Setup) -> Found:
    """Waste and savings of requests as long as real ones."""
    rows = {t: {b: usage(requests_like(t, 1000, setup.seed), b) for b in BLOCK_SIZES} for t in TRACES}
    mine = rows["sharegpt"][16]
    figures = [
        Figure("memory: waste, ShareGPT-like lengths, block 16", 100 * mine.waste, "%", high=4.0),
        Figure("memory: saved against reserving 2,048", 100 * mine.saved, "%", 70.0, 80.0),
        Figure(
            "memory: waste, Alpaca-like lengths, block 16",
            100 * rows["alpaca"][16].waste,
            "%",
            remark="short requests",
        ),
    ]
    data = {
        t: {str(b): {"waste": u.waste, "saved": u.saved} for b, u in found.items()}
        for t, found in rows.items()
    }
    return figures, data


def fragmentation(setup: Setup) -> Found:
    """How full a memory is while requests wait for it, paged and reserved."""
    requests = requests_like("sharegpt", setup.choose(80, 300), setup.seed)
    paged = {
        b: occupancy(requests, MEMORY_TOKENS, "paged", b) for b in setup.choose((1, 16, 64), BLOCK_SIZES)
    }
    reserved = {name: occupancy(requests, MEMORY_TOKENS, name) for name in RESERVATIONS}
    mine, best = paged[16], max(reserved.values(), key=lambda found: found.tokens)
    figures = [
        Figure("fragmentation: memory that holds tokens, paged, block 16", 100 * mine.tokens, "%", low=96.0),
        Figure("fragmentation: the same, best contiguous reservation", 100 * best.tokens, "%",
               remark=best.name),
        Figure("fragmentation: requests held at once, paged / longest reserved",
               mine.at_once / reserved["contiguous, longest"].at_once, "x"),
    ]  # fmt: skip
    data = {"paged": {str(b): asdict(found) for b, found in paged.items()}}
    return figures, data | {"reserved": {name: asdict(found) for name, found in reserved.items()}}


def parallel(setup: Setup) -> Found:
    """How much memory parallel samples save when they share their prompt."""
    figures, data = [], {}
    for trace, (low, high) in PAPER.items():
        requests = requests_like(trace, setup.choose(40, 200), setup.seed)
        for samples in SIZES:
            found = parallel_saving(requests, samples)
            data[f"{trace}, {samples}"] = asdict(found)
            name = f"parallel sampling: {samples} samples, {trace}-like, saved"
            figures.append(
                Figure(
                    name,
                    100 * found.on_average,
                    "%",
                    low,
                    high,
                    f"{100 * found.at_end:.1f} % once all are written",
                )
            )
    return figures, data


def beams(setup: Setup) -> Found:
    """How much memory the model's beams share, and how often they copy a block."""
    figures, data = [], {}
    for trace in setup.choose(("alpaca",), TRACES):
        requests = requests_like(trace, setup.choose(4, 6), setup.seed)
        for width in SIZES:
            found = beam_sharing(setup.model, setup.text, requests, width)
            data[f"{trace}, {width}"] = asdict(found)
            remark = f"{found.copies_per_token:.3f} copies a token"
            figures.append(
                Figure(
                    f"beam search: {width} wide, {trace}-like, saved",
                    100 * found.saved,
                    "%",
                    *PAPER_BEAM,
                    remark,
                )
            )
    return figures, data
