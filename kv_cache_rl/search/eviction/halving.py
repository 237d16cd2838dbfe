"""Sequential halving: which of many candidates is best, judged by noisy returns.

    left = all candidates
    for every round:
        draw fresh futures, the same ones for every candidate left and for the base
        left = those with the highest mean gain over the base, in all rounds so far
    the winner is the best of the last round's, by that round alone

The highest of many means owes part of its height to chance. The last round's futures chose none of its few
candidates, and so its means are honest.

Source: Karnin, Koren, Somekh, "Almost optimal exploration in multi-armed bandits", ICML 2013."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Candidate = TypeVar("Candidate")

Judge = Callable[[Sequence[Candidate], int], np.ndarray]
"""(candidates, futures) -> their returns in so many fresh futures, float64 ``[futures, candidates]``."""


class Round(NamedTuple):
    """One round."""

    futures: int
    kept: int
    """Candidates that go on to the next one."""


def better(
    base: Candidate,
    candidates: Sequence[Candidate],
    judge: Judge[Candidate],
    rounds: Sequence[Round],
    sure: float,
) -> tuple[Candidate | None, list[Candidate]]:
    """The candidate that is better than `base` by more than `sure` standard errors, None if none is; and
    all candidates, the best first as far as they were compared."""
    left, sums, behind = list(candidates), np.zeros(len(candidates)), []
    gain = np.zeros((0, len(left)))
    for one in rounds:
        if not left:
            return None, []
        values = judge([base, *left], one.futures)
        gain = values[:, 1:] - values[:, :1]
        sums = sums + gain.sum(0)
        order = np.argsort(-sums, kind="stable")
        behind = [left[k] for k in order[one.kept :]] + behind
        best = order[: one.kept]
        left, sums, gain = [left[k] for k in best], sums[best], gain[:, best]
    sure_gain = gain.mean(0) - sure * gain.std(0) / max(len(gain), 1) ** 0.5
    k = int(np.argmax(sure_gain))
    return (left[k] if sure_gain[k] > 1e-9 else None), left + behind
