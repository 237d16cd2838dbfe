"""Evaluation as a function: rows that equal the simulator's, failures that stay failures, runs that go on."""

import signal

import pytest
from conftest import environment
from kv_cache_eviction import evaluate
from kv_cache_eviction.served import Watch
from scripted_model import ERROR_500, calls, serving

from kv_cache_rl.adapters.endpoint import serving as served_policies
from kv_cache_rl.reports.eviction.outcome import Outcome
from kv_cache_rl.sim.eviction import DECIDERS, load_scenarios, rollout


def arguments(base_url: str, folder, **more) -> dict:
    return {
        "base_url": base_url,
        "api_key_var": "NO_KEY_NEEDED",
        "output_dir": folder,
        "num_examples": 3,
        "view": "full",
        **more,
    }


def test_every_policy_scores_the_same_as_a_chat_model_and_on_the_simulator(tmp_path):
    [scenario] = load_scenarios("hard", num_examples=1)
    with served_policies() as base_url:
        for name in DECIDERS:
            given = arguments(base_url, tmp_path / name, difficulty="hard") | {"num_examples": 1}
            for row in evaluate(model=name, **given):
                report = rollout(scenario, DECIDERS[name]())
                expected = (scenario.id, report.total, report.normalized, report.rewards, report.metrics)
                assert (
                    row["scenario_id"],
                    row["reward"],
                    row["normalized"],
                    row["rewards"],
                    row["metrics"],
                ) == expected, name
                assert Outcome.from_json(row).model_calls == 15


class Hears(Watch):
    """Keeps what is said about a run that goes on."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def resumed(self, kept: int) -> None:
        self.kept.append(kept)


def test_a_run_that_goes_on_says_how_much_of_it_is_kept(tmp_path):
    hears = Hears()
    with serving(lambda turn, body: calls(("keep", {}))) as model:
        given = {**arguments(model.base_url, tmp_path / "run"), "model": "scripted", "watch": hears}
        evaluate(**given)
        evaluate(**given, resume=True)
        (tmp_path / "run" / "traces.jsonl").write_text("")
        evaluate(**given, resume=True)
        (tmp_path / "run" / "traces.jsonl").unlink()
        evaluate(**given, resume=True)
    assert hears.kept == [3, 0, 0]


def test_a_failed_rollout_has_an_error_and_no_score_and_a_resumed_run_repeats_it_alone(tmp_path):
    down, seen = [True], []

    def script(turn: int, body: dict) -> dict:
        return ERROR_500 if down and body["messages"][1]["content"] == poisoned else calls(("keep", {}))

    poisoned = list(environment(num_examples=3).taskset)[2].data.prompt
    with serving(script) as model:
        given = arguments(model.base_url, tmp_path / "run", on_rollout=seen.append)
        first = evaluate(model="scripted", **given)
        assert [row["error"] is None for row in first] == [True, True, False]
        assert "out of memory" in first[2]["error"]
        assert (
            first[2]["reward"] is first[2]["normalized"] is first[2]["rewards"] is first[2]["metrics"] is None
        )
        assert sorted(row["scenario_id"] for row in seen) == sorted(row["scenario_id"] for row in first)
        down.clear()
        asked = len(model.requests)
    with serving(script) as elsewhere:  # another port, as after a restart
        second = evaluate(model="scripted", resume=True, **arguments(elsewhere.base_url, tmp_path / "run"))
        assert len(elsewhere.requests) == 15 < asked
    assert second[:2] == first[:2]
    assert second[2]["error"] is None and second[2]["model_calls"] == 15


def test_a_run_interrupted_with_ctrl_c_keeps_what_was_done(tmp_path):
    def stop_after_the_first(row: dict) -> None:
        signal.raise_signal(signal.SIGINT)

    # A test run started in the background inherits an ignored SIGINT.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    with serving(lambda turn, body: calls(("keep", {}))) as model:
        given = arguments(model.base_url, tmp_path / "run", max_concurrent=1)
        with pytest.raises(KeyboardInterrupt):
            evaluate(model="scripted", on_rollout=stop_after_the_first, **given)
        signal.signal(signal.SIGINT, inherited)
        asked = len(model.requests)
        assert 15 <= asked < 45
        rows = evaluate(model="scripted", resume=True, **given)
        assert len(model.requests) - asked <= 2 * 15 + 1  # a request that was cut off may still be counted
    assert all(row["error"] is None for row in rows)


def test_a_rollout_whose_log_was_altered_is_played_again_by_a_resumed_run(tmp_path):
    with serving(lambda turn, body: calls(("keep", {}))) as model:
        given = arguments(model.base_url, tmp_path / "run")
        first = evaluate(model="scripted", **given)
        path = tmp_path / "run" / "traces.jsonl"
        lines = path.read_text().splitlines()
        altered = lines[1].replace('"actions":[[["keep"]]', '"actions":[[["evict","s1"]]', 1)
        assert altered != lines[1]
        path.write_text("\n".join([lines[0], altered, lines[2][:-40], '{"traces": 5}', "[" * 9999]))
        asked = len(model.requests)
        again = evaluate(model="scripted", resume=True, **given)
        assert len(model.requests) - asked == 2 * 15
        assert [row["log"] for row in again] == [row["log"] for row in first]
