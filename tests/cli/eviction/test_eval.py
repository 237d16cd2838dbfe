"""The evaluation: two policies by default, any model by flag, failures unscored, interruptions resumed."""

import errno
import json
import os
import shlex
import shutil
import signal

import pytest

from kv_cache_rl.adapters.endpoint import serving
from kv_cache_rl.cli.eviction.findings import no_calls
from kv_cache_rl.cli.eviction.live import Live
from kv_cache_rl.cli.saved import only_writer
from kv_cache_rl.experiments.eviction import sets
from kv_cache_rl.reports.eviction.outcome import Outcome
from kv_cache_rl.sim.eviction import DECIDERS, load_scenarios, rollout
from kv_cache_rl.sim.eviction.generate import generate


def folder_of(said, tmp_path):
    return tmp_path / said.json["folder"]


def test_without_arguments_it_evaluates_learned_and_lru_on_five_scenarios_per_tier(kv, environment, tmp_path):
    said = kv("eval")
    assert said.code == 0
    assert [(asked["model"], asked["num_examples"]) for asked in environment.asked] == [
        ("learned", 15),
        ("lru", 15),
    ]
    folder = next((tmp_path / "runs").iterdir())
    assert {"config.json", "results.jsonl", "summary.json", "report.html", "learned", "lru"} == {
        p.name for p in folder.iterdir()
    }
    assert str(folder / "report.html").removeprefix(str(tmp_path) + "/") in said.out
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["tier"] for row in summary["rows"]} == {"easy", "medium", "hard", "all"}
    assert summary["environment_version"] == "2"
    assert (summary["rollouts"], summary["failed_rollouts"], summary["model_calls"]) == (30, 0, 30 * 15)


def test_scores_through_the_endpoint_equal_the_baselines_to_the_last_digit(kv, environment):
    evaluated = kv("eval", "-p", "weigh_value", "-p", "lookahead", "-n", 6, "--json").json
    direct = kv("baselines", "-p", "weigh_value", "-p", "lookahead", "-n", 6, "--json").json
    assert evaluated["rows"] == direct["rows"]


def test_a_model_on_another_server_is_asked_there_with_its_key(kv, environment, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    with serving("lru") as url:
        said = kv("eval", "--model", "lru", "--base-url", url, "--api-key-var", "MY_KEY", "-n", 3, "--json")
    assert said.code == 0
    assert [(asked["base_url"], asked["api_key_var"]) for asked in environment.asked] == [(url, "MY_KEY")]
    assert "secret" not in said.out
    scenario = load_scenarios(num_examples=3)[0]
    assert said.json["rows"][1]["reward"]["mean"] == rollout(scenario, DECIDERS["lru"]()).total


def test_a_model_can_be_set_beside_policies(kv, environment, monkeypatch):
    with serving("lru") as url:
        said = kv("eval", "-p", "keep", "--model", "lru", "--base-url", url, "-n", 3, "--json")
    assert said.code == 0
    assert [asked["model"] for asked in environment.asked] == ["keep", "lru"]


def test_a_trace_is_cut_once_however_many_policies_play_it(kv, environment, tmp_path, monkeypatch):
    cut = []

    def windows_of(path, tier, seed):
        cut.append(tier)
        return ((generate(tier, seed, "eval", k),) for k in range(9))

    monkeypatch.setattr(sets, "windows_of", windows_of)
    trace = tmp_path / "trace.jsonl"
    trace.touch()
    assert kv("eval", "-p", "keep", "-p", "lru", "--trace", trace, "-n", 3, "--json").json["rollouts"] == 6
    assert cut == ["easy", "medium", "hard"]
    os.utime(trace, (1, 1))
    assert kv("baselines", "-p", "keep", "--trace", trace, "-n", 3).code == 0
    assert len(cut) == 6, "a file that has changed is read again"


def test_failed_rollouts_end_with_one_and_are_named_and_not_scored(kv, environment):
    environment.trouble["lru", 1] = "timeout: the server did not answer in 60 s; raise the timeout"
    said = kv("eval", "-p", "lru", "-n", 3, "--json")
    assert said.code == 1
    assert "timeout: the server did not answer" in said.err
    assert "kv-cache-rl eval --resume runs/" in said.err
    rows = {row["tier"]: row for row in said.json["rows"] if row["policy"] == "lru"}
    assert (rows["all"]["failed_rollouts"], rows["all"]["reward"]["n"]) == (1, 2)
    assert rows["medium"]["reward"] is None


def test_a_server_that_never_answers_is_asked_about(kv, environment):
    environment.trouble = {("gpt", number): "APIConnectionError: connection refused" for number in range(3)}
    said = kv("eval", "--model", "gpt", "--base-url", "http://127.0.0.1:1/v1", "-n", 3)
    assert said.code == 1
    assert "every rollout of gpt failed; does http://127.0.0.1:1/v1 answer, serve 'gpt'" in said.err


def test_resuming_plays_only_what_failed(kv, environment, tmp_path):
    environment.trouble["lru", 1] = "timeout: slow; wait"
    folder = folder_of(kv("eval", "-p", "lru", "-n", 3, "--json"), tmp_path)
    environment.trouble.clear()
    environment.played.clear()
    said = kv("eval", "--resume", folder, "--json")
    assert (said.code, said.json["failed_rollouts"]) == (0, 0)
    assert environment.played == [("lru", load_scenarios(num_examples=3)[1].id)]
    assert said.json["rows"] == kv("baselines", "-p", "lru", "-n", 3, "--json").json["rows"]


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(kv, environment, tmp_path):
    environment.trouble["lru", 2] = KeyboardInterrupt()
    said = kv("eval", "-p", "keep", "-p", "lru", "-n", 3)
    assert said.code == 130
    folder = next((tmp_path / "runs").iterdir())
    assert f"5 of 6 rollouts are saved; go on with: kv-cache-rl eval --resume runs/{folder.name}" in said.err
    early = kv("report", folder)
    assert early.code == 0
    environment.trouble.clear()
    environment.played.clear()
    done = kv("eval", "--resume", folder, "--json")
    assert (done.code, done.json["rollouts"]) == (0, 6)
    assert len(environment.played) == 1


def test_a_resumed_run_that_is_interrupted_at_once_keeps_what_it_had(kv, environment, finished):
    before = (finished / "results.jsonl").read_text()
    (finished / "keep" / "saved.jsonl").unlink()
    environment.trouble["keep", 0] = KeyboardInterrupt()
    said = kv("eval", "--resume", finished)
    assert (said.code, "3 of 3 rollouts are saved" in said.err) == (130, True)
    assert (finished / "results.jsonl").read_text() == before
    assert kv("report", finished).code == 0


def test_the_command_that_goes_on_can_be_pasted_whatever_the_folder_is_called(kv, environment, tmp_path):
    environment.trouble["keep", 1] = KeyboardInterrupt()
    said = kv("eval", "-p", "keep", "-n", 3, "--out", "it's my $HOME")
    [folder] = (tmp_path / "it's my $HOME").iterdir()
    words = shlex.split(said.err.partition("go on with: ")[2])
    assert words == ["kv-cache-rl", "eval", "--resume", f"it's my $HOME/{folder.name}"]
    environment.trouble.clear()
    assert kv(*words[1:], "--json").json["rollouts"] == 3


@pytest.mark.parametrize(
    "command", [("eval", "-p"), ("baselines", "-p"), ("export-sft", "--out", "a.jsonl", "-p")]
)
def test_a_set_that_is_smaller_than_what_was_asked_for_is_said_to_be(kv, environment, command):
    said = kv(*command, "keep", "-d", "easy", "--split", "test", "-n", 51)
    assert said.code == 0 and "only 50 of the 51 scenarios asked for exist; taking those\n" in said.err
    enough = kv(*command, "keep", "-d", "easy", "--split", "test", "-n", 1)
    assert enough.code == 0 and "exist" not in enough.err


def test_a_run_interrupted_before_its_first_rollout_says_that_nothing_has_finished_and_goes_on(
    kv, environment, tmp_path
):
    environment.trouble["keep", 0] = KeyboardInterrupt()
    said = kv("eval", "-p", "keep", "-n", 3)
    folder = next((tmp_path / "runs").iterdir())
    assert (said.code, "0 of 3 rollouts are saved" in said.err) == (130, True)
    for command in (["report", folder], ["replay", "eviction-eval-hard-0000-v2", "--run", folder]):
        said = kv(*command)
        assert (said.code, said.out) == (2, "")
        assert (
            said.err == f"error: no rollout of {folder} has finished yet; "
            f"go on with: kv-cache-rl eval --resume {folder}\n"
        )
    environment.trouble.clear()
    assert kv("eval", "--resume", folder, "--json").json["rollouts"] == 3
    kv("baselines", "-p", "lru", "-n", 1, "--out", "fixed")
    (tmp_path / "fixed" / "results.jsonl").write_text("")
    assert "no rollout of fixed has finished yet; run baselines again" in kv("report", "fixed").err


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def finished(kv, environment, tmp_path, kept):
    """The folder of a run of three rollouts, which is played once and copied for each test."""
    if not kept.is_dir():
        folder_of(kv("eval", "-p", "keep", "-n", 3, "--json"), tmp_path).rename(kept)
        environment.asked.clear(), environment.played.clear()
    return shutil.copytree(kept, tmp_path / "runs" / "finished")


def test_a_run_of_another_environment_version_is_not_mixed_with_this_one(kv, finished):
    change_config(finished, environment_version="1")
    for command in (["eval", "--resume", finished], ["report", finished]):
        said = kv(*command)
        assert said.code == 2
        assert (
            "played by environment version 1, this is version 2; scores compare only within one version"
            in said.err
        )


def test_a_damaged_run_folder_is_named(kv, finished):
    lines = (finished / "results.jsonl").read_text().splitlines()
    (finished / "results.jsonl").write_text("\n".join([lines[0], lines[1][:50]]))
    said = kv("report", finished)
    assert (said.code, "line 2" in said.err, "--resume" in said.err) == (2, True, True)
    (finished / "config.json").write_text("{")
    said = kv("eval", "--resume", finished)
    assert (said.code, "config.json is damaged" in said.err) == (2, True)


def test_a_baselines_folder_is_not_resumed(kv, environment):
    kv("baselines", "-p", "keep", "-n", 3, "--out", "run")
    said = kv("eval", "--resume", "run")
    assert (said.code, "cannot be resumed; run it again" in said.err) == (2, True)


FAULTS = {
    "no text": (b'{"scenario_id": "\xff"}', "line 2: byte 0xff at position 18 is not UTF-8"),
    "a null log": ({"log": None}, "line 2: the field 'log' is null, not a list of windows of calls"),
    "a null model": ({"model": None}, "line 2: the field 'model' is null, not a text"),
    "a reward that is no number": (
        {"reward": float("nan")},
        "line 2: it holds NaN, which is no number in JSON",
    ),
    "rewards of another kind": ({"rewards": {"a": "b"}}, "line 2: the field 'rewards' is"),
    "a call that is none": ({"log": [[{"verb": "evict"}]]}, "line 2: the field 'log' is"),
    "a negative count": ({"model_calls": -1}, "line 2: the field 'model_calls' is -1, not a count"),
    "a key twice": (b'{"model": "keep", "model": "lru"}', "line 2: the field 'model' stands there twice"),
    "an unknown scenario": (
        {"scenario_id": "eviction-eval-easy-9999-v2"},
        "line 2: the run has no scenario 'eviction-eval-easy-9999-v2'",
    ),
    "an unknown model": ({"model": "gpt"}, "line 2: the model 'gpt' is none of this run (keep)"),
    "a better reward": ({"reward": 0.9}, "line 2: reward is 0.9, but the log of this line gives -0."),
    "a better score": ({"normalized": 1.0}, "line 2: normalized is 1.0, but the log of this line gives"),
    "one term less": ({"rewards": {}}, "line 2: rewards.eviction_quality is None, but the log"),
    "no failures": ({"metrics": {"total_failures_metric": 0.0}}, "line 2: metrics."),
    "another log": ({"log": [[["evict", "s1"]]] * 15}, "but the log of this line gives"),
    "a short log": ({"log": [[["keep"]]] * 3}, "but the log of this line gives"),
    "an empty log": ({"log": []}, "but the log of this line gives"),
    "a long log": ({"log": [[["keep"]]] * 16}, "line 2: the log has 16 windows"),
    "another tier": ({"difficulty": "all"}, "line 2: the field 'difficulty' is 'all', but"),
    "a failed rollout with a score": (
        {"error": "lost"},
        "the field 'reward' of a failed rollout is not null",
    ),
    "no reward": ({"reward": None}, "the field 'reward' of a rollout without an error is null"),
    "a time before its start": ({"seconds": -1}, "the field 'seconds' is -1, not a number of 0 or more"),
    "a rollout twice": ("first", "line 2: it repeats line 1"),
    "deep nesting": (b"[" * 100_000, "line 2: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_results_file_that_was_altered_is_refused_with_line_field_and_remedy(kv, finished, fault):
    path, (change, words) = finished / "results.jsonl", FAULTS[fault]
    lines = path.read_bytes().splitlines()
    if isinstance(change, dict):
        change = json.dumps(json.loads(lines[1]) | change).encode()
    lines[1] = lines[0] if change == "first" else change
    path.write_bytes(b"\n".join(lines) + b"\n")
    said = kv("report", finished)
    assert (said.code, said.out) == (2, "")
    assert words in said.err and "results.jsonl" in said.err and "delete" in said.err
    assert kv("eval", "--resume", finished, "--json").code == 0, "resuming writes the file anew"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_examples": "x"}, "the field 'num_examples' is \"x\", not a whole number"),
        ({"num_examples": True}, "the field 'num_examples' is true"),
        ({"num_examples": 0}, "the field 'num_examples' is 0, not -1 or a number from 1 on"),
        ({"seed": -1}, "the field 'seed' is -1, not a number from 0 on"),
        ({"max_concurrent": 0}, "the field 'max_concurrent' is 0, not a number from 1 on"),
        ({"sampling": {"temperature": "hot"}}, "'temperature' of 'sampling' is \"hot\", not a number"),
        ({"patience": {"max_retries": True}}, "'max_retries' of 'patience' is true, not a number"),
        ({"targets": []}, "the field 'targets' names no model"),
        ({"targets": [{"model": "m"}, {"model": "m"}]}, "number 2 of 'targets' is 'm' once more"),
        ({"targets": {}}, "the field 'targets' is {}, not a list"),
        ({"targets": [{"model": 1}]}, "number 1 of 'targets' names no model"),
        ({"targets": [{"model": "m", "base_url": 5}]}, "'base_url' of number 1 of 'targets' is no text"),
        ({"targets": [{"model": "m", "base_url": "http://x"}]}, "'api_key_var' of number 1"),
        ({"started": None}, "the field 'started' is null, not a text"),
        ({"patience": 3}, "the field 'patience' is 3, not an object"),
    ],
)
def test_a_config_of_another_type_is_refused_with_the_field(kv, finished, changes, words):
    change_config(finished, **changes)
    for command in (["eval", "--resume", finished], ["report", finished]):
        said = kv(*command)
        assert (said.code, said.out) == (2, "")
        assert "config.json is damaged: " in said.err and words in said.err and "start a new run" in said.err


def test_policies_take_no_new_address(kv, finished):
    for option in (["--base-url", "http://127.0.0.1:1/v1"], ["--price-in", 1, "--price-out", 2]):
        said = kv("eval", "--resume", finished, *option)
        assert (said.code, f"leave out {option[0]}" in said.err) == (2, True)


def test_two_evaluations_do_not_write_to_one_folder(kv, finished):
    with only_writer(finished, "evaluation"):
        said = kv("eval", "--resume", finished)
    assert (said.code, said.out) == (2, "")
    assert f"another evaluation writes to {finished} now; wait until it ends" in said.err
    assert kv("eval", "--resume", finished, "--json").code == 0


@pytest.mark.parametrize("ignored", [False, True], ids=["in front", "in the background"])
def test_sigterm_ends_like_an_interrupt_with_the_command_that_goes_on(kv, environment, tmp_path, ignored):
    def terminate(row: dict) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    environment.before_rollout = {("keep", 1): terminate}
    try:
        said = kv("eval", "-p", "keep", "-n", 3)
    finally:
        signal.signal(signal.SIGINT, before)
    [folder] = (tmp_path / "runs").iterdir()
    assert said.code == 143
    assert f"1 of 3 rollouts are saved; go on with: kv-cache-rl eval --resume runs/{folder.name}" in said.err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_full_disk_names_the_folder_and_the_command_that_goes_on(kv, environment, tmp_path):
    environment.trouble["keep", 2] = OSError(errno.ENOSPC, "No space left on device")
    said = kv("eval", "-p", "keep", "-n", 3)
    [folder] = (tmp_path / "runs").iterdir()
    assert (said.code, said.out) == (2, "")
    assert f"runs/{folder.name}: No space left on device; make room" in said.err
    assert f"2 of 3 rollouts are saved; go on with: kv-cache-rl eval --resume runs/{folder.name}" in said.err


def test_options_reach_the_environment_and_a_number_that_is_none_is_refused(kv, environment):
    options = ["--timeout", 9, "--max-retries", 1, "--patience", 30, "--max-tokens", 50, "--temperature", 0]
    with serving() as url:
        model = ("--model", "lru", "--base-url", url)
        assert kv("eval", *model, "-n", 1, "--max-concurrent", 1, *options, "--json").code == 0
    [asked] = environment.asked
    assert asked["patience"] == {"request_timeout": 9, "max_retries": 1, "patience": 30}
    assert asked["sampling"] == {"max_tokens": 50, "temperature": 0}
    assert asked["max_concurrent"] == 1
    for option in ("--temperature", "--timeout", "--patience"):
        said = kv("eval", "-p", "keep", option, "inf")
        assert (said.code, "give a number, or leave it out" in said.err) == (2, True)


def test_a_few_scenarios_show_their_number_instead_of_an_interval(kv, environment):
    few, many = (
        kv("eval", "-p", "keep", "-p", "lru", "-n", 2, "-d", "easy"),
        kv("eval", "-p", "keep", "-n", 5, "-d", "easy"),
    )
    table = few.out.split("± is")[0]
    assert "±" not in table and "(n = 2)" in table
    assert "too few for an interval (from 5 on)" in few.out
    assert "±" in many.out.split("± is")[0]


def test_life_shows_in_calls_and_waits(capsys):
    clock = iter(range(0, 10_000, 20)).__next__
    live = Live(3, quiet=False, clock=clock)
    live.bar, live.lines = False, True
    with live:
        live.begin("m")
        for _ in range(6):
            live.answered()
        live.advance()
        live.waiting(0.5, "upstream 503: busy")
        live.waiting(5, "upstream 429: rate limit\nreached")
        live.waiting(5, "upstream 429: rate limit\nreached")
    lines = capsys.readouterr().err.splitlines()
    assert "m: 0 of 3 rollouts, 2 calls" in lines
    assert "m: 1 of 3 rollouts, 6 calls, waiting 5 s: upstream 429: rate limit reached" in lines


def test_without_the_environment_package_it_says_what_to_install(kv, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "kv_cache_eviction", None)
    said = kv("eval")
    assert (said.code, "pip install -e environments/kv_cache_eviction" in said.err) == (2, True)


def test_the_real_package_gives_the_same_scores(kv):
    package = pytest.importorskip("kv_cache_eviction", reason="the environment package is not installed")
    if not hasattr(package, "evaluate"):
        pytest.skip("the installed environment package has no evaluate")
    said = kv("eval", "-p", "weigh_value", "-n", 3, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["rows"] == kv("baselines", "-p", "weigh_value", "-n", 3, "--json").json["rows"]
    assert said.json["model_calls"] == 3 * 15


@pytest.mark.parametrize(
    "option",
    [
        *(["--policy", "keep"], ["--model", "m"], ["--difficulty", "hard"], ["--split", "eval"], ["-n", 3]),
        *(["--seed", 42], ["--max-tokens", 9], ["--temperature", 0], ["--trace", "t"], ["--out", "o"]),
    ],
    ids=lambda option: option[0],
)
def test_what_a_run_keeps_cannot_be_given_anew(kv, finished, option):
    before = (finished / "config.json").read_bytes()
    said = kv("eval", "--resume", finished, *option)
    assert (said.code, said.out) == (2, "")
    assert "cannot change in a run that goes on; leave it out, or start a new run" in said.err
    assert (finished / "config.json").read_bytes() == before


def test_replies_without_a_call_that_a_limit_cut_are_not_laid_to_the_servers_parser():
    def silent(*notes):
        return Outcome(
            *("s", "easy", "eval", "m"), error=None, reward=0.0, normalized=0.0, rewards={},
            log=[["keep"]] * 15,
            metrics={"text_only_steps": 15.0}, model_calls=15, notes=list(notes),
        )  # fmt: skip

    assert "does the server parse tool calls?" in no_calls([silent()])
    for reason in ("were cut at a length limit (finish_reason 'length')", "(finish_reason 'content_filter')"):
        said = no_calls([silent(f"15 of 15 replies {reason}")])
        assert "15 of 15 replies held no tool call" in said and "parse" not in said


def asked_views(environment) -> list[tuple]:
    return [(asked["model"], asked["view"], asked["history"]) for asked in environment.asked]


def test_a_model_plays_the_brief_view_and_policies_the_full_one_unless_told_otherwise(kv, environment):
    with serving("lru") as url:
        assert kv("eval", "-p", "keep", "--model", "lru", "--base-url", url, "-n", 1, "--json").code == 0
        assert asked_views(environment) == [("keep", "full", "full"), ("lru", "brief", "full")]
        environment.asked.clear()
        given = ["--view", "brief", "--history", "window"]
        said = kv("eval", "-p", "keep", "--model", "lru", "--base-url", url, "-n", 1, *given, "--json")
    assert asked_views(environment) == [("keep", "brief", "window"), ("lru", "brief", "window")]
    assert [(t["view"], t["history"]) for t in said.json["config"]["targets"]] == [("brief", "window")] * 2


def test_a_run_is_resumed_with_its_own_view_and_history_and_refused_with_another(kv, finished, environment):
    environment.asked.clear()
    assert kv("eval", "--resume", finished, "--view", "full", "--json").code == 0
    assert {(view, history) for _, view, history in asked_views(environment)} == {("full", "full")}
    for option, other, own in (("--view", "brief", "full"), ("--history", "window", "full")):
        said = kv("eval", "--resume", finished, option, other)
        assert (said.code, said.out) == (2, "")
        assert f"was begun with {option[2:]} {own} for" in said.err and f"leave out {option}" in said.err


@pytest.mark.parametrize(("option", "wrong"), [("--view", "breif"), ("--history", "none")])
def test_a_view_or_history_that_does_not_exist_is_refused_by_name(kv, environment, option, wrong):
    said = kv("eval", "-p", "keep", "-n", 1, option, wrong)
    assert said.code == 2 and f"unknown {option[2:]} {wrong!r}" in said.err and not environment.asked


def test_money_is_tokens_times_prices(kv, environment, monkeypatch):
    def play(scenario, model, base_url):
        row = original(scenario, model, base_url)
        return row | {"prompt_tokens": 3_000_000, "cached_tokens": 1_000_000, "completion_tokens": 500_000}

    original = environment.play
    monkeypatch.setattr(environment, "play", play)
    with serving("lru") as url:
        model = ["--model", "lru", "--base-url", url, "-n", 3]
        prices = ["--price-in", 2, "--price-out", 8, "--price-cached", 0.5]
        said = kv("eval", *model, *prices, "--json").json
        table = kv("eval", *model, *prices).out
        unpriced = kv("eval", *model, "--json").json
    [usage] = said["usage"]
    assert (usage["read"], usage["cached"], usage["written"]) == (3_000_000, 1_000_000, 500_000)
    assert (usage["cost"], usage["cost_in_all"]) == (2 * 2 + 0.5 + 8 * 0.5, 25.5)
    assert "8.5000" in table and "25.5000" in table and "3,000,000" in table
    assert "cost" not in unpriced["usage"][0]


def test_a_server_that_reports_no_tokens_costs_nothing_that_is_known(kv, environment, monkeypatch):
    original = environment.play
    silent = {"prompt_tokens": 0, "completion_tokens": 0}
    monkeypatch.setattr(environment, "play", lambda *given: original(*given) | silent)
    with serving("lru") as url:
        prices = ["--price-in", 2, "--price-out", 8]
        said = kv("eval", "--model", "lru", "--base-url", url, "-n", 1, *prices, "--json").json
    assert said["usage"][0]["read"] is said["usage"][0]["cost"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--price-in", 1], "--price-in is given without --price-out"),
        (["--price-out", 1], "--price-out is given without --price-in"),
        (["--price-cached", 1], "--price-cached is given without --price-in"),
        (["--price-in", "inf", "--price-out", 1], "--price-in is inf; give a number"),
        (["--price-in", -1, "--price-out", 1], "--price-in"),
        (["--price-in", 1, "--price-out", 1], "--price-in is given without --model"),
    ],
)
def test_a_price_alone_and_one_that_is_none_are_refused(kv, environment, options, words):
    said = kv("eval", "-p", "keep", "-n", 1, *options)
    assert said.code == 2 and words in said.err and not environment.asked
