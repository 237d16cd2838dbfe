"""A server in the middle of an episode: its two packed buffers, and the scenario in compiled units."""

from dataclasses import dataclass, field

import numpy as np

from kv_cache_rl.core.hardware import HARDWARE
from kv_cache_rl.sim.serving.columns import (
    CRASHES,
    REQUEST,
    SETTINGS,
    SETTINGS_WORDS,
    Columns,
    fixed_size,
    place,
    views,
)
from kv_cache_rl.sim.serving.demand import Traffic
from kv_cache_rl.sim.serving.spec import Scenario, block_bytes, link_rates

WITHOUT_SLA = 1 << 62
SHOWN_WAIT = 500
"""Nominal ticks: waits are shown against them where there is no SLA, ages of idle caches always."""
_ALIVE = place("alive")


@dataclass(slots=True)
class State:
    """A server in the middle of an episode; only `dynamics` changes it."""

    scenario: Scenario
    seed: int
    load: Traffic
    fixed: np.ndarray
    """int64: settings and requests (`columns`)."""
    live: np.ndarray
    """int64: everything that changes (`columns`)."""
    columns: Columns = field(init=False, repr=False, compare=False)
    """Both by name."""

    def __post_init__(self) -> None:
        self.columns = views(self.fixed, self.live)

    def __reduce__(self) -> tuple:
        # Copied and pickled columns would no longer be views of the buffers.
        return State, (self.scenario, self.seed, self.load, self.fixed, self.live)

    @property
    def buffers(self) -> tuple[np.ndarray, np.ndarray]:
        """What compiled entry points take."""
        return self.fixed, self.live

    @property
    def done(self) -> bool:
        return not self.live[_ALIVE]

    @property
    def crashed(self) -> str:
        """Why the episode ended early, or nothing."""
        return CRASHES[self.columns.book["crash"]]

    @property
    def seconds(self) -> float:
        return float(self.columns.book["clock_us"]) / 1e6

    def copy(self) -> "State":
        """The same server, from here on independent; what never changes is shared."""
        return State(self.scenario, self.seed, self.load, self.fixed, self.live.copy())


def fixed_of(scenario: Scenario, load: Traffic) -> np.ndarray:
    """The buffer `fixed`: the scenario in compiled units, and the requests."""
    fixed = np.zeros(fixed_size(len(load.table)), np.int64)
    settings = fixed[:SETTINGS_WORDS].view(SETTINGS)[0]
    profile = HARDWARE[scenario.hardware]
    one_way, both_ways, latency_us = link_rates(scenario)
    tick_us = load.tick_us
    for name, value in (
        ("requests", len(load.table)),
        ("block_tokens", scenario.block_tokens),
        ("token_budget", scenario.token_budget),
        ("actions_per_tick", scenario.actions_per_tick),
        ("reserve", scenario.admission == "reserve"),
        ("strict", scenario.strict),
        ("reuse", scenario.reuse),
        ("tick_us", tick_us),
        ("fixed_us", max(1, round(profile.decode_fixed_s * 1e6))),
        ("prefill_ns", round(profile.prefill_c1_s * 1e9)),
        ("prefill_pair_ps", round(profile.prefill_c2_s * 1e12)),
        ("kv_read_ps", round(profile.decode_per_kv_token_s * 1e12)),
        ("block_bytes", block_bytes(scenario)),
        ("one_way", one_way),
        ("both_ways", both_ways),
        ("latency_bytes", latency_us * one_way),
        ("service_rate", round(load.service_rate * 1e9)),
    ):
        settings[name] = value
    for vip, queue in enumerate((scenario.queue_free, scenario.queue_vip)):
        ticks = scenario.sla(bool(vip))
        if ticks == float("inf"):
            sla_us, shown_us = WITHOUT_SLA, SHOWN_WAIT * tick_us
        else:
            sla_us = round(ticks * tick_us)
            shown_us = max(sla_us, 1)
        settings["classes"][vip] = queue, sla_us, shown_us
    fixed[SETTINGS_WORDS:].view(REQUEST)[:] = load.requests
    return fixed
