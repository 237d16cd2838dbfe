"""What is asked of a server, and what it could serve: the traffic, and the load theory derives from its
lengths.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.sim.serving.columns import REQUEST
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.theory.condition import footprint, saturated_tick_s, service_rate

MOST_REQUESTS = 20_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """Means over the requests of a workload, none of whose history is found in a cache."""

    prompt: float
    output: float
    footprint: float
    """Token-iterations of GPU memory in whole blocks, the prompt's taken at admission, as the engine does
    (theory.condition).
    """
    squared_prompt: float

    @staticmethod
    def of(
        prompt: np.ndarray, output: np.ndarray, chunk: int, block: int, weight: np.ndarray | None = None
    ) -> "Lengths":
        """The means of requests ``[n]``, weighted; `chunk` and `block` in tokens."""
        weights = np.ones(len(prompt)) if weight is None else weight
        squares = prompt.astype(np.float64) ** 2
        return Lengths(
            *(
                float(np.average(x, weights=weights))
                for x in (prompt, output, held(prompt, output, chunk, block), squares)
            )
        )


def held(prompt: np.ndarray, output: np.ndarray, chunk: int, block: int) -> np.ndarray:
    """Footprint of each request ``[n]``; int64."""
    return footprint(prompt, output, chunk, block, up_front=True)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the scenario's server does with requests of these lengths at saturation."""

    lengths: Lengths
    tick_us: int
    """The nominal tick b̄: an iteration at saturation."""
    service_rate: float
    """mu, requests per second."""
    binding: str
    """What stops it there: memory or the token budget."""

    @staticmethod
    def of(scenario: Scenario, lengths: Lengths) -> "Capacity":
        """By theory; decoded tokens come out of the token budget, as in the engine."""
        budget = scenario.token_budget
        tick_s = saturated_tick_s(
            HARDWARE[scenario.hardware],
            scenario.gpu_tokens,
            lengths.footprint,
            lengths.prompt,
            budget,
            mean_squared_prompt=lengths.squared_prompt,
            mean_output=lengths.output,
        )
        tick_us = max(1, round(tick_s * 1e6))
        rate = service_rate(
            scenario.gpu_tokens, tick_us / 1e6, lengths.footprint, budget, lengths.prompt + lengths.output
        )
        return Capacity(lengths, tick_us, rate.per_s, rate.binding)


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """All requests of an episode, fixed before it begins and the same for every agent; durations in whole
    microseconds.
    """

    table: np.ndarray
    """int64 ``[R, 7]`` in order of arrival; its columns are the fields of `columns.REQUEST`."""
    user: np.ndarray
    """The user of each request, int64 ``[R]``; class, returns and lengths follow from this number and the
    seed.
    """
    turn: np.ndarray
    """How many the user had made before, in this episode or earlier, int64 ``[R]``."""
    tick_us: int
    """The nominal tick b̄, in which the scenario's durations are given."""
    end_us: int
    """When the episode ends; every arrival is before it."""
    arrival_rate: float
    """lambda: mean requests per second, returns included (of a trace: in this episode)."""
    service_rate: float
    """mu: requests per second that the server completes at saturation without prefix hits."""
    rho: float
    """The mean load that was asked for: lambda / mu, or more exactly the work that arrives over the work that
    can be done.
    """
    binding: str
    """What bounds mu: memory or the token budget."""
    lengths: Lengths
    """Means that mu was derived from."""
    notes: tuple[str, ...] = field(default=())
    """What was done to make this traffic, in sentences."""

    @property
    def requests(self) -> np.ndarray:
        """The table by name: `columns.REQUEST` ``[R]``."""
        return np.ascontiguousarray(self.table).view(REQUEST)[:, 0]

    def facts(self) -> dict[str, Any]:
        """What was asked of the server and what it could do, by theory; rates and times in seconds."""
        return {
            "requests": len(self.table),
            "seconds": self.end_us / 1e6,
            "rho": self.rho,
            "arrival_rate_per_s": self.arrival_rate,
            "service_rate_per_s": self.service_rate,
            "binding": self.binding,
            "tick_s": self.tick_us / 1e6,
            "mean_prompt": self.lengths.prompt,
            "mean_output": self.lengths.output,
            "mean_footprint": self.lengths.footprint,
            "notes": list(self.notes),
        }

    def check(self) -> None:
        """Holds every row against the rules of the table.

        Raises:
            ServingError: a row breaks one; for tables made by hand.
        """
        arrival, prompt, output, vip, power, parent, history = self.table.T
        rows = np.arange(len(self.table))
        before = np.clip(parent, 0, rows)
        child = parent >= 0
        rules = (
            (
                "arrives in order, from 0 on and before the end",
                (arrival >= np.append(0, arrival[:-1])) & (arrival < self.end_us),
            ),
            ("has a prompt longer than its history", (prompt > history) & (history >= 0)),
            ("has an output", output >= 1),
            ("has classes 0 or 1", (vip | power | 1) == 1),
            ("has its parent before it", (parent >= -1) & (parent < rows)),
            (
                "is the only child of its parent",
                np.isin(rows, np.unique(parent, return_index=True)[1]) | ~child,
            ),
            (
                "has the user and the class of its parent",
                ~child | ((self.user == self.user[before]) & (vip == vip[before])),
            ),
            (
                "has no more history than its parent left",
                history <= np.where(child, prompt[before] + output[before], 0),
            ),
        )
        for rule, holds in rules:
            if not holds.all():
                row = int(np.argmin(holds))
                values = self.table[row].tolist()
                raise ServingError(
                    f"row {row} of the traffic, {values}: it is not true that it {rule}; correct it"
                )

    def __str__(self) -> str:
        means = f"mean prompt {self.lengths.prompt:,.0f} and output {self.lengths.output:,.0f} tokens"
        rates = (
            f"{self.arrival_rate:.3g}/s asked, {self.service_rate:.3g}/s can be served ({self.binding} binds)"
        )
        head = f"{len(self.table):,} requests in {self.end_us / 1e6:,.1f} s, rho {self.rho:g}: {rates}; "
        return "\n".join((f"{head}{means}; nominal tick {self.tick_us / 1e3:.1f} ms", *self.notes))


def checked_size(scenario: Scenario, requests: float) -> None:
    """Raises ServingError if an episode would hold more requests than fit."""
    if requests > MOST_REQUESTS:
        raise ServingError(
            f"{scenario.ticks:,} ticks at rho {scenario.rho:g} hold about {requests:,.0f} requests, "
            f"at most {MOST_REQUESTS:,} are supported; lower ticks, rho or gpu_blocks"
        )
