"""The compiled server is the plain one: every clock, count, queue, row, view and reward, decision by
decision.
"""

from collections import Counter

import pytest
from driving import Pair, crowd, player, rng_of, serve, users
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.spec import TASKS, task

TICKS = 120


def small_world(rng, ticks=TICKS):
    """A server with little memory and a crowd for it, all settings drawn."""
    block_tokens, gpu_blocks = rng.choice((1, 4, 16)), rng.choice((16, 24, 60))
    longest = max(4, min(gpu_blocks * block_tokens // rng.choice((1, 2, 4, 4)), rng.choice((20, 60))))
    drawn = {
        "gpu_blocks": gpu_blocks,
        "cpu_blocks": rng.choice((0, 5, 30, 200)),
        "block_tokens": block_tokens,
        "token_budget": rng.choice((1, 3, 10, 50, 2_048)),
        "actions_per_tick": rng.choice((1, 2, 4, 9)),
        "admission": rng.choice(("optimistic", "optimistic", "reserve")),
        "strict": rng.random() < 0.2,
        "reuse": rng.random() < 0.85,
        "queue_free": rng.choice((1, 3, 100)),
        "queue_vip": rng.choice((1, 3, 50)),
        "sla_free": rng.choice((None, 0.001, 5, 50)),
        "sla_vip": rng.choice((None, 2, 25)),
        "hardware": rng.choice(("a100-llama-3.1-8b", "8xh100-llama-3.1-70b", "rtx4090-llama-3.1-8b")),
        "model": rng.choice(("llama-3.1-8b", "llama-3.1-70b")),
        "control_window_s": rng.choice((0.5, 60.0)),
    }
    return serve(crowd(rng, ticks, longest=longest, number=rng.choice((3, 15, 40))), ticks, **drawn)


def play(pair, choose, most=1_500):
    """Plays to the end, or so many decisions; what happened."""
    seen = Counter()
    for _ in range(most):
        if pair.plain.done:
            break
        action = choose(pair.face.mask)
        seen[action if 0 <= action < 18 and pair.face.mask[action] else "refused"] += 1
        pair.act(action)
    seen["forced"] = pair.plain.terms["forced_preemption"]
    seen["found on the GPU or CPU"] = sum((r.found or 0) > 0 for r in pair.plain.requests)
    seen["returned from the CPU and finished"] = len(
        pair.entered & {r.row for r in pair.plain.requests if r.ended}
    )
    seen.update(r.status for r in pair.plain.requests)
    seen[pair.plain.crashed or "to the end"] += 1
    return seen


@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_a_small_server_is_the_plain_one(seed):
    rng = rng_of(seed)
    play(Pair(small_world(rng)), player(rng))


@given(seed=st.integers(0, 2**32), actions=st.lists(st.integers(-2, 20), max_size=120))
@settings(max_examples=15, deadline=None)
def test_any_sequence_of_numbers_is_played_alike(seed, actions):
    pair = Pair(small_world(rng_of(seed)))
    for action in actions:
        pair.act(action)


def test_seeded_play_is_alike_and_reaches_every_rule():
    seen = Counter()
    for seed in range(36, 60):
        rng = rng_of(seed)
        seen += play(Pair(small_world(rng, 400)), player(rng))
    everything = {
        *range(18),
        "refused",
        "forced",
        "found on the GPU or CPU",
        "returned from the CPU and finished",
    }
    everything |= {"finished", "dropped", "rejected", "to the end", "no block for decode growth"}
    assert not everything - set(+seen), f"never happened: {everything - set(+seen)}"


@pytest.mark.parametrize("name", TASKS)
def test_each_task_at_its_own_size_is_the_plain_one(name):
    rng = rng_of(7)
    pair = Pair(new_state(task(name, ticks=300), 3))
    seen = play(pair, player(rng, wild=False), 500)
    assert seen["refused"] and seen[8] and seen["finished"] > 3


@pytest.mark.parametrize(
    "changes",
    [
        {"gpu_blocks": 700, "cpu_blocks": 1_000},
        {"gpu_blocks": 700, "cpu_blocks": 0},
        {"gpu_blocks": 900, "admission": "reserve"},
        {"gpu_blocks": 900, "reuse": False, "token_budget": 64},
        {"gpu_blocks": 700, "strict": True, "actions_per_tick": 1},
        {
            "gpu_blocks": 1_200,
            "queue_free": 3,
            "queue_vip": 2,
            "bursty_returns": True,
            "return_probability": 0.9,
        },
    ],
    ids=str,
)
def test_drawn_traffic_on_a_tight_server_is_served_alike(changes):
    rng = rng_of(str(changes))
    pair = Pair(new_state(task("medium", ticks=700, rho=2.0, rho_peak=3.0, **changes), 5))
    seen = play(pair, player(rng, wild=False), 700)
    assert seen["active"] + seen["finished"] > 3


def test_a_collapse_is_one_for_both():
    turns = users((0, 240, 15), (1, 16, 9), (1, 16, 9, 1), (2, 16, 9, 1))
    pair = Pair(serve(turns, gpu_blocks=16, queue_free=1, queue_vip=1))
    seen = play(pair, lambda mask: 8 if pair.plain.ticks == 0 and mask[8] else 17)
    assert seen["queues full and no memory"] and seen["dropped"] == 1 and pair.plain.ticks == 50


@pytest.mark.parametrize(("blocks", "collapses"), [(198, False), (199, True)])
def test_memory_counts_as_full_below_one_free_block_in_a_hundred(blocks, collapses):
    turns = users((0, 16 * blocks - 1, 1), (1, 3_200, 9), (1, 3_200, 9, 1))
    pair = Pair(serve(turns, 70, gpu_blocks=200, queue_free=1, queue_vip=1))
    seen = play(pair, lambda mask: 8 if pair.plain.ticks == 0 and mask[8] else 17)
    assert seen["queues full and no memory" if collapses else "to the end"] == 1
    assert pair.face.used(0) == blocks and (pair.plain.ticks == 50) == collapses
