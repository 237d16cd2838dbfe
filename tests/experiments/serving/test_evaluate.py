"""Evaluations give the same rows on any number of workers, go on where they stopped, and never forget what
changed.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kv_cache_rl.experiments.journal import JOURNAL, Journal
from kv_cache_rl.experiments.serving import evaluate as serving_evaluate
from kv_cache_rl.experiments.serving.evaluate import Cell, evaluate, held_out, run_cell
from kv_cache_rl.experiments.serving.log import ticks
from kv_cache_rl.search.serving.rollout import episode
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.columns import FINISHED
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import SEEDS, agent_seed
from kv_cache_rl.sim.serving.spec import ServingError, task
from kv_cache_rl.traces import TraceError

SHORT = [task("easy", ticks=150), task("hard", ticks=150)]


def play(name, scenario, seed):
    """The heuristic; whoever is called careless fails on odd seeds."""
    if name == "careless" and seed % 2:
        raise RuntimeError("no idea")
    return episode(scenario, seed, "lru" if name == "careless" else name)


def counting(name, scenario, seed):
    counting.calls.append((name, scenario.task, seed))
    return play(name, scenario, seed)


def test_rows_do_not_depend_on_the_number_of_workers(tmp_path):
    arguments = (["lru", "fifo"], SHORT, (3, 4, 5), play)
    one = evaluate(*arguments, tmp_path / "one", workers=1)
    two = evaluate(*arguments, tmp_path / "two", workers=2)
    assert json.dumps(one) == json.dumps(two)
    order = [(row["task"], row["agent"], row["seed"]) for row in one]
    assert order == [(t, a, s) for t in ("easy", "hard") for a in ("lru", "fifo") for s in (3, 4, 5)]


def test_a_row_is_the_report_of_that_episode_and_the_work_that_arrived():
    row = run_cell(Cell("lru", SHORT[0], 7), play)
    state = episode(SHORT[0], 7, "lru")
    requests = state.columns.requests
    assert repr(row["report"]) == repr(report(state).to_json())
    assert row["work_arrived"] == int((requests["prompt"] + requests["output"]).sum())
    assert 0 < row["report"]["work_completed"] <= row["report"]["work_bound"] <= row["work_arrived"]


def test_an_interrupted_evaluation_goes_on_with_what_is_missing(tmp_path):
    def until_the_third(name, scenario, seed):
        if seed == 3:
            raise KeyboardInterrupt
        return play(name, scenario, seed)

    with pytest.raises(KeyboardInterrupt):
        evaluate(["lru"], SHORT[:1], (1, 2, 3, 4), until_the_third, tmp_path)
    counting.calls = []
    told = []
    rows = evaluate(
        ["lru"],
        SHORT[:1],
        (1, 2, 3, 4),
        counting,
        tmp_path,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [seed for _, _, seed in counting.calls] == [3, 4]
    assert told == [(2, 4), (3, 4), (4, 4)]
    assert repr(rows) == repr(evaluate(["lru"], SHORT[:1], (1, 2, 3, 4), play, tmp_path / "afresh"))


def test_an_agent_that_fails_is_a_row_and_is_asked_again(tmp_path):
    rows = evaluate(["careless"], SHORT[:1], (1, 2), play, tmp_path)
    assert [row["error"] for row in rows] == ["RuntimeError: no idea (test_evaluate.py, line 35)", None]
    assert rows[0]["report"] is None
    counting.calls = []
    evaluate(["careless"], SHORT[:1], (1, 2), counting, tmp_path)
    assert [seed for _, _, seed in counting.calls] == [1]
    assert len((tmp_path / JOURNAL).read_text().splitlines()) == 1


def test_whatever_decides_a_row_is_in_its_key(tmp_path, write, monkeypatch):
    cell = Cell("lru", SHORT[0], 1)
    others = [
        Cell("fifo", SHORT[0], 1),
        Cell("lru", SHORT[1], 1),
        Cell("lru", SHORT[0], 2),
        Cell("lru", replace(SHORT[0], gpu_blocks=9_999), 1),
    ]
    assert len({one.key for one in [cell, *others]}) == 5
    assert Cell("lru", task("easy", ticks=150), 1).key == cell.key
    path = write(["first"], "trace.jsonl")
    replayed = Cell("lru", task("easy", ticks=150, trace=str(path)), 1)
    before = replayed.key
    path.write_text("second\n")
    serving_evaluate._digest_of.cache_clear()
    assert replayed.key != before
    monkeypatch.setattr(serving_evaluate, "code_digest", lambda: "other code")
    assert cell.key not in {one.key for one in others} and Cell("lru", SHORT[0], 1).key != before


def test_what_an_agent_is_beyond_its_name_is_in_the_key_and_what_is_not_known_is_not_kept(tmp_path):
    arguments = (["lru"], SHORT[:1], (1,), counting, tmp_path)
    counting.calls = []
    for identity in ("old", "old", "new", "old"):
        evaluate(*arguments, identity=lambda name, identity=identity: identity)
    assert len(counting.calls) == 2
    before = (tmp_path / JOURNAL).read_text()
    for _ in range(2):
        evaluate(*arguments, identity=lambda name: None)
    assert len(counting.calls) == 4 and (tmp_path / JOURNAL).read_text() == before
    assert Cell("lru", SHORT[0], 1, None).key is None


def test_the_code_that_decides_a_row_is_all_in_its_digest(tmp_path):
    program = (
        "import sys\nfrom kv_cache_rl.cli.serving.play import play\n"
        "from kv_cache_rl.sim.serving.spec import task\n"
        "from kv_cache_rl.experiments.serving.evaluate import Cell, run_cell\n"
        "for name in ('lru', 'qlearning', 'oracle'):\n"
        "    assert run_cell(Cell(name, task('hard', ticks=2), 0), play)['error'] is None\n"
        "found = [module for name, module in sys.modules.items() if name.startswith('kv_cache_rl')]\n"
        "print(*(module.__file__ for module in found), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    package = Path(serving_evaluate.__file__).parents[2]
    loaded = {Path(line).relative_to(package) for line in done.stdout.splitlines()}
    apart = {
        path.as_posix()
        for path in loaded
        if path.name != "__init__.py"
        and not any(path == Path(part) or Path(part) in path.parents for part in serving_evaluate.DECIDING)
    }
    assert {path for path in apart if not path.startswith("cli/")} <= NOT_DECIDING


NOT_DECIDING = {
    *("experiments/workers.py", "experiments/journal.py", "extras.py", "intervals.py", "reports/tables.py"),
    *("amounts.py", "code_cache.py", "sim/eviction/log.py"),
    "sim/eviction/spec.py",  # the command line's version
}
"""What is loaded without a say in what a row says."""


def test_held_out_seeds_are_those_that_no_agent_learns_from():
    assert held_out(20) == tuple(range(30_000, 30_020))
    assert not set(held_out(100)) & {*SEEDS["train"], *SEEDS["select"]}
    for wrong in (0, -1, 101):
        with pytest.raises(ServingError, match="give a number from 1 to 100"):
            held_out(wrong)


@pytest.mark.parametrize("name", ["lru", "stability", "random", "do_nothing"])
def test_a_log_tells_the_very_episode_that_the_compiled_loop_plays(name):
    state = new_state(SHORT[1], 5)
    which, memory = HEURISTICS[name].which, new_memory(name, agent_seed(5))
    records = list(ticks(state, lambda seen, mask: choose(which, seen, mask, memory)))
    assert repr(report(state)) == repr(report(episode(SHORT[1], 5, name)))
    assert [one.tick for one in records] == list(range(1, len(records) + 1))
    assert sum(one.reward for one in records) == pytest.approx(report(state).total_reward)
    assert records[-1].completed == np.count_nonzero(state.columns.rows["status"] == FINISHED)
    assert all(1 <= len(one.actions) <= SHORT[1].actions_per_tick for one in records)
    assert {action for one in records for action in one.actions} <= set(ACTIONS)


def test_a_log_tells_the_tick_in_which_the_server_crashed():
    scenario = task("hard", ticks=3_000, strict=True, gpu_blocks=600)
    which, state, memory = HEURISTICS["early_crash"].which, new_state(scenario, 1), new_memory("early_crash")
    records = list(ticks(state, lambda seen, mask: choose(which, seen, mask, memory)))
    assert state.crashed == "no block for decode growth"
    assert sum(one.reward for one in records) == pytest.approx(report(state).total_reward)
    assert sum(len(one.actions) for one in records) >= len(records)


def test_a_trace_that_cannot_be_replayed_is_a_row_that_says_so(write):
    path = write(["this is no trace"], "broken.jsonl")
    row = run_cell(Cell("lru", task("easy", ticks=150, trace=str(path)), 1), play)
    assert row["error"].startswith(TraceError.__name__)


def test_finished_rows_are_strict_json(tmp_path):
    rows = evaluate(["do_nothing"], SHORT[:1], (1,), play, tmp_path)
    assert rows[0]["report"]["wait"]["p95"] is None

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    for line in (tmp_path / JOURNAL).read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["row"] == rows[0]
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="JSON compliant"):
        journal.add("another", {"wait": float("nan")})
