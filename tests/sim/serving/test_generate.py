"""Traffic from a seed: whose numbers they are, how much load they are, when they come."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from kv_cache_rl.core.draws import WEYL, mixed
from kv_cache_rl.sim.serving import generate
from kv_cache_rl.sim.serving.draws import branch, lengths, root, uniform
from kv_cache_rl.sim.serving.generate import traffic
from kv_cache_rl.sim.serving.spec import Scenario, ServingError

GOLDEN = Path(__file__).parents[2] / "golden" / "serving" / "traffic.json"
"""What three scenarios made when it was written;

`python tests/sim/serving/test_generate.py` writes it anew.
"""

# Explicit, so that a change of the tasks is no change of these tests.
CHATTERS = Scenario("chatters", "constant", 0.35, 0.35, None, None, 2_000, power_share=0.0)
WAVES = Scenario("waves", "waves", 0.85, 1.3, 100, 50, 5_000)
SPIKES = Scenario("spikes", "spikes", 1.0, 3.0, 50, 25, 10_000, bursty_returns=True)
SCENARIOS = {scenario.task: scenario for scenario in (CHATTERS, WAVES, SPIKES)}
MASK = 2**64 - 1

ARRIVAL, PROMPT, OUTPUT, VIP, POWER, PARENT, HISTORY = range(7)


ODD = {
    "a tight context": replace(WAVES, context_limit=4_000),
    "tiny memory": replace(WAVES, gpu_blocks=100, cpu_blocks=0),
    "everybody returns": replace(SPIKES, return_probability=0.9, ticks=3_000),
    "a crowd of VIPs": replace(CHATTERS, vip_share=1.0, power_share=1.0),
    "a small token budget": replace(CHATTERS, token_budget=16, power_share=0.5),
    "one tick": replace(CHATTERS, ticks=1),
}


@pytest.mark.parametrize("scenario", [*SCENARIOS.values(), *ODD.values()], ids=[*SCENARIOS, *ODD])
def test_every_row_of_the_table_keeps_the_rules(scenario):
    for seed in (0, 1, 2**63):
        made = traffic(scenario, seed)
        made.check()
        table = made.table
        assert table.dtype == np.int64 and table.shape == (len(made.user), 7) and table.flags.c_contiguous
        assert (table[:, PROMPT] + table[:, OUTPUT] <= scenario.longest).all()
        child = table[:, PARENT] >= 0
        parents = table[table[child, PARENT]]
        assert (table[child, HISTORY] == parents[:, PROMPT] + parents[:, OUTPUT]).all()
        assert (table[child, ARRIVAL] - parents[:, ARRIVAL] > parents[:, OUTPUT] * made.tick_us).all()
        assert not table[~child, HISTORY].any()
        assert (made.turn[child] == made.turn[table[child, PARENT]] + 1).all()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (ARRIVAL, -1, "arrives in order"),
        (ARRIVAL, 10**15, "arrives in order, from 0 on and before the end"),
        (PROMPT, 0, "has a prompt longer than its history"),
        (OUTPUT, 0, "has an output"),
        (VIP, 2, "has classes 0 or 1"),
        (PARENT, 10**6, "has its parent before it"),
        (HISTORY, 1, "has no more history than its parent left"),
    ],
)
def test_a_table_made_by_hand_that_breaks_a_rule_is_refused_with_its_row(column, value, says):
    made = traffic(WAVES, 3)
    row = int(np.flatnonzero((made.table[:, PARENT] < 0) & (made.table[:, PROMPT] > 1))[-1])
    made.table[row, column] = value
    with pytest.raises(ServingError, match=rf"row \d+ of the traffic, \[.*\]: it is not true that it {says}"):
        made.check()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_episode():
    for scenario in SCENARIOS.values():
        assert traffic(scenario, 5).table.tobytes() == traffic(scenario, np.int64(5)).table.tobytes()
        assert traffic(scenario, 5).table.tobytes() != traffic(scenario, 6).table.tobytes()


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_seed_of_64_bits_is_a_seed_of_its_own(seed):
    assert traffic(CHATTERS, seed).table.tobytes() != traffic(CHATTERS, (seed + 1) % 2**64).table.tobytes()


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "7", None, True, float("nan")])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ServingError, match=r"seed is .*; give a whole number from 0 to 2\*\*64 - 1"):
        traffic(CHATTERS, seed)


def golden(name: str, seed: int) -> dict:
    made = traffic(SCENARIOS[name], seed)
    digest = hashlib.sha256(made.table.astype("<i8").tobytes()).hexdigest()
    return {
        "scenario": name,
        "seed": seed,
        "requests": len(made.table),
        "tick_us": made.tick_us,
        "sha256": digest,
    }


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_traffic_is_what_it_was(name):
    written = [entry for entry in json.loads(GOLDEN.read_text()) if entry["scenario"] == name]
    assert written and all(golden(name, entry["seed"]) == entry for entry in written)


def split_mix(state: int) -> int:
    """The reference implementation, on Python's integers."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & MASK
    return state ^ (state >> 31)


def test_draws_are_those_of_split_mix_64():
    # The first outputs for seed 1234567, as its implementations publish them for comparison.
    states = np.array([1234567], np.uint64) + np.arange(1, 4, dtype=np.uint64) * WEYL
    assert mixed(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    weyl = int(WEYL)
    for seed, child, number in ((0, 0, 0), (2**64 - 1, 7, 3), (2**63, 10**12, 2**20)):
        key = split_mix((split_mix((seed + weyl) & MASK) + (child + 1) * weyl) & MASK)
        drawn = uniform(branch(root(seed), child), number)
        assert drawn.tolist() == [((split_mix((key + (number + 1) * weyl) & MASK) >> 12) + 0.5) / 2**52]


@pytest.mark.parametrize(("mean", "deviation"), [*generate.CHATTER, *generate.POWER_USER])
def test_a_length_is_the_rounded_normal_of_its_draw_and_at_least_1(mean, deviation):
    shares = np.concatenate([uniform(root(9), np.arange(20_000)), [2.0**-53, 1e-9, 1 - 1e-9]])
    normal = NormalDist(mean, deviation)
    assert lengths(shares, mean, deviation).tolist() == [
        max(1, math.floor(normal.inv_cdf(share) + 0.5)) for share in shares
    ]
    # Where floats have no more steps the tail ends.
    assert mean + 7 * deviation < lengths(np.array([1 - 2.0**-53]), mean, deviation)[0] < mean + 9 * deviation


def own(made) -> dict:
    """What each (user, turn) is, wherever it stands in the table."""
    rows = made.table[:, [PROMPT, OUTPUT, VIP, POWER]].tolist()
    return dict(zip(zip(made.user.tolist(), made.turn.tolist(), strict=True), rows, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"ticks": 9_000},
        {"rho": 1.5, "rho_peak": 2.0},
        {"pattern": "constant"},
        {"pattern": "spikes", "rho_peak": 3.0},
        {"bursty_returns": True},
        {"hardware": "rtx-pro-6000-llama-3.1-8b"},
    ],
    ids=str,
)
def test_a_users_lengths_class_and_returns_do_not_depend_on_load_length_pattern_or_other_users(settings):
    before, after = own(traffic(WAVES, 4)), own(traffic(replace(WAVES, **settings), 4))
    common = min(max(user for user, _ in made) for made in (before, after))
    assert common > 300
    assert {who: it for who, it in before.items() if who[0] < common} == {
        who: it for who, it in after.items() if who[0] < common
    }


def test_arrivals_do_not_depend_on_how_long_anybodys_requests_are():
    one, other = (
        traffic(replace(CHATTERS, return_probability=0.0), 8),
        traffic(replace(CHATTERS, return_probability=0.0, vip_share=0.9), 8),
    )
    assert one.table[:, ARRIVAL].tolist() == other.table[:, ARRIVAL].tolist()
    assert one.table[:, VIP].sum() < other.table[:, VIP].sum()


if __name__ == "__main__":
    entries = [golden(name, seed) for name in SCENARIOS for seed in (0, 7, 2**63)]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    print(f"{GOLDEN}: {len(entries)} episodes")
