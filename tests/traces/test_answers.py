"""A cache that keeps everything finds as much for a plan as it does in the lab."""

import json

import pytest
from conversations import BLOCK, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.spec import one_tier
from kv_cache_rl.sim.hierarchy.traces.load import load_trace
from kv_cache_rl.sim.hierarchy.traces.writes import decoded
from kv_cache_rl.traces.answers import Intervals, Kept, Turns
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.runs import leading, place_of, runs_of

law = settings(max_examples=40, deadline=None)


@given(seed=st.integers(0, 2**32), shortest=st.integers(1, BLOCK))
@law
def test_request_by_request_a_plan_finds_what_the_lab_finds(seed, shortest):
    made, turns = texts(seed, shortest=shortest), Turns()
    hits = run(decoded(made.trace()), one_tier(10**6), "lru").state.hits.tolist()
    for sequence, prompt, answer, path in made.rows:
        turns.add(sequence, runs_of(path), prompt, answer)
    prompts = [prompt for _, prompt, _, _ in made.rows]
    found = [min(hit * BLOCK, prompt) for hit, prompt in zip(hits, prompts, strict=True)]
    assert list(Kept(BLOCK).found(turns)) == found


def test_an_answer_is_found_by_another_session_before_its_own_goes_on(write):
    rows = [("a", 512, 512, [0]), ("b", 1536, 1, [0, 1, 2]), ("a", 1536, 1, [0, 1, 3])]
    path = write(
        [
            {"session_id": name, "timestamp": 1000 * at, "input_length": prompt, "output_length": answer}
            | {"hash_ids": ids}
            for at, (name, prompt, answer, ids) in enumerate(rows)
        ]
    )
    assert demand_of(path).histories == [0, 1024, 1024]
    assert run(load_trace(path), one_tier(100), "lru").metrics["hit_rate"] == 4 / 7


def test_calls_at_one_moment_are_counted_in_the_order_of_the_session_as_the_lab_does(tmp_path):
    agents = {"t": 6, "type": "subagent", "agent_id": "a1"}
    agents["requests"] = [{"t": 0, "type": "s", "in": 128, "out": 64, "hash_ids": [5, 6]}]
    own = [{"t": 6, "type": "s", "in": 256, "out": 1, "hash_ids": [5, 6, 7, 8]}]
    path = tmp_path / "session.json"
    path.write_text(json.dumps({"id": "s", "block_size": 64, "requests": [agents, *own]}))
    assert demand_of(path).histories == [0, 192]
    assert run(load_trace(path), one_tier(100), "lru").metrics["hit_rate"] == 3 / 6


@given(adds=st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 9)), max_size=20))
@law
def test_intervals_are_a_set(adds):
    known, plain = Intervals(), set()
    for start, length in adds:
        ahead = next((k for k in range(length) if start + k not in plain), length)
        assert known.covered(start, length) == ahead
        known.add(start, length)
        plain |= set(range(start, start + length))


@given(ids=st.lists(st.integers(-5, 9), unique=True, max_size=12), count=st.integers(-1, 14))
@law
def test_runs_are_the_ids(ids, count):
    def written(runs):
        return [start + at for start, length in runs for at in range(length)]

    runs = runs_of(ids)
    assert written(runs) == ids
    assert written(leading(runs, count)) == ids[: max(count, 0)]
    assert [place_of(runs, one) for one in [*ids, 99]] == [*range(len(ids)), -1]


@pytest.mark.parametrize("named", [{}, {"session_id": "one"}])
def test_generated_blocks_that_come_back_are_found_in_every_world(write, named):
    """One block in, one generated, one of new text per turn: 64 % by prompts alone, 80 % in an engine."""
    rows = [
        {"timestamp": 20_000 * turn, "input_length": 512 * (2 * turn + 1), "output_length": 512}
        | {"hash_ids": list(range(2 * turn + 1))} | named
        for turn in range(5)
    ]  # fmt: skip
    path = write(rows)
    demand = demand_of(path)
    assert sum(demand.histories) / sum(demand.prompts) == 0.8
    for options, rate in (({}, 0.8), ({"decode_writes": False}, 0.64)):
        assert run(load_trace(path, **options), one_tier(100), "lru").metrics["hit_rate"] == rate


def test_a_converted_trace_keeps_its_writes(write, tmp_path):
    from kv_cache_rl.sim.hierarchy.traces.convert import convert

    rows = [
        {"timestamp": 0, "input_length": 512, "output_length": 512, "hash_ids": [4]},
        {"timestamp": 9, "input_length": 1536, "output_length": 900, "hash_ids": [4, 5, 6]},
    ]
    path, out = write(rows), tmp_path / "lab.jsonl"
    convert(path, out)
    assert json.loads(out.read_text().splitlines()[0])["blocks"] == 3
    first, again = load_trace(path), load_trace(out)
    assert first.writes.block.tolist() == again.writes.block.tolist() == [1, 3]
