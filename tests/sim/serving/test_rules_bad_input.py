"""Settings and seeds that cannot be used are refused in one sentence; those at the edge work."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from driving import Face, bytes_of, serve, serve_all, users

from kv_cache_rl.core.geometry import bytes_per_token
from kv_cache_rl.models.reading import model_at
from kv_cache_rl.sim.serving.audit import check
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import (
    INTEGER_RANGES,
    NUMBER_RANGES,
    Scenario,
    ServingError,
    block_bytes,
    task,
)

NAN, INFINITE = math.nan, math.inf
NO_NUMBERS = (NAN, INFINITE, -INFINITE, "7", None, True, [1])


@pytest.mark.parametrize("name", [name for name, _, _ in INTEGER_RANGES])
@pytest.mark.parametrize("value", [*NO_NUMBERS, -1, 2.0, 10**30], ids=str)
def test_counts_are_whole_numbers_in_their_range(name, value):
    with pytest.raises(ServingError, match=rf"^{name} is .*; give a whole number from [\d,]+ to [\d,]+$"):
        task("medium", **{name: value})


@pytest.mark.parametrize("name", [name for name, low, _ in INTEGER_RANGES if low > 0])
def test_a_count_of_zero_is_refused_where_something_is_needed(name):
    with pytest.raises(ServingError, match=f"^{name} is 0; give a whole number from"):
        task("easy", **{name: 0})


def test_zero_cpu_blocks_and_the_least_of_everything_are_served():
    least = {
        name: low for name, low, _ in INTEGER_RANGES if name not in ("ticks", "block_tokens", "context_limit")
    }
    face = Face(new_state(task("hard", ticks=60, **least), 1))
    while not face.state.done:
        face.act(serve_all(face.mask))
        check(face.state)
    assert face.ticks >= 50 and 0 < report(face.state).score < 1


@pytest.mark.parametrize("name", [name for name, _, _ in NUMBER_RANGES if name != "rho"])
@pytest.mark.parametrize("value", [*NO_NUMBERS, -0.1, 1e30], ids=str)
def test_numbers_are_finite_and_in_their_range(name, value):
    with pytest.raises(ServingError, match=rf"^{name} is .*; give a number from"):
        task("medium", **{name: value})


@pytest.mark.parametrize(
    "value", [NAN, INFINITE, 0, -1.0, "1", True, 10**400, 1 << 20_000], ids=lambda value: type(value).__name__
)
def test_the_load_is_a_positive_number(value):
    with pytest.raises(ServingError, match=r"^rho(_peak)? is .*; give a number from"):
        task("medium", rho=value, rho_peak=value)
    with pytest.raises(ServingError, match=r"^rho is .*; give a number from"):
        task("medium", rho=value)


def test_a_load_whose_peak_would_be_too_high_is_named_itself():
    with pytest.raises(
        ServingError,
        match=r"^rho is 99: medium would reach 151.4, above 100; give a number up to 65, or rho_peak too$",
    ):
        task("medium", rho=99)
    assert task("medium", rho=65).rho_peak < 100
    assert task("medium", rho=99, rho_peak=100.0).rho_peak == 100


@pytest.mark.parametrize("name", ["sla_free", "sla_vip"])
@pytest.mark.parametrize(
    "value", [0, 0.0, -1, NAN, INFINITE, "50", True, 1e300, 10**400], ids=lambda value: str(value)[:9]
)
def test_an_sla_is_a_positive_number_of_ticks_or_none(name, value):
    with pytest.raises(
        ServingError, match=f"^{name} is .*; give a positive number up to 1e\\+09, or None for no such limit$"
    ):
        task("hard", **{name: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "tides"}, "unknown pattern 'tides'; use one of constant, waves, spikes"),
        ({"admission": "hope"}, "unknown admission 'hope'; use one of optimistic, reserve"),
        ({"hardware": "abacus"}, "unknown hardware 'abacus'; use one of 8xh100"),
        ({"model": "gpt"}, "unknown model 'gpt'; .*, or give a config.json or its folder"),
        ({"model": 7}, "model is 7; give a name of the catalogue, a config.json or its folder"),
        ({"model": "."}, "has no config.json"),
        (
            {"model": "gemma-3-27b"},
            r"the cache of gemma-3-27b is not linear in tokens \(52 of 62 layers keep the last 1,024 "
            r"tokens\), and a server's blocks take the same bytes each; name a model of which every layer",
        ),
        ({"rho": 0.9, "rho_peak": 0.5}, "rho_peak 0.5 is below the mean load rho 0.9"),
        ({"gpu_block": 5}, "unknown setting 'gpu_block'; did you mean gpu_blocks"),
        ({"task": "easy"}, "unknown setting 'task'"),
    ],
    ids=str,
)
def test_what_is_not_known_is_named_beside_what_is(changes, message):
    with pytest.raises(ServingError, match=message):
        task("medium", **changes)


@pytest.mark.parametrize("name", ["deepseek-v3", "meta-llama/Llama-3.1-70B-Instruct", "config.json"])
def test_blocks_are_those_of_any_model_whose_cache_is_linear(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 512}
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 2}))
    found = task("medium", model=name)
    assert block_bytes(found) == bytes_per_token(model_at(name)) * found.block_tokens > 0


def test_there_are_no_other_tasks():
    with pytest.raises(ServingError, match="unknown task 'impossible'; use one of easy, medium, hard"):
        task("impossible")


@pytest.mark.parametrize("rho", [0.05, 0.1, 0.2, 0.3, 0.7, 1.9])
def test_a_task_is_served_at_any_mean_load(rho):
    for name in ("easy", "medium", "hard"):
        assert task(name, rho=rho).rho_peak >= rho


@pytest.mark.parametrize("seed", [-1, 2**64, 10**40, 1.5, NAN, True, "7", None, [1]], ids=str)
def test_a_seed_is_a_whole_number_below_2_to_the_64th(seed):
    with pytest.raises(ServingError, match=r"^seed is .*; give a whole number from 0 to 2\*\*64 - 1$"):
        new_state(task("easy", ticks=20), seed)


def test_every_seed_in_range_is_another_episode():
    scenario = task("easy", ticks=400)
    seeds = (0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1)
    episodes = {new_state(scenario, seed).load.table.tobytes() for seed in seeds}
    assert len(episodes) == len(seeds)
    assert bytes_of(new_state(scenario, np.uint64(2**63))) == bytes_of(new_state(scenario, 2**63))


def test_settings_cannot_be_changed_behind_the_servers_back():
    with pytest.raises(AttributeError):
        new_state(task("easy", ticks=20), 0).scenario.gpu_blocks = 5  # pyrefly: ignore[read-only]


def test_an_episode_without_a_request_is_one():
    face = Face(serve(users(), ticks=3))
    face.until(lambda f: f.state.done)
    assert (face.ticks, report(face.state).arrived) == (3, 0)
    assert not face.mask[:17].any() and face.mask[17] == 1 and 0 < report(face.state).score < 1


def test_a_request_larger_than_the_memory_is_never_admitted():
    face = Face(serve(users((0, 300, 5)), ticks=5, gpu_blocks=16))
    face.until(lambda f: f.state.done, action=8)
    assert face.row(0)["status"] == 1 and report(face.state).unfinished == 1


def test_a_scenario_of_ones_own_is_checked_like_a_task():
    with pytest.raises(ServingError, match=r"^ticks is 0; give a whole number from 1 to"):
        Scenario("mine", "constant", 0.5, 0.5, None, None, 0)


@pytest.mark.parametrize("name", ["strict", "reuse", "bursty_returns"])
@pytest.mark.parametrize("value", ["no", "", 0, 1, None, np.True_], ids=repr)
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(ServingError, match=f"^{name} is .*; give True or False$"):
        task("medium", **{name: value})


@pytest.mark.parametrize("value", ["", 5, True], ids=repr)
def test_a_trace_is_the_name_of_a_file_or_none(value):
    with pytest.raises(
        ServingError, match=r"^trace is .*; give the name of a trace file, or None for drawn users$"
    ):
        task("medium", trace=value)
    assert task("medium", trace=Path("some.csv")) == task("medium", trace="some.csv")


def test_what_has_no_effect_with_a_trace_or_without_one_is_refused():
    with pytest.raises(
        ServingError,
        match=r"^length_scale is 2.0, but it is for the lengths of a trace; give a trace, or leave",
    ):
        task("medium", length_scale=2.0)
    for name, value in (
        ("pattern", "waves"),
        ("rho_peak", 2.0),
        ("return_probability", 0.1),
        ("bursty_returns", True),
    ):
        with pytest.raises(
            ServingError, match=f"^{name} is .*, but a trace has its own; leave out {name}, or the trace$"
        ):
            task("medium", trace="some.csv", **{name: value})
    assert task("medium", trace="some.csv", rho=99, length_scale=1e9).rho == 99
    for name, changes in (("easy", {}), ("hard", {"pattern": "constant"})):
        with pytest.raises(ServingError, match=r"^rho_peak is 1.9, but a constant load has no peak; leave"):
            task(name, rho_peak=1.9, **changes)
    assert task("medium", pattern="constant", rho=0.5).rho == 0.5
    assert task("easy", rho=0.5, rho_peak=0.5) == task("easy", rho=0.5)


@pytest.mark.parametrize("value", [1e300, 10**400, 0], ids=lambda value: str(value)[:9])
def test_a_factor_on_lengths_is_positive_and_bounded(value):
    with pytest.raises(ServingError, match=r"^length_scale is .*; give a positive number up to"):
        task("medium", trace="some.csv", length_scale=value)


@pytest.mark.parametrize("seed", [0, 1, 30_000, 2**64 - 1])
def test_what_an_agent_draws_from_is_not_the_seed_of_the_traffic(seed):
    assert agent_seed(seed) == agent_seed(np.uint64(seed)) != seed
    assert 0 <= agent_seed(seed) < 2**64
    assert len({agent_seed(near) for near in range(100)}) == 100


def test_a_report_is_strict_json_with_null_for_what_no_request_had():
    said = json.dumps(report(new_state(task("easy", ticks=3), 0)).to_json(), allow_nan=False)
    assert json.loads(said)["wait"] == {"p50": None, "p95": None, "p99": None}
    assert json.loads(said)["completed_by_class"]["power"] is None
