"""The weighing with constants as a vector: the hand-written ones give the hand-written deciders."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from kv_cache_rl.search.eviction.proposals import new_log
from kv_cache_rl.search.eviction.rollout import play_policy, play_tuned, policy_return
from kv_cache_rl.sim.eviction import DECIDERS, DIFFICULTIES
from kv_cache_rl.sim.eviction.actions import ALL_VERBS, Verb
from kv_cache_rl.sim.eviction.constants import CONSTANTS, LABELS, SIGNED, START, TABLE, WRITTEN
from kv_cache_rl.sim.eviction.deciders import REGISTRY, policy_id
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.trained import FOLDER, TUNED, WeightsError, read_tuned


def with_constants(**values):
    weights = WRITTEN.copy()
    for name, value in values.items():
        weights[LABELS.index(name)] = value
    return weights


def calls_of(made, weights, allowed=ALL_VERBS, first_only=False, dealt=0):
    """The return and, window by window, (verb, slot) of every call."""
    calls, counts = new_log(made.steps)
    total = play_tuned(*new_state(made), weights, allowed, first_only, dealt, calls, counts)
    return total, [[tuple(c) for c in calls[t, : counts[t]].tolist()] for t in range(made.steps)]


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize(
    ("name", "changes"), [("weigh_value", {}), ("weigh_alike", {"value": 0, "priority": 0})]
)
def test_the_hand_written_constants_give_the_hand_written_decider(made, difficulty, name, changes):
    for index in range(5):
        scenario = made(difficulty, index)
        if (
            name == "weigh_value"
        ):  # it also counts the entries that share a prefix, which the brief view hides
            alone = tuple(replace(session, prefix=-1) for session in scenario.sessions)
            scenario = replace(scenario, sessions=alone)
        calls, counts = new_log(scenario.steps)
        total = play_policy(*new_state(scenario), policy_id(name), calls, counts)
        logged = [[tuple(c) for c in calls[t, : counts[t]].tolist()] for t in range(scenario.steps)]
        assert calls_of(scenario, with_constants(**changes)) == (total, logged)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_decider_plays_the_committed_constants(made, difficulty):
    for index in range(3):
        scenario = made(difficulty, index)
        total = calls_of(scenario, TUNED.weights)[0]
        assert policy_return(scenario, "tuned") == pytest.approx(total, abs=2e-6)


@pytest.mark.parametrize("verb", [Verb.EVICT, Verb.COMPRESS, Verb.SWAP])
def test_a_verb_that_is_not_allowed_is_not_called_and_the_others_are(made, verb):
    log = [
        call for index in range(4) for window in calls_of(made("hard", index), START)[1] for call in window
    ]
    assert {Verb.EVICT, Verb.COMPRESS, Verb.SWAP} == {call[0] for call in log}
    less = [
        call
        for index in range(4)
        for window in calls_of(made("hard", index), START, ALL_VERBS & ~(1 << verb))[1]
        for call in window
    ]
    assert {call[0] for call in less} == {Verb.EVICT, Verb.COMPRESS, Verb.SWAP} - {verb}


def test_acting_in_the_first_window_alone_leaves_the_others_without_a_call(made):
    whole, first = (calls_of(made("hard", 0), START, first_only=only)[1] for only in (False, True))
    assert first[0] == whole[0] != [] and not any(first[1:]) and any(whole[1:])


def test_dealing_keeps_the_verbs_and_draws_other_entries_the_same_for_the_same_seed(made):
    moved = count = 0
    for index in range(20):
        scenario = made("hard", index)
        plain, dealt = (calls_of(scenario, START, dealt=seed)[1][0] for seed in (0, 5))
        assert [verb for verb, _ in dealt] == [verb for verb, _ in plain]
        assert calls_of(scenario, START, dealt=5) == calls_of(scenario, START, dealt=5)
        moved += sum(a != b for a, b in zip(plain, dealt, strict=True))
        count += len(plain)
    assert moved > count / 2 and count > 20


def test_every_constant_has_a_unit_a_meaning_and_a_place():
    assert len(set(LABELS)) == len(LABELS) == len(WRITTEN) == len(START) == len(SIGNED)
    assert CONSTANTS.itemsize == 8 * len(LABELS)
    record = WRITTEN.view(CONSTANTS)[0]
    for one in TABLE:
        assert one.unit and one.about
        assert np.atleast_1d(record[one.name]).tolist() == np.atleast_1d(one.written).tolist()


@pytest.fixture
def file(tmp_path):
    """file(change) → the committed file, changed."""

    def write(change):
        found = json.loads((FOLDER / "tuned.json").read_text())
        text = change(found)
        path = tmp_path / "tuned.json"
        path.write_text(text if isinstance(text, str) else json.dumps(found))
        return path

    return write


def test_what_is_committed_is_read_back(file):
    assert read_tuned(file(lambda found: None)).weights.tolist() == TUNED.weights.tolist()
    assert TUNED.trouble == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: "{", "is damaged: it is not JSON"),
        (lambda found: "[]", "is no JSON object"),
        (lambda found: found.update(environment_version="0"), "is of environment version '0', and this"),
        (lambda found: found.update(environment_version=None), "is of environment version None"),
        (lambda found: found.update(constants=[1]), "has no constants"),
        (lambda found: found["constants"].pop("swap"), "constant 'swap' is None, and must be a number"),
        (lambda found: found["constants"].update(swop=1), "unknown constant 'swop'; did you mean swap"),
        (lambda found: found["constants"].update(swap=True), "constant 'swap' is True"),
        (lambda found: found["constants"].update(swap="1"), "constant 'swap' is '1'"),
    ],
)
def test_weights_that_cannot_be_used_are_named_with_the_remedy(file, change, words):
    with pytest.raises(WeightsError) as refused:
        read_tuned(file(change))
    said = str(refused.value)
    assert words in said and "tuned.json" in said
    assert said.endswith(
        "; train them with `kv-cache-rl train --policy tuned` and put them there, or restore the file"
    )


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.json: No such file or directory; train them with"):
        read_tuned(tmp_path / "none.json")


def test_a_decider_without_usable_weights_says_so_and_the_others_play(made, monkeypatch):
    import dataclasses

    bad = dataclasses.replace(REGISTRY["tuned"], trained=dataclasses.replace(TUNED, trouble="is damaged"))
    monkeypatch.setitem(REGISTRY, "tuned", bad)
    with pytest.raises(WeightsError, match="is damaged"):
        DECIDERS["tuned"]()
    with pytest.raises(WeightsError, match="is damaged"):
        policy_return(made("easy", 0), "tuned")
    assert policy_return(made("easy", 0), "weigh_value") < 1.0


def test_in_another_environment_version_all_but_the_trained_deciders_play():
    program = (
        "import kv_cache_rl\n"
        "kv_cache_rl.ENVIRONMENT_VERSION = '99'\n"
        "from kv_cache_rl.sim.eviction import DECIDERS\n"
        "from kv_cache_rl.search.eviction.proposals import SILENT, TRAINED\n"
        "DECIDERS['lru']()\n"
        "assert 'stability' in SILENT and TRAINED == ()\n"
        "for name in ('tuned', 'learned'):\n"
        "    try:\n"
        "        DECIDERS[name]()\n"
        "    except ValueError as error:\n"
        "        print(error)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert done.returncode == 0 and len(said) == 2, done.stderr
    for line in said:
        assert "and this release plays '99'; train them with `kv-cache-rl train --policy " in line
