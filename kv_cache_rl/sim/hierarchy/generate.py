"""Synthetic page traces: the eight workloads of kv-hierarchy-lab, to the access, and Zipf traces of any
length.

Each workload is one function with its defaults; sizes and accesses come from two generators with the same
seed, as in the peer. Sizes are fp16 bytes; `footprints` gives them at another precision. Source:
kv-hierarchy-lab at commit 222356d."""

from collections.abc import Callable, Iterator
from random import Random

import numpy as np

from kv_cache_rl.core.errors import unknown
from kv_cache_rl.core.numbers import shown, whole_number
from kv_cache_rl.core.precision import PRECISIONS
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.accesses import Accesses
from kv_cache_rl.sim.hierarchy.traces.columns import MOST_BLOCKS
from kv_cache_rl.sim.hierarchy.traces.segments import SMALL, free_bytes
from kv_cache_rl.sim.hierarchy.traces.trace import Trace
from kv_cache_rl.sim.hierarchy.traces.trace import pages as page_trace

SIZE_JITTER = 64
"""Scalars by which a page is larger or smaller than the workload's base at most."""
MOST_LISTED = 2**26
"""The largest parameter of the eight workloads, whose accesses are drawn one by one."""
MOST_ACCESSES = 2**31 - 2
ZIPF_BYTES = 32
"""Bytes that an access, and a page, of a Zipf trace takes: four columns of 8."""
LEAN_BYTES = 4
"""Bytes of an access without times and sequences."""
PART = 2**20
"""Accesses that are drawn at a time."""


def footprints(page_bytes: np.ndarray, scheme: str) -> np.ndarray:
    """Bytes of pages that take `page_bytes` at fp16 when they are stored in `scheme`, rounded down, at least
    1; int64.

    >>> footprints(np.array([4132, 4044, 1]), "int4").tolist()
    [1033, 1011, 1]
    """
    if scheme not in PRECISIONS:
        raise HierarchyError(unknown("precision", scheme, PRECISIONS))
    return np.maximum(1, np.floor(np.asarray(page_bytes) * PRECISIONS[scheme].multiplier)).astype(np.int64)


def workload(name: str, **parameters: int) -> Trace:
    """The synthetic workload of that name;

    `pages`, `length`, `seed`, `scalars` and its own parameters may be changed.
    """
    if name not in WORKLOADS:
        raise HierarchyError(unknown("workload", name, WORKLOADS))
    for parameter, value in parameters.items():
        if parameter != "seed" and value < 1:
            raise HierarchyError(f"{name} cannot be made with {parameter} {value}; give at least 1")
        if parameter != "seed" and value > MOST_LISTED:
            raise HierarchyError(
                f"{name} cannot be made with {parameter} {shown(value)}; give at most {MOST_LISTED:,}"
            )
    try:
        return WORKLOADS[name](**parameters)
    except (TypeError, ValueError, IndexError) as wrong:
        raise HierarchyError(
            f"{name} cannot be made with {parameters}: {wrong}; start from its defaults"
        ) from wrong


def chat_continuation(pages: int = 64, length: int = 256, seed: int = 7, scalars: int = 2048) -> Trace:
    """A drifting working set of a dozen pages, of which the last eight are in use."""
    rng, working_set, ids = Random(seed), list(range(min(12, pages))), []
    for step in range(length):
        if step % 17 == 0:
            new = rng.randrange(pages)
            working_set[rng.randrange(len(working_set))] = new
        ids.append(rng.choice(working_set[-8:]))
    return _trace("chat_continuation", ids, pages, seed, scalars)


def rag_burst(pages: int = 96, length: int = 320, seed: int = 11, scalars: int = 2304) -> Trace:
    """A hot prompt of 16 pages, interrupted by bursts of six retrieved ones; needs 22 pages."""
    rng, ids = Random(seed), []
    hot, rest = list(range(16)), list(range(16, pages))
    while len(ids) < length:
        ids += rng.choices(hot, k=14)
        ids += rng.sample(rest, 6)
    return _trace("rag_burst", ids[:length], pages, seed, scalars)


def periodic_reuse(
    pages: int = 80, length: int = 320, seed: int = 13, scalars: int = 2048, period: int = 9
) -> Trace:
    """A loop over every third page; the seed moves only the sizes."""
    return _trace(
        "periodic_reuse", [step % period * 3 % pages for step in range(length)], pages, seed, scalars
    )


def long_tail_mix(pages: int = 128, length: int = 400, seed: int = 17, scalars: int = 2048) -> Trace:
    """Seven accesses in ten to ten hot pages, the others down a long tail."""
    rng, ids = Random(seed), []
    tail = list(range(10, pages))
    weights = [1 / (rank + 1) for rank in range(len(tail))]
    for _ in range(length):
        ids.append(
            rng.choice(range(10)) if rng.random() < 0.7 else rng.choices(tail, weights=weights, k=1)[0]
        )
    return _trace("long_tail_mix", ids, pages, seed, scalars)


def prefetch_friendly(pages: int = 48, length: int = 240, seed: int = 19, scalars: int = 2048) -> Trace:
    """One page after the other, again and again; the seed moves only the sizes."""
    return _trace("prefetch_friendly", [step % pages for step in range(length)], pages, seed, scalars)


def adversarial_prefetch(pages: int = 64, length: int = 256, seed: int = 23, scalars: int = 2048) -> Trace:
    """Two halves by turns, without any successor to learn."""
    rng, half = Random(seed), pages // 2
    ids = [rng.randrange(half, pages) if step % 2 else rng.randrange(half) for step in range(length)]
    return _trace("adversarial_prefetch", ids, pages, seed, scalars)


def adversarial_burst(
    pages: int = 96, length: int = 320, seed: int = 29, scalars: int = 2112, burst: int = 12
) -> Trace:
    """Bursts that push out what comes back right after them: early pages, middle ones, half of the early
    again, late ones.
    """
    rng, ids = Random(seed), []
    third, two_thirds = pages // 3, 2 * pages // 3
    early, middle, late = list(range(third)), list(range(third, two_thirds)), list(range(two_thirds, pages))
    while len(ids) < length:
        first = rng.sample(early, min(burst, len(early)))
        ids += first
        ids += rng.sample(middle, min(burst, len(middle)))
        ids += first[: max(1, min(burst // 2, len(first)))]
        ids += rng.sample(late, min(burst, len(late)))
    return _trace("adversarial_burst", ids[:length], pages, seed, scalars)


def mixed_locality(pages: int = 112, length: int = 360, seed: int = 31, scalars: int = 2176) -> Trace:
    """Phases of 60 accesses: a small hot set, a larger one, a scan in strides of five."""
    rng, ids = Random(seed), []
    warm = list(range(12, pages))[:20]
    for step in range(length):
        phase = step // 60 % 3
        if phase == 0:
            ids.append(rng.choice(range(12)))
        elif phase == 1:
            ids.append(rng.choice(warm))
        else:
            ids.append(step * 5 % pages)
    return _trace("mixed_locality", ids, pages, seed, scalars)


def zipf(
    pages: int, accesses: int, skew: float = 1.0, seed: int = 0, page_bytes: np.ndarray | int = 0
) -> Trace:
    """Independent accesses with P(r-th most popular page) proportional to r^-skew; popularity has nothing to
    do with the id.
    """
    _check_zipf(pages, accesses, skew, seed, ZIPF_BYTES)
    ids = _zipf_ids(pages, accesses, skew, seed, np.int64)
    sizes = (
        page_bytes if isinstance(page_bytes, np.ndarray) else np.full(pages, page_bytes) if page_bytes else 0
    )
    return page_trace(f"zipf-{skew:g}", ids, sizes)


def zipf_accesses(
    pages: int, accesses: int, skew: float = 1.0, seed: int = 0, page_bytes: np.ndarray | int = 0
) -> Accesses:
    """The accesses of `zipf` and nothing else."""
    _check_zipf(pages, accesses, skew, seed, LEAN_BYTES)
    return Accesses(f"zipf-{skew:g}", _zipf_ids(pages, accesses, skew, seed, np.int32), pages, page_bytes)


def _zipf_ids(pages: int, accesses: int, skew: float, seed: int, kind: type) -> np.ndarray:
    ids = np.empty(accesses, kind)
    for at, part in zipf_parts(pages, accesses, skew, seed):
        ids[at : at + len(part)] = part
    return ids


def _check_zipf(pages: int, accesses: int, skew: float, seed: int, each: int) -> None:
    """Raises HierarchyError for a trace that cannot be drawn, or not held at `each` bytes an access."""
    if pages < 1 or accesses < 1 or not 0 <= skew < np.inf or seed < 0:
        given = f"{pages}, {accesses}, {skew:g} and {seed}"
        raise HierarchyError(
            f"a Zipf trace needs a page, an access, a skew and a seed from 0 on, not {given}"
        )
    if pages > MOST_BLOCKS:
        raise HierarchyError(
            f"a Zipf trace of {shown(pages)} pages is too large; at most {MOST_BLOCKS:,} are supported"
        )
    if accesses > MOST_ACCESSES:
        raise HierarchyError(
            f"a Zipf trace of {shown(accesses)} accesses is too large; "
            f"at most {MOST_ACCESSES:,} are supported"
        )
    need = ZIPF_BYTES * pages + each * accesses
    if need > SMALL and need > (free := free_bytes()):
        raise HierarchyError(
            f"a Zipf trace of {pages:,} pages and {accesses:,} accesses takes {need / 1e9:,.0f} GB while it "
            f"is drawn, of which {free / 1e9:,.1f} GB are free; ask for fewer"
        )


def zipf_parts(pages: int, accesses: int, skew: float, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """The page ids of `zipf` in pieces, each with its place: (first access, int64 [n])."""
    rng, behind = np.random.default_rng(seed), np.random.PCG64(seed)
    behind.advance(accesses)  # what the accesses draw
    page_of = np.random.Generator(behind).permutation(pages)
    below = np.cumsum(np.arange(1, pages + 1, dtype=np.float64) ** -skew)
    for at in range(0, accesses, PART):
        drawn = rng.random(min(PART, accesses - at)) * below[-1]
        yield at, page_of[np.minimum(np.searchsorted(below, drawn, side="right"), pages - 1)]


WORKLOADS: dict[str, Callable[..., Trace]] = {
    "chat_continuation": chat_continuation,
    "rag_burst": rag_burst,
    "periodic_reuse": periodic_reuse,
    "long_tail_mix": long_tail_mix,
    "prefetch_friendly": prefetch_friendly,
    "adversarial_prefetch": adversarial_prefetch,
    "adversarial_burst": adversarial_burst,
    "mixed_locality": mixed_locality,
}


def _trace(name: str, ids: list[int], pages: int, seed: int, scalars: int) -> Trace:
    whole_number("seed", seed, error=HierarchyError)
    rng, bytes_per_scalar = Random(seed), PRECISIONS["fp16"].bits / 8
    drawn = [scalars + rng.randint(-SIZE_JITTER, SIZE_JITTER) for _ in range(pages)]
    sizes = np.array([max(1, int(count * bytes_per_scalar)) for count in drawn], dtype=np.int64)
    return page_trace(name, np.array(ids, dtype=np.int64), sizes)
