"""vLLM's rules: equal to a plain scheduler step by step, and every block where the books say."""

from dataclasses import replace

import numpy as np
import pytest
from plain_vllm import PlainServer

from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.sim.serving.spec import ServingError
from kv_cache_rl.sim.serving.vllm import COUNTS
from kv_cache_rl.sim.serving.vllm_server import Ask, Rules, new_server

SIZE = 4
USUAL = Rules(blocks=40, block_tokens=SIZE, token_budget=24, most_running=5)
VARIANTS = {
    "usual": {},
    "one at a time": {"most_running": 1},
    "a small pool": {"blocks": 17, "most_running": 12},
    "admitted by the step's tokens": {"blocks": 17, "most_running": 12, "whole_prompt": False},
    "without prefix caching": {"prefix_caching": False},
    "without prefix caching, a small pool": {"prefix_caching": False, "blocks": 17},
    "long prompts in parts": {"long_prefill": 5},
    "a watermark": {"watermark": 6, "blocks": 24, "most_running": 12},
    "a token for each": {"token_budget": 5},
}


def load(seed, count=60):
    """Requests of conversations with common beginnings; some turns wait for the one before."""
    rng = np.random.default_rng(seed)
    fresh, asks, step, sessions = iter(range(100, 10**6)), [], 0, {}
    for row in range(count):
        who = int(rng.integers(6))
        before, path = sessions.get(who, (-1, [who % 3, 10 + who % 2]))
        if len(path) > 10:
            before, path = -1, path[:2]
        prompt = len(path) * SIZE + int(rng.integers(1, 9))
        output = int(rng.integers(1, 14))
        path = [*path, *(next(fresh) for _ in range((prompt + output) // SIZE - len(path)))]
        asks.append(Ask(step, prompt, output, path, before if rng.random() < 0.3 else -1))
        sessions[who] = row, path
        step += int(rng.integers(0, 4)) if rng.random() < 0.9 else 60
    return asks


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_step_is_that_of_a_plain_scheduler(variant, seed):
    asks, rules = load(seed), replace(USUAL, **VARIANTS[variant])
    plain = PlainServer(asks, rules)
    expected = list(plain.steps())
    assert list(map(tuple, new_server(asks, rules).advance().tolist())) == expected
    assert len(expected) > 100
    if rules.blocks == 17:
        assert plain.preempted > 3


def test_the_variants_are_told_apart():
    rules = [replace(USUAL, **changes) for changes in VARIANTS.values()]
    assert len({new_server(load(0), one).advance().tobytes() for one in rules}) == len(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_books_balance_after_every_step_and_everything_is_over_at_the_end(variant):
    asks = load(2)
    server = new_server(asks, replace(USUAL, **VARIANTS[variant]))
    for until in range(1, 10_000):
        server.advance(until)
        server.check()
        if (server.columns.rows["made"] == server.columns.requests["output"]).all():
            break
    assert server.columns.book["serving"] == 0
    assert (server.columns.rows["ended"] < until).all()
    assert len(server.advance()) == 0


def test_a_step_at_a_time_is_the_same_as_all_at_once():
    whole, parts = new_server(load(3), USUAL).advance(), new_server(load(3), USUAL)
    last = int(whole[-1, 0]) + 1
    assert np.array_equal(np.concatenate([parts.advance(until) for until in range(1, last + 1)]), whole)


def test_a_load_worked_out_by_hand():
    """Pool of 4 blocks of 4 tokens. Both prompts have 5 tokens and begin alike, the answers have 6."""
    asks = [Ask(0, 5, 6, (7,)), Ask(0, 5, 6, (7,))]
    server = new_server(asks, Rules(blocks=4, block_tokens=4, token_budget=8, most_running=2))
    expected = [
        [0, 2, 0, 1, 0],  # 0 reads its 5 tokens in blocks a and b; 1 finds a, and reads one token in c
        [1, 2, 0, 1, 0],
        [2, 2, 0, 1, 0],
        [3, 2, 0, 1, 0],  # 8 tokens each: b and c are full
        [4, 1, 1, 1, 1],  # 0 takes d for its ninth; 1 finds no room, lets c go, and waits
        [5, 0, 1, 4, 1],  # 0 computes its tenth and has its sixth answer: it is over
    ]
    assert server.advance(6).tolist() == expected
    found = server.advance()
    # 1 finds a, and c with what it had computed before, and has 9 tokens to go on with.
    assert found[0].tolist() == [6, 1, 0, 1, 1]
    assert found[-1].tolist()[1:] == [0, 0, 4, 1]
    assert server.columns.rows["found"].tolist() == [0, 4]


def test_idle_steps_are_left_out():
    server = new_server([Ask(3, 4, 2), Ask(10**9, 4, 1)], USUAL)
    assert server.advance()[:, 0].tolist() == [3, 4, 10**9]
    assert len(COUNTS) == 5


def test_a_block_in_two_places_is_noticed():
    server = new_server(load(0), USUAL)
    server.advance(8)
    server.blocks.block["holders"][0] += 1
    with pytest.raises(LedgerError, match="held by another number of requests"):
        server.check()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"blocks": 0}, "blocks is 0; give a whole number from 1 to"),
        ({"token_budget": 0}, "token_budget is 0; give a whole number from 1 to"),
        ({"most_running": True}, "most_running is True; give a whole number"),
        ({"watermark": 41}, "watermark is 41; give a whole number from 0 to 40"),
        ({"prefix_caching": 1}, "prefix_caching is 1; give True or False"),
    ],
)
def test_rules_that_cannot_be_are_refused_by_name(changes, said):
    with pytest.raises(ServingError, match=said):
        replace(USUAL, **changes)


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ([Ask(0, 200, 9)], "request 0 needs 52 blocks, the pool has 40; give it 52 or more"),
        ([Ask(4, 5, 1), Ask(3, 5, 1)], "step of request 1 is 3; give a whole number from 4 to"),
        ([Ask(0, 5, 0)], "output of request 0 is 0; give a whole number from 1 to"),
        ([Ask(0, 5, 1, (1, 2, 3))], "request 0 names 3 full blocks, more than it fills; name fewer"),
        ([Ask(0, 5, 1), Ask(0, 5, 1, (), 1)], "after of request 1 is 1; give a whole number from -1 to 0"),
    ],
)
def test_requests_that_cannot_be_served_are_refused_by_name(asks, said):
    with pytest.raises(ServingError, match=said):
        new_server(asks, USUAL)


def test_a_server_without_requests_takes_no_step():
    assert new_server([], USUAL).advance().shape == (0, 5)
