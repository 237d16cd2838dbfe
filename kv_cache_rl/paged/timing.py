"""Seconds of an act:

CPU time where the CPU computes, which others on the machine do not lengthen, wall time on a GPU.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch


def clock(device: torch.device) -> float:
    """Seconds now."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(device: torch.device, *acts: Callable[[], object]) -> tuple[float, ...]:
    """Seconds of each of some acts, done in order."""
    times = [clock(device)]
    for act in acts:
        act()
        times.append(clock(device))
    return tuple(after - before for before, after in pairwise(times))


def median_seconds(device: torch.device, act: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` runs after one to warm up."""
    act()
    return statistics.median(seconds_of(device, act)[0] for _ in range(repeats))
