"""What decisions of the eviction environment amount to as hints to an engine."""

import pytest

from kv_cache_rl.adapters.kv_hints import hints_of
from kv_cache_rl.sim.eviction import DECIDERS, Episode, LogError, load_scenarios
from kv_cache_rl.sim.eviction.calls import KEEP, Call
from kv_cache_rl.sim.eviction.episode import play


@pytest.fixture(scope="module")
def scenario():
    return load_scenarios(split="eval", difficulty="hard", num_examples=1)[0]


def played(scenario, decide):
    return play(Episode(scenario), decide).log


def actions(hints):
    return [one for envelope in hints.envelopes for one in envelope["actions"]]


def sessions(scenario):
    return {one.seq_id: one for one in scenario.sessions}


def test_an_envelope_has_the_fields_of_vllm_s_and_names_that_occur_once(scenario):
    hints = hints_of(scenario, played(scenario, DECIDERS["learned"]()), "learned")
    assert hints.envelopes
    for envelope in hints.envelopes:
        assert set(envelope) == {"protocol_version", "message_id", "actions"} and envelope["actions"]
        assert envelope["message_id"].startswith(f"{scenario.id}/learned/")
    found = actions(hints)
    assert all(set(one) == {"action_id", "action_type", "action_version", "payload"} for one in found)
    assert len({one["action_id"] for one in found}) == len(found) == hints.actions.total()
    assert {one["action_type"] for one in found} <= {"release", "demote", "retain"}


def test_what_returns_is_demoted_and_what_does_not_is_released(scenario):
    returning = next(name for name, one in sessions(scenario).items() if any(t.arrive > 0 for t in one.turns))
    ended = next(name for name, one in sessions(scenario).items() if one.place != "none" and not one.turns)
    running = next(
        name for name, one in sessions(scenario).items() if len(one.turns) == 1 and one.turns[0].arrive < 0
    )
    log = [[["evict", returning], ["evict", ended], ["evict", running]]]
    hints = hints_of(scenario, log, "me")
    first = {one["payload"]["target"]["session"]: one for one in hints.envelopes[0]["actions"]}
    assert first[returning]["action_type"] == "demote" and first[returning]["payload"]["tier"] == "storage"
    assert first[ended]["action_type"] == "release" and "tier" not in first[ended]["payload"]
    assert first[running]["action_type"] == "demote", "its answer is still owed"


def test_a_swap_demotes_to_the_cpu_and_what_engines_cannot_say_is_counted(scenario):
    names = [one[0] for one in Episode(scenario).observation()["rows"] if one[6] == "gpu"]
    log = [[["compress", names[0]], ["swap_to_cpu", "none"], ["keep"]]]
    hints = hints_of(scenario, log, "me")
    assert hints.untold == {"compress": 1, "refused": 1}
    freeing = [[["evict", one[0]] for one in Episode(scenario).observation()["rows"] if one[6] == "cpu"][:8]]
    swapped = hints_of(scenario, [*freeing, [["swap_to_cpu", names[0]]]], "me")
    demoted = [one["payload"] for one in actions(swapped) if one["payload"].get("tier") == "cpu"]
    assert demoted == [{"target": {"session": names[0]}, "at_s": scenario.step_ms / 1000, "tier": "cpu"}]


def test_what_is_kept_for_a_turn_that_comes_soon_is_retained_until_then(scenario):
    log = [[KEEP.to_log()]] * scenario.steps
    by_soon = {soon: hints_of(scenario, log, "keep", soon) for soon in (1, 3, 9)}
    counts = [by_soon[soon].actions["retain"] for soon in (1, 3, 9)]
    assert counts == sorted(counts) and counts[-1] > 0
    step_s = scenario.step_ms / 1000
    for one in actions(by_soon[9]):
        payload = one["payload"]
        session = sessions(scenario)[payload["target"]["session"]]
        step = round(payload["at_s"] / step_s)
        arrive = next(turn.arrive for turn in session.turns if turn.arrive > step)
        assert payload["ttl_s"] == (arrive - step + 1) * step_s and arrive - step <= 9
        assert payload["priority"] == session.priority / 1000


def test_what_is_moved_before_its_turn_is_not_retained(scenario):
    keep = hints_of(scenario, [[KEEP.to_log()]] * scenario.steps, "keep", 9)
    [first, *_] = [one["payload"] for one in actions(keep) if one["action_type"] == "retain"]
    name, step = first["target"]["session"], round(first["at_s"] * 1000 / scenario.step_ms)
    log = [[["keep"]]] * (step + 1) + [[Call("evict", name).to_log()]]
    moved = hints_of(scenario, log, "me", 9)
    retained = [one["payload"] for one in actions(moved) if one["action_type"] == "retain"]
    assert first not in retained


def test_a_log_of_another_shape_is_refused(scenario):
    with pytest.raises(LogError, match="this is no action log"):
        hints_of(scenario, [["evict"]], "me")
