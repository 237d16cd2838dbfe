"""View and history: what a model call holds, and what training sees of it."""

import json

import pytest
from conftest import environment, episodes
from kv_cache_eviction import evaluate
from pydantic import ValidationError
from scripted_model import calls, says, serving

from kv_cache_rl.adapters.endpoint import serving as served_policies
from kv_cache_rl.sim.eviction import DECIDERS, SYSTEM_PROMPTS, Episode, load_scenarios
from kv_cache_rl.sim.eviction import play as played

WINDOW = {"view": "brief", "history": "window"}


def seen(body: dict) -> dict:
    return json.loads(body["messages"][-1]["content"].rpartition("\n")[2])


def lively(turn: int, body: dict) -> dict:
    """Good and bad calls, a reply without any in window 3."""
    now = seen(body)
    if now["left"] == 12:
        return says("Let me think.")
    ids = [row.split()[0] for row in now["rows"]]
    return calls(("compress", {"seq_id": ids[0]}), ("evict", {"seq_id": "zz"}), ("evict", "{broken"))


def test_without_history_each_call_holds_the_prompt_and_one_message(play):
    trace, requests = play(lively, **WINDOW)
    assert trace.ok and trace.num_turns == len(requests) == len(trace.info["actions"]) == 15
    for body in requests:
        system, user = body["messages"]
        assert system == {"role": "system", "content": SYSTEM_PROMPTS["brief"]}
        assert user["role"] == "user"
    lines = requests[1]["messages"][1]["content"].split("\n")
    assert lines[0].startswith("compress ") and lines[0].endswith(": ok")
    assert lines[1] == "evict zz: refused: no entry 'zz' in the cache now; choose from rows"
    assert lines[2].startswith("refused: evict: the arguments are not JSON")
    assert "No tool was called" in requests[4]["messages"][1]["content"]


def test_every_window_is_a_branch_of_its_own_that_holds_what_the_model_saw(play):
    trace, requests = play(lively, **WINDOW)
    assert trace.num_branches == 15 and len({node.parent for node in trace.nodes}) > 15
    for branch, body in zip(trace.branches, requests, strict=True):
        system, user, reply, *rest = branch.messages
        assert [system.content, user.content] == [message["content"] for message in body["messages"]]
        assert reply.role == "assistant" and [node.sampled for node in branch.nodes[:3]] == [
            False,
            False,
            True,
        ]
        assert all(message.role == "tool" for message in rest)
    *_, last = trace.branches
    assert last.messages[-1].content.startswith("refused: ") and "{" not in last.messages[3].content


def test_history_changes_no_score(play):
    whole, _ = play(lively, view="brief")
    alone, _ = play(lively, **WINDOW)
    assert whole.num_branches == 1
    assert whole.info == alone.info and whole.rewards == alone.rewards and whole.metrics == alone.metrics


@pytest.mark.parametrize("history", ["full", "window"])
def test_a_policy_behind_the_endpoint_plays_the_view_that_it_is_shown(tmp_path, history):
    scenarios = load_scenarios(num_examples=3)
    with served_policies("weigh_value") as base_url:
        given = {"model": "weigh_value", "base_url": base_url, "api_key_var": "NONE", "num_examples": 3}
        rows = evaluate(**given, output_dir=tmp_path / "run", view="brief", history=history)
    for row, scenario in zip(rows, scenarios, strict=True):
        episode = played(Episode(scenario, "brief"), DECIDERS["weigh_value"]())
        assert row["error"] is None and row["reward"] == episode.report().total


def test_a_run_without_history_is_resumed_and_kept_as_it_was(tmp_path):
    with serving(lively) as model:
        given = {"model": "m", "base_url": model.base_url, "api_key_var": "NONE", "num_examples": 2, **WINDOW}
        first = evaluate(**given, output_dir=tmp_path / "run")
        asked = len(model.requests)
        again = evaluate(**given, output_dir=tmp_path / "run", resume=True)
        assert len(model.requests) == asked == 30
    assert [row["reward"] for row in again] == [row["reward"] for row in first]


def test_a_window_alone_with_a_harness_that_sends_everything_is_refused(null_harness):
    with pytest.raises(
        ValidationError, match="history 'window' is played by the package's own harness alone"
    ):
        environment(harness=null_harness, **WINDOW)


@pytest.mark.parametrize("wrong", [{"view": "breif"}, {"history": "none"}])
def test_a_view_or_history_that_does_not_exist_is_refused_by_name(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        environment(**wrong)


def test_a_dialogue_that_outgrows_the_context_says_what_its_view_needs():
    from scripted_model import refuses

    def full(turn: int, body: dict) -> dict:
        return calls(("keep", {})) if turn < 3 else refuses(400, "maximum context length exceeded")

    with serving(full) as model:
        [episode] = episodes(environment(view="brief"), model.base_url)
    [note] = episode.traces[0].info["notes"]
    assert "Serve it with 16,384 tokens of context for view brief and history full" in note
