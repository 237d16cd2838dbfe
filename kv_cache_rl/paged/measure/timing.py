"""Seconds that a piece of work takes: CPU time on a CPU, wall time on a GPU.

CPU time does not grow while other programs run on the machine.
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


def seconds_of(device: torch.device, *works: Callable[[], object]) -> tuple[float, ...]:
    """Seconds of each piece of work, done in order."""
    times = [clock(device)]
    for work in works:
        work()
        times.append(clock(device))
    return tuple(after - before for before, after in pairwise(times))


def median_seconds(device: torch.device, work: Callable[[], object], repeats: int) -> float:
    """Median seconds of `repeats` runs, after one to warm up."""
    work()
    return statistics.median(seconds_of(device, work)[0] for _ in range(repeats))
