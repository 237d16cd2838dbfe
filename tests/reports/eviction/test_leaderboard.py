"""A submission says what its logs earned, and the leaderboard believes none of it."""

import gzip
import json
from dataclasses import replace

import pytest

from kv_cache_rl.reports.eviction import leaderboard
from kv_cache_rl.reports.eviction.outcome import from_report
from kv_cache_rl.reports.eviction.submission import SubmissionError, submission
from kv_cache_rl.reports.eviction.submission_file import read_submission, write_submission
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, play, replay

SCENARIOS = {one.id: one for one in load_scenarios(split="test", num_examples=6)}
SPLITS = {"test": SCENARIOS, "eval": {one.id: one for one in load_scenarios(num_examples=3)}}


def rollouts(policy: str, scenarios=SCENARIOS):
    found = []
    for scenario in scenarios.values():
        episode = play(Episode(scenario), DECIDERS[policy]())
        found.append(from_report(scenario, policy, episode.report(), episode.log))
    return found


def made_of(policy: str, *more, scenarios=SCENARIOS, split="test", **named):
    runs = [rollouts(one, scenarios) for one in (policy, *more)]
    arguments = {"name": policy, "by": "tests", "target": {"model": policy}, "split": split} | named
    return submission(runs, scenarios, **arguments)


LRU = made_of("lru")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "entries").mkdir()
    return tmp_path / "entries"


def put(folder, made, name="one.json"):
    write_submission(folder / name, made)
    return folder / name


def changed(path, change):
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def entries(folder):
    return leaderboard.entries_in(folder, SPLITS)


def refused(folder) -> str:
    with pytest.raises(SubmissionError) as wrong:
        entries(folder)
    return str(wrong.value)


@pytest.mark.parametrize("name", ["one.json", "one.json.gz"])
def test_what_is_written_is_read_and_verifies(folder, name):
    path = put(folder, LRU, name)
    assert read_submission(path).to_json() == LRU.to_json()
    (one,) = entries(folder)
    scores = [outcome.normalized for outcome in rollouts("lru")]
    assert one.normalized["all"].mean == pytest.approx(sum(scores) / 6)
    before = path.read_bytes()
    assert put(folder, made_of("lru"), name).read_bytes() == before, "the same run gives the same bytes"


def window_of_a_call(run) -> tuple[str, int]:
    return next(
        (key, number)
        for key in sorted(run)
        for number, window in enumerate(run[key]["log"])
        if window and window[0][0] == "evict"
    )


def test_a_call_that_was_altered_is_found_in_its_window(folder):
    path = put(folder, LRU)
    key, number = window_of_a_call(json.loads(path.read_text())["runs"][0])
    changed(path, lambda found: found["runs"][0][key]["log"][number].pop(0))
    said = refused(folder)
    assert f"{path}: run 1, {key}, window {number + 1}:" in said and "submit the run folder anew" in said


def test_an_altered_call_is_found_even_where_it_changes_no_score(folder):
    path = put(folder, LRU)
    key = min(SCENARIOS)
    changed(path, lambda found: found["runs"][0][key]["log"][4].append(["keep"]))
    assert f"{key}, window 5:" in refused(folder)


def test_a_refused_call_that_was_altered_is_found_though_its_answer_is_the_same(folder):
    """What is refused for its name is refused alike by every verb."""
    logs = {key: [[["evict", "nothing"]]] for key in SCENARIOS}
    runs = [from_report(one, "m", replay(one, logs[key], True), logs[key]) for key, one in SCENARIOS.items()]
    path = put(folder, submission([runs], SCENARIOS, name="m", by="b", target={"model": "m"}, split="test"))
    assert entries(folder)
    key = min(SCENARIOS)
    changed(path, lambda found: found["runs"][0][key].update(log=[[["compress", "nothing"]]]))
    assert f"{key}, window 1:" in refused(folder)


@pytest.mark.parametrize("name", ["reward", "normalized"])
def test_a_score_that_was_altered_is_found(folder, name):
    path = put(folder, LRU)
    key = max(SCENARIOS)
    changed(path, lambda found: found["runs"][0][key].update({name: 0.99}))
    assert f"run 1, {key}: {name} is 0.99, but its log gives" in refused(folder)


def test_a_submission_of_another_version_is_refused(folder):
    changed(put(folder, LRU), lambda found: found.update(environment_version="1"))
    assert "environment version '1'" in refused(folder) and "submit anew" in refused(folder)


def test_scenarios_that_are_missing_or_of_another_set_are_refused(folder):
    path = put(folder, LRU)
    key = min(SCENARIOS)
    changed(path, lambda found: found["runs"][0].pop(key))
    assert f"lacks 1 of 6 scenarios of the test set, such as {key}" in refused(folder)
    changed(path, lambda found: found.update(split="eval"))
    assert "which is no scenario of the eval set" in refused(folder)


@pytest.mark.parametrize("field", ["name", "by", "model"])
def test_a_name_that_is_html_is_refused_by_name(folder, field):
    path = put(folder, LRU)
    changed(path, lambda found: found.update({field: "<script>alert(1)</script>"}))
    assert f"{path}: the field {field!r} is '<script>" in refused(folder)


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "http://a.b", 'https://a.b/" onclick="x', "https:// a"]
)
def test_a_link_is_an_https_address(link):
    with pytest.raises(SubmissionError, match="'link'"):
        made_of("lru", link=link)


def test_two_of_one_name_and_two_sets_are_refused_and_all_faults_are_told_at_once(folder):
    put(folder, LRU)
    put(folder, LRU, "two.json")
    put(folder, replace(made_of("lru", scenarios=SPLITS["eval"], split="eval"), name="three"), "three.json")
    (folder / "four.json").write_text("[1, 2")
    said = refused(folder)
    assert "two.json: one.json is called 'lru' too" in said
    assert "three.json: it played the eval set, the others the test set" in said
    assert "four.json: it is not JSON" in said and len(said.splitlines()) >= 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found.update(runs=[]), "the field 'runs' is [], not a list of 1 to 100 runs"),
        (lambda found: found.update(runs=[3]), "run 1 is int, not an object"),
        (lambda found: found.update(extra=1), "unknown field 'extra'"),
        (lambda found: found.pop("by"), "the field 'by' is missing"),
        (lambda found: found.update(prices={"in": -1, "out": 1, "cached": 1}), "the field 'prices'"),
        (lambda found: found.update(view="half"), "the field 'view' is \"half\", not one of"),
        (lambda found: found.update(submission=2), "form 2"),
        (lambda found: found.update(submission=True), "form True"),
        (lambda found: found["runs"][0][min(SCENARIOS)].update(reward=10**400), "'reward' is 1000"),
        (
            lambda found: found["runs"][0][min(SCENARIOS)].update(cached_tokens=9),
            "more tokens came from a cache",
        ),
        (lambda found: found.update(name="tun\u0435d"), "the field 'name'"),
        (lambda found: found.update(name="tuned "), "the field 'name'"),
        (lambda found: found.update(by="https://evil.example.org"), "the field 'by'"),
        (lambda found: found["runs"][0][min(SCENARIOS)].update(log=[["evict"]]), "its log is none: window 1"),
        (lambda found: found["runs"][0][min(SCENARIOS)].update(log=[[["keep"]]] * 16), "16 windows"),
        (lambda found: found["runs"][0][min(SCENARIOS)].update(trail="zz"), "window 1: the calls there"),
        (
            lambda found: found["runs"][0][min(SCENARIOS)].update(
                trail=found["runs"][0][min(SCENARIOS)]["trail"] + "0" * 8
            ),
            "the trail has 128 digits, not 120",
        ),
        (lambda found: found["runs"][0][min(SCENARIOS)].update(prompt_tokens=-1), "'prompt_tokens' is -1"),
    ],
)
def test_a_damaged_field_is_named(folder, change, said):
    changed(put(folder, LRU), change)
    assert said in refused(folder)


def test_files_that_are_no_submission_are_named(folder):
    assert "holds no submission" in refused(folder)
    (folder / "cut.json.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    assert "cut.json.gz: it is called .gz and is not gzip, or is cut off" in refused(folder)
    (folder / "cut.json.gz").write_bytes(gzip.compress(b"{}"))
    assert "this is no submission; make one with kv-cache-rl submit" in refused(folder)


def test_a_failed_rollout_is_not_submitted():
    failed = replace(rollouts("lru")[0], error="no answer", reward=None, normalized=None)
    with pytest.raises(SubmissionError, match="--resume"):
        submission([[failed]], SCENARIOS, name="a", by="b", target={"model": "lru"}, split="test")


def test_pass_power_counts_runs_that_solve_the_same_episode_again():
    two = leaderboard.entry(made_of("learned", "keep", name="mixed"), SCENARIOS)
    one = leaderboard.entry(made_of("learned"), SCENARIOS)
    solved = sum(outcome.normalized >= 0.5 for outcome in rollouts("learned"))
    assert solved, "the test needs an episode that is solved"
    assert one.passed["0.5"] == [pytest.approx(solved / 6)]
    assert two.passed["0.5"] == [pytest.approx(solved / 12), 0.0], "keep solves none"
    assert two.normalized["all"].n == 6, "scenarios, not runs"


@pytest.mark.parametrize(
    "more", [[], [["keep"]], [["evict", "nothing"]]], ids=["as it is", "keep", "refused"]
)
def test_the_best_known_logs_are_said_to_be_those(folder, more):
    """With calls that change nothing beside them, too."""
    logs = {key: [[*window, *more] for window in one.best_log] for key, one in SCENARIOS.items()}
    copied = [from_report(one, "copy", replay(one, logs[key]), logs[key]) for key, one in SCENARIOS.items()]
    put(folder, submission([copied], SCENARIOS, name="copy", by="b", target={"model": "copy"}, split="test"))
    put(folder, LRU, "lru.json")
    ranked = entries(folder)
    assert [one.made.name for one in ranked] == ["copy", "lru"]
    assert "copy: in 100% of the windows it does what the best known log does" in leaderboard.markdown(ranked)
    assert "lru: " not in leaderboard.markdown(ranked) and ranked[1].stored < 0.05


def test_money_and_tokens_are_means_of_an_episode_and_are_told_not_checked(folder):
    asked = [
        replace(one, model_calls=15, prompt_tokens=2_000, completion_tokens=100) for one in rollouts("lru")
    ]
    prices = {"in": 1.0, "out": 10.0, "cached": 0.1}
    made = submission(
        [asked], SCENARIOS, name="priced", by="b", target={"model": "m"}, split="test", prices=prices
    )
    put(folder, made)
    (one,) = entries(folder)
    assert one.usage["calls"] == 15 and one.usage["money"] == pytest.approx((2_000 + 1_000) / 1e6)
    row = dict(zip(leaderboard.HEADINGS, leaderboard.table([one])[0], strict=True))
    assert row["money"] == "0.0030" and row["asked"] == "full, full"


def test_calls_that_no_log_holds_are_refused_calls_too(folder):
    runs = [rollouts("lru")]
    for one in runs[0]:
        one.metrics["invalid_calls"] += 53
    made = submission(runs, SCENARIOS, name="many", by="tests", target={"model": "lru"}, split="test")
    put(folder, made)
    put(folder, LRU, "two.json")
    many, few = sorted(entries(folder), key=lambda one: one.made.name != "many")
    assert many.refused - few.refused == 53


def test_the_page_opens_offline_and_links_where_the_submission_says():
    one = leaderboard.entry(made_of("lru", link="https://example.org/lru"), SCENARIOS)
    text = leaderboard.page([one])
    assert '<a href="https://example.org/lru"' in text
    assert text.count("http") == 1 and "<script" not in text


def test_runs_that_are_the_same_are_said_to_be(folder):
    put(folder, made_of("lru", "lru", name="twice"))
    put(folder, made_of("lru", "fifo", name="two"), "two.json")
    said = leaderboard.markdown(entries(folder))
    assert "twice: two of its runs are the same to the last call" in said and "two: " not in said


def test_what_build_would_refuse_is_not_written(folder):
    with pytest.raises(SubmissionError, match="'prices'"):
        write_submission(folder / "one.json", replace(LRU, prices={"in": -5, "out": 1, "cached": 1}))
    assert not (folder / "one.json").exists()
