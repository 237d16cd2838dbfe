"""The table: its features, its training, and what is shipped."""

import itertools
import json
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kv_cache_rl.agents.compiled import TABLE, shipped_table
from kv_cache_rl.agents.qlearning import Training, seeds_of, train, training_seed
from kv_cache_rl.sim.serving.observe import VIEW
from kv_cache_rl.sim.serving.seeds import SEEDS
from kv_cache_rl.sim.serving.tabular import CELLS, CHOICES, N_CHOICES, STATES, action_of, situation, tabular

VIEWS = arrays(np.float32, 24, elements=st.floats(0, 1, width=32)).map(lambda seen: seen.view(VIEW)[0])
MASKS = arrays(np.int8, 18, elements=st.integers(0, 1)).map(lambda mask: np.r_[mask[:17], np.int8(1)])
TINY = Training(tasks=("easy",), episodes=4, look_every=2, select=1)


def test_training_selection_and_test_seeds_are_apart():
    for one, other in itertools.combinations(SEEDS.values(), 2):
        assert not set(one) & set(other)
    assert len(SEEDS["test"]) >= 20


@given(seen=VIEWS, allowed=MASKS)
def test_every_view_has_a_place_in_the_table(seen, allowed):
    assert 0 <= situation(seen, allowed) < STATES


def test_every_cell_of_the_table_is_reached_by_some_view_or_is_impossible():
    rng, reached = np.random.default_rng(0), set()
    for _ in range(30_000):
        seen, allowed = rng.random(24, np.float32), rng.integers(0, 2, 18).astype(np.int8)
        seen[0] = rng.choice([0.995, 0.97, 0.93, 0.8, 0.3])
        seen[3:5] = rng.choice([0.0, 0.03, 0.2, 0.5, 0.9])
        seen[[14, 17]] = rng.choice([0.05, 0.3, 0.9])
        reached.add(situation(seen.view(VIEW)[0], allowed))
    # Without an idle cache there is none that the CPU could lack room for; everything else occurs.
    assert len(reached) == STATES
    assert np.prod(CELLS) == STATES


@given(seen=VIEWS, allowed=MASKS, seed=st.integers(0, 1000))
def test_the_best_choice_that_can_be_done_is_done(seen, allowed, seed):
    table = np.random.default_rng(seed).random(STATES * N_CHOICES)
    values = table[situation(seen, allowed) * N_CHOICES :][:N_CHOICES]
    possible = {choice: action_of(choice, seen, allowed) for choice in range(N_CHOICES)}
    chosen = tabular(seen, allowed, table)
    assert allowed[chosen]
    assert chosen == possible[max((d for d in possible if possible[d] >= 0), key=lambda d: values[d])]


def test_the_same_plan_makes_the_same_table_and_another_seed_another():
    (one, curve), (other, _) = train(TINY), train(TINY)
    assert one.tobytes() == other.tobytes()
    assert [point["episode"] for point in curve] == [2, 4]
    assert (
        train(Training(tasks=("easy",), episodes=4, look_every=2, select=1, seed=1))[0].tobytes()
        != one.tobytes()
    )


def test_the_shipped_table_says_how_it_was_made():
    record = json.loads(resources.files("kv_cache_rl.agents").joinpath(f"weights/{TABLE}.json").read_text())
    assert shipped_table().shape == (STATES * len(CHOICES),)
    assert record["command"].startswith("kv-cache-rl serving train --agent qlearning")
    plan = record["training"]
    assert record["seeds"] == seeds_of(Training(**plan | {"tasks": tuple(plan["tasks"])}))
    assert record["seeds"] == {"train": [10_000, 10_159], "select": [20_000, 20_007]}
    best = max(np.mean(list(point["select"].values())) for point in record["curve"])
    assert best > np.mean(list(record["curve"][0]["select"].values())), (
        "nothing was learned after the first look"
    )


@pytest.mark.parametrize("library", ["torch", "gymnasium", "stable_baselines3"])
def test_it_plays_without(library):
    program = (
        f"import sys; sys.modules[{library!r}] = None; import numpy as np;"
        "from kv_cache_rl.agents import agent; mask = np.zeros(18, np.int8); mask[[8, 17]] = 1;"
        "print(agent('qlearning').act(np.zeros(24, np.float32), mask))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert said in ("8", "17")


@pytest.mark.parametrize(
    ("plan", "ends"),
    [((160, 3), [10_480, 10_639]), ((7_000, 1), [17_000, 13_999]), ((12_000, 0), [10_000, 19_999])],
)
def test_a_record_names_the_seeds_that_were_learned_from(plan, ends):
    training = Training(episodes=plan[0], seed=plan[1])
    assert seeds_of(training)["train"] == ends
    used = [training_seed(training, k) for k in range(training.episodes)]
    assert [used[0], used[min(len(used), 10_000) - 1]] == ends
