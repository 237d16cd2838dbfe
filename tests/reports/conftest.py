"""Finished rollouts of two policies on six scenarios."""

import pytest

from kv_cache_rl.reports.eviction.outcome import from_report
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, play


@pytest.fixture(scope="session")
def scenarios():
    return {scenario.id: scenario for scenario in load_scenarios(num_examples=6)}


@pytest.fixture(scope="session")
def outcomes(scenarios):
    found = []
    for policy in ("weigh_value", "lru"):
        for scenario in scenarios.values():
            episode = play(Episode(scenario), DECIDERS[policy]())
            found.append(from_report(scenario, policy, episode.report(), episode.log, 0.0))
    return found
