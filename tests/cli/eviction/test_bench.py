"""The bench compares in the right direction and says what it measured on."""

import pytest

from kv_cache_rl.cli.eviction.measure import (
    best_rate,
    import_seconds,
    interpreted_steps,
    packed,
    single_steps,
)
from kv_cache_rl.cli.measured import Measured, machine_facts
from kv_cache_rl.sim.eviction import load_scenarios


@pytest.mark.parametrize(
    ("value", "target", "more", "peer", "met", "ratio"),
    [
        (200.0, 100.0, True, 50.0, True, 4.0),
        (50.0, 100.0, True, 100.0, False, 0.5),
        (0.1, 0.3, False, 0.2, True, 2.0),
        (0.4, 0.3, False, 0.2, False, 0.5),
        (1.0, None, True, None, None, None),
    ],
)
def test_more_is_better_for_rates_and_less_for_times(value, target, more, peer, met, ratio):
    one = Measured("x", value, "s", target, more, "peer", peer)
    assert (one.met, one.ratio) == (met, ratio)


def test_the_best_of_repeated_runs_counts():
    lasting = iter([0.0, 0.05, 0.001])

    def work() -> int:
        import time

        time.sleep(next(lasting, 0.05))
        return 10

    assert 1_000 < best_rate(work, 0.2) < 10_000


def test_packed_rows_play_like_the_scenarios_they_hold():
    import numpy as np

    from kv_cache_rl.search.eviction.rollout import step_batch
    from kv_cache_rl.sim.eviction import Call, Episode
    from kv_cache_rl.sim.eviction.score import total_return

    scenarios = load_scenarios(num_examples=3)
    scns, states = packed(scenarios, copies=2)
    calls, counts = np.zeros((6, 1, 2), np.int64), np.ones(6, np.int64)
    for _ in range(15):
        step_batch(scns, states, calls, counts)
    for index, scenario in enumerate(scenarios):
        episode = Episode(scenario)
        while not episode.done:
            episode.step([Call("keep")])
        for copy in (2 * index, 2 * index + 1):
            assert round(total_return(scns[copy], states[copy]), 6) == episode.report().total


def test_the_compiled_simulator_is_faster_than_the_same_code_interpreted():
    scenario = load_scenarios(num_examples=1)[0]
    assert single_steps(scenario, 0.1) > 2 * interpreted_steps(scenario)


def test_importing_the_package_is_fast():
    assert import_seconds("kv_cache_rl") < 0.3


def test_machine_facts_name_processor_cores_and_versions():
    facts = machine_facts()
    assert facts["cores"] >= 1
    assert facts["processor"]
    assert all(facts[name] for name in ("python", "numpy", "numba", "openai", "fastapi", "system"))


def pretend(monkeypatch, **values: float) -> None:
    """Replaces every measurement by a number."""
    numbers = dict.fromkeys(
        [
            *(
                "vectorised_steps",
                "single_steps",
                "text_steps",
                "json_round_trips",
                "interpreted_steps",
                "oracle_seconds",
            ),
            *("import_seconds", "help_seconds", "evaluation_cpu_seconds", "gym_decisions"),
        ],
        1.0,
    )
    numbers["gym_decisions"] = (1e5, 1e4)
    for name, value in (numbers | values).items():
        monkeypatch.setattr(f"kv_cache_rl.cli.eviction.measure.{name}", lambda *_, value=value, **__: value)


GOOD = {
    "vectorised_steps": 1.2e6,
    "single_steps": 6e4,
    "text_steps": 6e3,
    "interpreted_steps": 6e3,
    "oracle_seconds": 0.2,
    "import_seconds": 0.01,
    "help_seconds": 0.2,
    "evaluation_cpu_seconds": 0.1,
}


def test_bench_reports_every_target_with_peer_and_machine(kv, monkeypatch):
    pretend(monkeypatch, **GOOD)
    said = kv("bench", "--check", "--json")
    assert said.code == 0
    assert [one["met"] for one in said.json["measured"]] == [True, True, None, *[True] * 5, None]
    assert said.json["measured"][0]["ratio"] == pytest.approx(200)
    assert said.json["machine"] == machine_facts() | {"load_average": said.json["machine"]["load_average"]}
    table = kv("bench").out
    assert "1,200,000" in table
    assert "same code, interpreted" in table


def test_bench_fails_on_a_missed_target_only_where_asked(kv, monkeypatch):
    pretend(monkeypatch, **GOOD | {"oracle_seconds": 0.4})
    assert kv("bench").code == 0
    said = kv("bench", "--check")
    assert (said.code, said.err) == (1, "missed: oracle\n")


def test_without_the_environment_package_the_evaluation_is_left_out(kv, monkeypatch):
    pretend(monkeypatch, **GOOD | {"evaluation_cpu_seconds": None})
    assert "evaluation through verifiers" not in [
        one["name"] for one in kv("bench", "--json").json["measured"]
    ]
