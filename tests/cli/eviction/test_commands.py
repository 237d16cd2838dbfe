"""Each command does what it says; its JSON holds the numbers of the simulator."""

import dataclasses
import json
import statistics

import pytest

from kv_cache_rl.cli.eviction import runs
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.experiments.eviction import sets
from kv_cache_rl.sim.eviction import DECIDERS, TOOLS, load_file, load_scenarios, rollout
from kv_cache_rl.sim.eviction.generate import generate


@pytest.fixture(scope="module")
def three():
    return load_scenarios(num_examples=3)


@pytest.fixture
def file_of_three(three, tmp_path):
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps(scenario.to_json()) + "\n" for scenario in three))
    return path


def test_baselines_averages_what_the_simulator_gives(kv, three):
    said = kv(
        "baselines", "--policy", "lru", "--policy", "keep", "--policy", "lru", "--num-examples", 3, "--json"
    ).json
    rows = {(row["tier"], row["policy"]): row for row in said["rows"]}
    for policy in ("lru", "keep"):
        totals = [rollout(scenario, DECIDERS[policy]()).total for scenario in three]
        assert rows["all", policy]["reward"]["mean"] == pytest.approx(statistics.fmean(totals))
    assert {policy for _, policy in rows} == {"floor (best fixed rule)", "lru", "keep", "oracle (best known)"}
    assert said["failed_rollouts"] == 0


def test_baselines_plays_every_policy_by_default_and_five_scenarios_of_the_tier(kv):
    said = kv("baselines", "--difficulty", "easy", "--json").json
    policies = [row["policy"] for row in said["rows"]]
    assert policies == ["floor (best fixed rule)", *DECIDERS, "oracle (best known)"]
    assert {row["scenarios"] for row in said["rows"]} == {5}


def test_baselines_prints_a_table_and_markdown(kv):
    table = kv("baselines", "--policy", "lru", "-n", 3)
    text = kv("baselines", "--policy", "lru", "-n", 3, "--markdown")
    assert "95 % t interval over scenarios" in table.out
    assert text.out.startswith("| tier | policy |")
    assert text.out.count("\n") == 2 + 4 * 3


def test_a_baselines_folder_can_be_reported_and_replayed(kv, tmp_path, three):
    assert kv("baselines", "--policy", "lru", "-n", 3, "--out", "run").code == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json",
        "results.jsonl",
        "summary.json",
        "report.html",
    }
    said = kv("report", "run", "--out", "page.html", "--json").json
    assert said == {"report": "page.html", "bytes": (tmp_path / "page.html").stat().st_size, "rollouts": 3}
    played = kv("replay", three[1].id, "--run", "run", "--json").json
    assert (played["policy"], played["reward"]) == ("lru", rollout(three[1], DECIDERS["lru"]()).total)


@pytest.mark.parametrize("policy", ["keep", "lookahead", "oracle"])
def test_replay_tells_the_episode_window_by_window(kv, three, policy):
    told = kv("replay", three[2].id, "--policy", policy).out
    said = kv("replay", three[2].id, "--policy", policy, "--json").json
    assert [line.split()[1] for line in told.splitlines() if line.startswith("window")] == [
        str(n) for n in range(1, 16)
    ]
    assert f"reward {said['reward']:+.4f}" in told
    assert said["reward"] == (
        three[2].best if policy == "oracle" else rollout(three[2], DECIDERS[policy]()).total
    )
    assert told.count("! failed") == said["metrics"]["total_failures_metric"]


def test_a_scenario_can_come_from_a_file(kv, three, file_of_three):
    third = kv("replay", f"{file_of_three}:{three[2].id}", "--policy", "lru", "--json").json
    assert third["scenario_id"] == three[2].id
    for command in ("replay", "scenarios show"):
        unnamed = kv(*command.split(), file_of_three)
        assert unnamed.code == 2
        assert f"holds 3 scenarios; name one of them, such as {file_of_three}:{three[0].id}" in unnamed.err
    wrong = kv("replay", f"{file_of_three}:{three[2].id}x")
    assert (wrong.code, f"did you mean {three[2].id}?" in wrong.err) == (2, True)
    file_of_three.write_text(json.dumps(three[1].to_json()) + "\n")
    assert kv("replay", file_of_three, "--json").json["scenario_id"] == three[1].id
    same = [three[0].to_json(), three[1].to_json() | {"id": three[0].id}]
    file_of_three.write_text("".join(json.dumps(one) + "\n" for one in same))
    said = kv("replay", f"{file_of_three}:{three[0].id}")
    assert said.code == 2 and f"2 scenarios have the id {three[0].id}; give each its own" in said.err


def test_verify_finds_nothing_in_good_files_and_every_kind_of_lie_in_bad_ones(
    kv, tmp_path, three, file_of_three
):
    assert kv("scenarios", "verify", file_of_three, "--json").json == {"scenarios": 3, "faults": []}
    rows = [json.loads(line) for line in file_of_three.read_text().splitlines()]
    rows[0]["best"] += 0.001
    rows[1]["floor"] -= 0.001
    rows[2]["floor_by"] = "nobody"
    lies = tmp_path / "lies.jsonl"
    lies.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    said = kv("scenarios", "verify", lies, "--json")
    assert said.code == 1
    found = [(fault["scenario_id"], fault["fault"]) for fault in said.json["faults"]]
    first, second, third = (scenario.id for scenario in three)
    assert (first, "the id stands 2 times") in found
    assert [fault for name, fault in found if name == first and "the stored log returns" in fault][1:] != []
    assert any(name == second and "the stored floor is" in fault for name, fault in found)
    assert any(name == third and "floor_by: unknown rule 'nobody'" in fault for name, fault in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("budget_pages"), "budget_pages"),
        (lambda row: row.update(version="0"), "version"),
        (lambda row: row.update(steps="many"), "steps"),
        (lambda row: row.update(surprise=1), "surprise"),
    ],
)
def test_a_bad_scenario_line_is_named_by_file_line_and_field(kv, tmp_path, file_of_three, change, words):
    rows = [json.loads(line) for line in file_of_three.read_text().splitlines()]
    change(rows[1])
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = kv("scenarios", "verify", bad)
    assert said.code == 2
    assert f"{bad}:2" in said.err
    assert words in said.err


def test_no_permission_is_named_with_the_file(kv, monkeypatch, file_of_three):
    import pathlib

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    said = kv("scenarios", "verify", file_of_three)
    assert said.code == 2
    assert str(file_of_three) in said.err
    assert "permission" in said.err


def test_show_prints_facts_json_and_the_text_a_model_reads(kv, three):
    from kv_cache_rl.sim.eviction import Episode, Scenario

    scenario = three[2]
    assert all(session.seq_id in kv("scenarios", "show", scenario.id).out for session in scenario.sessions)
    assert Scenario.from_json(kv("scenarios", "show", scenario.id, "--json").json) == scenario
    seen = {view: Episode(scenario, view).prompt() for view in ("brief", "full")}
    shown = ("scenarios", "show", scenario.id, "--observation")
    assert kv(*shown).out.strip() == kv(*shown, "--view", "brief").out.strip() == seen["brief"]
    assert kv(*shown, "--view", "full").out.strip() == seen["full"]
    assert "unknown view 'breif'" in kv(*shown, "--view", "breif").err
    assert "--view is given without --observation" in kv(*shown[:3], "--view", "full").err


def test_export_writes_messages_and_tools_that_datasets_reads(kv, tmp_path):
    from datasets import Dataset

    said = kv("export-sft", "--out", "deep/expert.parquet", "--split", "eval", "-n", 3, "--json").json
    assert (said["dialogues"], said["left_out"]) == (3, 0)
    rows = Dataset.from_parquet(str(tmp_path / "deep" / "expert.parquet"), cache_dir=str(tmp_path / "cache"))
    by_id = {scenario.id: scenario for scenario in load_scenarios(num_examples=3)}
    for row in rows:
        assert row["reward"] == by_id[row["scenario_id"]].best
        assert json.loads(row["tools"]) == TOOLS
        roles = [message["role"] for message in row["messages"]]
        assert (roles[0], roles[1], roles[-1], roles.count("assistant")) == (
            "system",
            "user",
            "assistant",
            15,
        )


def test_oracle_is_at_least_as_good_as_what_is_stored(kv, three):
    said = kv("oracle", three[0].id, "--action-log", "--json").json["scenarios"]
    assert said[0]["scenario_id"] == three[0].id
    assert said[0]["found"] >= said[0]["floor"]
    assert len(said[0]["log"]) == 15


def test_of_a_scenario_without_references_nothing_is_said_to_be_its_best(kv, three, tmp_path):
    bare = dataclasses.replace(three[0], floor=0.0, floor_by="", best=0.0, best_log=())
    (tmp_path / "bare.jsonl").write_text(json.dumps(bare.to_json()) + "\n")
    told, said = kv("replay", "bare.jsonl", "-p", "lru").out, kv("replay", "bare.jsonl", "--json").json
    assert "no references: kv-cache-rl oracle finds" in told and "normalised" not in told
    assert [said[name] for name in ("normalized", "floor", "best")] == [None] * 3
    assert said["metrics"]["regret"] is None
    assert "no references" in kv("scenarios", "show", "bare.jsonl").out
    (row,) = kv("oracle", "bare.jsonl", "--width", 1, "--json").json["scenarios"]
    assert (row["floor"], row["stored"]) == (None, None) and row["found"] > 0
    planned = kv("planner", "bare.jsonl", "--futures", 2)
    assert planned.code == 2 and "stores no best-known log" in planned.err


def test_a_file_is_searched_whole(kv, three, file_of_three):
    said = kv("oracle", file_of_three, "--width", 1, "--json").json["scenarios"]
    assert [row["scenario_id"] for row in said] == [one.id for one in three]


def test_planner_is_shown_beside_trained_deciders_and_the_oracle(kv, three):
    command = ("planner", three[0].id, "--futures", 2, "--checks", 1, "--workers", 1, "--out", "kept")
    said = kv(*command, "--json").json
    assert (said["futures"], said["seed"]) == (2, 42)
    rows = {row["policy"]: row["reward"]["mean"] for row in said["rows"]}
    assert list(rows) == ["floor (best fixed rule)", "planner", "tuned", "learned", "oracle (best known)"]
    assert rows["learned"] == pytest.approx(rollout(three[0], DECIDERS["learned"]()).total)
    assert rows["oracle (best known)"] == three[0].best
    kinds = [(one["kind"], one["against"]) for one in said["gains"]]
    assert kinds == [("view", "tuned"), ("view", "learned"), ("future", "tuned"), ("model", "tuned")]
    told = kv(*command).out
    assert "the same search in the true future" in told and "CPU seconds a window" in told


def test_a_stopped_planner_goes_on_and_another_seed_is_refused(kv, three, monkeypatch):
    from kv_cache_rl.experiments.eviction import foresight

    played = []
    planned = foresight.planned
    monkeypatch.setattr(foresight, "planned", lambda *job, **of: played.append(job) or planned(*job, **of))
    names = [one.id for one in three[:2]]
    command = ("planner", "--futures", 2, "--workers", 1, "--out", "kept", "--json")
    kv(*command, names[0])
    rows = kv(*command, *names).json["rows"]
    assert [job[0][0].id for job in played] == names and rows
    refused = kv(*command, *names, "--seed", 7)
    assert refused.code == 2 and "another seed (42, now 7)" in refused.err and "--out" in refused.err


def test_a_planner_takes_no_episode_of_another_scenario_of_the_id(kv, three, tmp_path):
    other = dataclasses.replace(three[1], id=three[0].id)
    for name, one in (("a.jsonl", three[0]), ("b.jsonl", other)):
        (tmp_path / name).write_text(json.dumps(one.to_json()) + "\n")

    def plans(name, out):
        found = kv("planner", name, "--futures", 2, "--workers", 1, "--out", out, "--json").json
        return next(row["reward"] for row in found["rows"] if row["policy"] == "planner")

    mine, theirs = plans("a.jsonl", "kept"), plans("b.jsonl", "kept")
    assert mine != theirs == plans("b.jsonl", "fresh")
    assert plans("a.jsonl", "kept") == mine
    refused = kv("planner", "a.jsonl", "b.jsonl", "--futures", 2, "--out", "kept")
    assert refused.code == 2 and f"2 different scenarios have the id {three[0].id}" in refused.err


def test_generate_writes_the_same_playable_file_twice(kv, tmp_path):
    command = ("scenarios", "generate", "--difficulty", "easy", "-n", 1, "--seed", 7)
    said = kv(*command, "--out", "a.jsonl", "--json").json
    assert (said["scenarios"], said["tiers"]) == (1, {"easy": 1})
    told = kv(*command, "--out", "b.jsonl").out
    assert said["off_target"] and "MISSED" in told and "that of a few scenarios strays" in told
    assert "another problem" not in told
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert len(load_file(tmp_path / "a.jsonl")) == 1
    assert kv("scenarios", "verify", "a.jsonl").code == 0


def test_windows_of_a_trace_outside_the_targets_of_the_generator_are_flagged(kv, tmp_path, monkeypatch):
    near = generate("easy", 5, "eval", 4)
    idle = tuple(dataclasses.replace(x, turns=()) if x.place == "cpu" else x for x in near.sessions)
    far = dataclasses.replace(near, link_ns_per_page=4, sessions=idle)
    (tmp_path / "trace.jsonl").touch()
    for k, (made, missed) in enumerate([(near, []), (far, ["swap_in", "return_share"])]):
        monkeypatch.setattr(sets, "windows_of", lambda *_, made=made: iter([(made,)]))
        monkeypatch.setattr(sets, "kept", lambda _: True)
        arguments = (
            "scenarios",
            "from-trace",
            "trace.jsonl",
            "--out",
            "x.jsonl",
            "-d",
            "easy",
            "-n",
            1,
            "--seed",
            k,
        )
        said = kv(*arguments, "--json").json
        assert said["off_target"] == missed, said["physics"]
        told = kv(*arguments).out
        assert told.count("MISSED") == len(missed)
        assert ("do not compare" in told) == bool(missed)


def test_folder_names_are_safe_and_never_reused(tmp_path):
    targets = [{"model": "openai/gpt 5.4:mini"}, {"model": "../.."}]
    first, second = runs.new_folder(tmp_path, targets), runs.new_folder(tmp_path, targets)
    assert first != second
    assert first.parent == second.parent == tmp_path
    assert first.name.endswith("-openai-gpt-5.4-mini-model")


def test_landscape_gives_the_searchs_numbers_and_rewrites_only_the_measured_part_of_its_page(
    kv, tmp_path, monkeypatch
):
    from functools import partial

    from kv_cache_rl.experiments.eviction import landscape
    from kv_cache_rl.reports.eviction import landscape as claimed

    monkeypatch.setattr(claimed, "NARROW", {})  # three scenarios show nothing
    monkeypatch.setattr(landscape, "run", partial(landscape.run, width=1, small=1, generations=1, learn=12))
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: make landscape -->\nold\n<!-- end of measured -->\nafter\n")
    said = kv("landscape", "--per-tier", 3, "--seed", 9, "--out", "raw.json", "--page", page, "--json")
    failing = [c for c in said.json["claims"] if not c["holds"] and not c["why_not"]]
    assert failing and said.code == 1
    assert {**json.loads((tmp_path / "raw.json").read_text()), "claims": said.json["claims"]} == said.json
    assert [len(tier["floor"]) for tier in said.json["tiers"].values()] == [3, 3, 3]
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "3 unselected scenarios per tier, seed 9" in text
    again = kv("landscape", "--per-tier", 2, "--retuned", "raw.json", "--json").json
    assert again["retuned"] == said.json["retuned"] and again["of_tuned"] == said.json["of_tuned"]
    raw = json.loads((tmp_path / "raw.json").read_text())
    for content, fault in (
        ({**raw, "of_tuned": "0"}, "is of other constants of tuned"),
        ({"retuned": {}}, "holds no raw numbers"),
        ([], "holds no raw numbers"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(content))
        refused = kv("landscape", "--per-tier", 2, "--retuned", "other.json")
        assert refused.code == 2 and fault in refused.err and "leave it out" in refused.err


def test_claims_are_not_made_of_nothing(monkeypatch):
    from kv_cache_rl.cli.eviction.landscape import refuse_few

    tier = {"floor": [0.3, 0.2], "return": {"oracle": [0.3, 0.25]}}
    with pytest.raises(
        BadInput, match=r"of 2 easy scenarios the oracle .* in none, .*; give a higher --per-tier"
    ):
        refuse_few({"tiers": {"easy": tier}})
    refuse_few({"tiers": {"easy": tier}, "trace": "t.jsonl"})


def test_landscape_refuses_a_page_it_cannot_rewrite_before_it_measures_anything(kv, tmp_path, monkeypatch):
    from kv_cache_rl.experiments.eviction import landscape

    monkeypatch.setattr(landscape, "run", None)
    page = tmp_path / "page.md"
    page.write_text("no markers here")
    said = kv("landscape", "--per-tier", 3, "--page", page)
    assert said.code == 2 and "measured: make landscape" in said.err
    assert page.read_text() == "no markers here"
    said = kv("landscape", "--per-tier", 3, "--page", tmp_path / "nowhere" / "page.md")
    assert said.code == 2 and "cannot be written (No such file or directory)" in said.err


def test_one_of_anything_is_named_in_the_singular(kv):
    given = ("export-sft", "--split", "eval", "-n", 1, "-d", "easy")
    assert kv(*given, "--out", "a.jsonl").out.startswith("1 dialogue in a.jsonl")
    assert "0 dialogues left out" in kv(*given, "--out", "b.jsonl", "--history", "window").out
    said = kv(*given, "--out", "c.jsonl", "--decisions", 99, "-p", "lru")
    assert "15 windows of 1 scenario, played by 1 player" in said.err
