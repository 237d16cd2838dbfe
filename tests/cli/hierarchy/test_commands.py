"""The hierarchy commands: what they print, which keys they promise, and that they agree with each other."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kv_cache_rl.sim.hierarchy.policies import POLICIES

TREE = {"format": "kv-cache-rl trace", "version": 1, "kind": "requests", "block_tokens": 64}
SWEEP = """
name = "tiny"
seeds = [1]
policies = ["lru", "predictive", "fifo"]
[[workloads]]
workload = "prefetch_friendly"
length = 120
pages = 20
[[scenarios]]
name = "ahead"
laboratory = [1, 4]
prefetch = true
"""


@pytest.fixture
def tree(tmp_path):
    """A prefix-tree trace of 24 sessions in turns: each goes on where it stopped, some start over."""
    path, grown, lines = tmp_path / "tree.jsonl", {}, [TREE]
    for turn in range(240):
        session = turn * 7 % 24
        grown[session] = (
            3 if grown.get(session, 0) > 25 else grown.get(session, 3 + session % 5) + 1 + turn % 4
        )
        runs = [[0, 2], [1000 * (session + 1), grown[session]]]
        lines.append(
            {"time_s": turn, "sequence": session, "input_tokens": 64 * (grown[session] + 2), "runs": runs}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_replay_gives_the_hit_rate_as_one_json_object(kv):
    said = kv(
        "hierarchy", "replay", "workload:rag_burst", "--policy", "lru", "--capacity", "20", "--json"
    ).json
    assert said["hit_rate"] == said["overall_hit_rate"] == 1 - said["miss_count"] / said["accesses"]
    assert said["method"] == "run-length"
    assert said["regret_to_bound"] == said["bound_hit_rate"] - said["hit_rate"] > 0


def test_a_seed_draws_the_workload_zero_included(kv):
    def misses(text, *options):
        return kv(
            "hierarchy", "replay", text, "--policy", "lru", "--capacity", "20", *options, "--json"
        ).json["miss_count"]

    assert (
        misses("workload:rag_burst", "--seed", "0")
        == misses("workload:rag_burst,seed=0")
        != misses("workload:rag_burst")
    )
    for command in ("sweep", "ablation", "heldout workload:rag_burst"):
        said = kv("hierarchy", *command.split(), "--seed", "-1")
        assert said.code == 2 and "--seed" in said.err


def test_a_capacity_in_bytes_takes_pages_as_large_as_they_are(kv):
    options = ("--policy", "largest_first", "--json", "--capacity")
    said = kv("hierarchy", "replay", "workload:rag_burst", *options, "100kB").json
    assert said["capacity"] == 100_000 and said["peak_footprint_bytes"]["gpu"] <= 100_000
    assert (
        said["hit_rate"]
        == kv("hierarchy", "replay", "workload:rag_burst", *options[:-1], "--tiers", "gpu=100kB").json[
            "hit_rate"
        ]
    )
    refused = kv("hierarchy", "replay", "workload:rag_burst", *options, "1kB")
    assert refused.code == 2 and "tier 'gpu' holds 1000; enlarge the tier" in refused.err


def test_pages_that_differ_in_size_are_never_blocks_and_bytes_at_once(kv, tmp_path):
    path = tmp_path / "sizes.csv"
    accesses = [("a", 300), ("b", 300), ("a", 300), ("b", 300), ("c", 30), ("a", 300), ("b", 300)]
    path.write_text("time,obj_id,obj_size\n" + "".join(f"{t},{i},{n}\n" for t, (i, n) in enumerate(accesses)))
    replay = ("hierarchy", "replay", path, "--policy", "lru", "--json")
    assert kv(*replay, "--capacity", 2).json["hit_rate"] == pytest.approx(2 / 7)
    assert kv(*replay, "--capacity", "420B").json["hit_rate"] == 0
    mixed = kv(*replay, "--capacity", "2,420B")
    assert mixed.code == 2 and "differ in size, so blocks and bytes are two caches" in mixed.err
    said = kv("hierarchy", "replay", path, "--policy", "lru", "--tiers", "gpu=2")
    assert "gpu=2: blocks of the pages' mean size" in " ".join(said.out.split())
    curve = ("hierarchy", "curve", path, "--policy", "lru", "--capacity-range", "210B:630B", "--points", 3)
    assert kv(*curve, "--json").json["uneven"] is True
    assert "its pages differ in size: each counts as one of the mean" in " ".join(kv(*curve).out.split())
    refused = kv("hierarchy", "mrc", path, "--capacity", "420B")
    assert refused.code == 2 and "stack distances count blocks; give blocks or a share" in refused.err


def test_one_step_up_is_refused_for_trees_under_lru_too(kv, tree):
    said = kv("hierarchy", "replay", tree, "--policy", "lru", "--capacity", "60", "--promotion", "step")
    assert said.code == 2 and "use promotion 'top'" in said.err


@pytest.mark.parametrize(
    ("rule", "needed"),
    [
        (["--prefetch"], "--policy predictive"),
        (["--overlap"], "--tiers"),
        (["--recompute"], "--tiers"),
        (["--compute-s", "0.5"], "--overlap or --reserve stability"),
        (["--promotion", "step"], "three tiers"),
    ],
)
def test_a_rule_that_can_change_nothing_is_refused_and_counts_with_what_it_needs(kv, rule, needed):
    replay = ("hierarchy", "replay", "workload:mixed_locality", "--model", "llama-3.1-8b", "--json")
    said = kv(*replay, "--policy", "lru", "--capacity", "20", *rule)
    assert said.code == 2 and f"error: {rule[0]} changes nothing here: it needs " in said.err
    assert needed in said.err
    more = ["--policy", "predictive", "--tiers", "gpu=4,host=10,nvme=40"]
    more += ["--overlap", "--prefetch"] if rule[0] == "--compute-s" else []
    changed = kv(*replay, *more, *rule)
    # Loading takes less time than computing in all of this workload.
    assert (changed.json == kv(*replay, *more).json) == (rule[0] == "--recompute")


@pytest.mark.parametrize(
    ("policies", "option", "needed"),
    [
        ("lru,belady", ["--hardware", "rtx4090-llama-3.1-8b"], "a policy that is played"),
        ("lru", ["--calibration", "measured-cpu"], "--time-line"),
        ("belady", ["--by-sequence"], "a policy that is played"),
        ("belady", ["--time-line", "3"], "a policy that is played"),
        ("belady", ["--reserve", "stability"], "a policy that is played"),
        ("belady", ["--hardware", "rtx4090-llama-3.1-8b"], "a policy that is played"),
    ],
)
def test_what_is_counted_alone_refuses_what_is_of_a_play_and_a_played_policy_takes_it(
    kv, policies, option, needed
):
    replay = ("hierarchy", "replay", "workload:mixed_locality", "--capacity", "20", "--json")
    said = kv(*replay, "--policy", policies, *option)
    assert said.code == 2 and f"error: {option[0]} changes nothing here: it needs " in said.err
    assert needed in said.err
    assert kv(*replay, "--policy", "sieve", *option).json != kv(*replay, "--policy", "sieve").json


def test_a_bound_refuses_precisions_of_unknown_bytes_and_pages_larger_than_the_tier_as_policies_do(kv, tree):
    replay = ("hierarchy", "replay", tree, "--policy", "belady")
    said = kv(*replay, "--capacity", "20", "--footprint", "int8")
    assert said.code == 2 and "does not know the bytes of its blocks" in said.err
    small = kv(*replay, "--capacity", "1MB", "--model", "llama-3.1-8b")
    assert small.code == 2 and "enlarge the tier" in small.err


@pytest.mark.parametrize("command", ["replay", "mrc", "curve"])
def test_a_workload_has_no_answers_to_leave_out(kv, command):
    said = kv("hierarchy", command, "workload:rag_burst", "--prompt-only")
    assert said.code == 2 and "--prompt-only is for trace files; workload:rag_burst is made here" in said.err


def test_lru_over_runs_is_lru_block_by_block(kv, tree):
    options = ("hierarchy", "replay", tree, "--policy", "lru", "--capacity", "20,60,120,300", "--json")
    fast, slow = kv(*options).json["rows"], kv(*options, "--time-line", "4").json["rows"]
    assert {row["method"] for row in fast} == {"run-length"}
    assert {row["method"] for row in slow} == {"engine"}
    for name in ("capacity", "accesses", "hit_rate", "miss_count", "bound_hit_rate"):
        assert [row[name] for row in fast] == [row[name] for row in slow]
    assert 0 < fast[0]["hit_rate"] < fast[-1]["hit_rate"]


def test_the_curve_is_what_replays_give(kv, tree):
    curve = kv("hierarchy", "mrc", tree, "--capacity", "20,60,120", "--sampled", "1", "--json").json
    rows = kv(
        "hierarchy", "replay", tree, "--policy", "lru,belady", "--capacity", "20,60,120", "--json"
    ).json["rows"]
    assert curve["hit_rate"] == [row["hit_rate"] for row in rows if row["policy"] == "lru"]
    assert curve["bound"]["hit_rate"] == [row["hit_rate"] for row in rows if row["policy"] == "belady"]
    assert curve["sampled"]["hit_rate"] == pytest.approx(curve["hit_rate"])
    assert curve["sampled"]["error"] == pytest.approx(0)


def test_a_curves_seed_draws_the_workload_and_the_sample(kv):
    def curve(source, *more):
        options = ("--capacity", "5,20", "--sampled", "0.5", "--json")
        return kv("hierarchy", "mrc", f"workload:zipf,pages=100,accesses=900{source}", *options, *more).json

    own, drawn, named = curve(""), curve("", "--seed", "3"), curve(",seed=3")
    assert own["hit_rate"] != drawn["hit_rate"] == named["hit_rate"]
    assert drawn["sampled"]["hit_rate"] != named["sampled"]["hit_rate"]


def test_a_time_line_and_sessions_come_on_request(kv, tree):
    options = ("--capacity", "60", "--policy", "sieve", "--time-line", "5", "--by-sequence", "--json")
    said = kv("hierarchy", "replay", tree, *options).json
    assert {len(column) for column in said["time_line"].values()} == {5}
    assert sum(said["by_sequence"]["accesses"]) == said["accesses"]
    assert sum(said["by_sequence"]["hits"]) == said["accesses"] - said["miss_count"]


def test_tiers_at_physical_scale_count_bytes(kv, tree):
    options = ("--tiers", "gpu=200MB,host=1GB,nvme=10GB", "--model", "llama-3.1-8b", "--policy", "lru")
    said = kv("hierarchy", "replay", tree, *options, "--json").json
    assert said["tiers"] == {"gpu": 200_000_000, "host": 10**9, "nvme": 10**10}
    assert said["bytes_moved"] == sum(sum(ways.values()) for ways in said["link_bytes"].values()) > 0
    squeezed = kv("hierarchy", "replay", tree, *options, "--squeeze", "int4", "--json").json
    assert squeezed["compressions"] > 0
    assert squeezed["hit_rate"] <= squeezed["bound_hit_rate"]


@pytest.fixture
def agent(tmp_path):
    """A Mooncake trace of one agent: a block in, a block generated, a block of new text per turn."""
    path = tmp_path / "agent.jsonl"
    rows = [
        {"timestamp": 1000 * turn, "input_length": 512 * (2 * turn + 1), "output_length": 512}
        | {"hash_ids": list(range(2 * turn + 1))}
        for turn in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_decoding_wrote_is_found_unless_prompts_alone_are_wanted(kv, agent):
    line = ("hierarchy", "replay", agent, "--policy", "lru,sieve,belady", "--capacity", "100")
    whole, prompts = (kv(*line, *more, "--json").json["rows"] for more in ((), ("--prompt-only",)))
    assert [row["hit_rate"] for row in whole] == [0.8] * 3
    assert [row["hit_rate"] for row in prompts] == [0.64] * 3
    assert [row["written_blocks"] for row in (*whole, *prompts)] == [5] * 3 + [0] * 3
    assert "5 blocks written by decoding" in " ".join(kv(*line).out.split())
    curve = kv("hierarchy", "mrc", agent, "--json").json
    assert (curve["infinite"], curve["written_blocks"], curve["blocks"]) == (0.8, 5, 10)
    assert kv("hierarchy", "mrc", agent, "--prompt-only", "--json").json["infinite"] == 0.64
    plan = kv("stability", "plan", "--trace", agent)
    assert "all prefixes found (80% of prompts)" in plan.out


def test_a_warm_up_is_in_no_metric_and_in_the_time_line(kv, tree):
    line = ("hierarchy", "replay", tree, "--policy", "lru,sieve,belady", "--capacity", "60", "--json")
    plain, warm = (kv(*line, *more).json["rows"] for more in ((), ("--warm-up", "30%")))
    assert all(
        after["accesses"] < 0.71 * before["accesses"] for before, after in zip(plain, warm, strict=True)
    )
    assert all(row["warm_up_requests"] > 0 and row["hit_rate"] <= row["bound_hit_rate"] for row in warm)
    lines = [kv(*line, *more, "--time-line", 5).json["rows"][0] for more in ((), ("--warm-up", "90s"))]
    assert lines[0]["time_line"] == lines[1]["time_line"] and lines[1]["warm_up_requests"] == 90
    said = kv(*line[:-1], "--warm-up", "400s")
    assert said.code == 2 and "nothing is left to measure; give less" in said.err


def test_several_tiers_show_the_hits_of_each_and_what_the_lower_ones_gain(kv):
    line = ("hierarchy", "replay", "workload:rag_burst", "--policy", "lru,sieve", "--tiers", "gpu=12,host=48")
    alone = kv(*line[:-1], "gpu=12", "--json").json["rows"]
    rows, text = kv(*line, "--json").json["rows"], " ".join(kv(*line).out.split())
    for row, one in zip(rows, alone, strict=True):
        assert row["reached_rate"] == pytest.approx(sum(row["tier_hit_rate"].values()))
        gain = row["offload"]
        assert gain["without_reached_rate"] == pytest.approx(one["hit_rate"])
        assert gain["gain_points"] == pytest.approx(100 * (row["reached_rate"] - one["hit_rate"])) != 0
        seconds = (one["avg_latency_ms"] - row["avg_latency_ms"]) / 1e3
        assert gain["gain_s_per_request"] == pytest.approx(seconds)
        assert f"{row['policy']}: offload gains {gain['gain_points']:.4g} points" in text
    assert "gpu hits host hits reached" in text
    assert "offload" not in alone[0]


def test_a_prefetching_replay_has_no_bound(kv):
    options = ("--tiers", "gpu=25%,host=100%", "--policy", "predictive", "--prefetch", "--json")
    said = kv("hierarchy", "replay", "workload:prefetch_friendly", *options).json
    assert said["prefetch_requests"] > 0
    assert said["bound"] is None and said["regret_to_bound"] is None


def test_the_table_has_every_policy_and_the_bound(kv):
    said = kv(
        "hierarchy", "replay", "workload:mixed_locality", "--policy", ",".join(POLICIES), "--capacity", "30"
    )
    assert said.code == 0
    assert all(name in said.out for name in (*POLICIES, "belady (bound)", "regret"))


def test_a_seed_draws_the_workload_and_the_random_policy(kv):
    def misses(seed):
        options = ("--capacity", "20", "--policy", "random", "--seed", seed, "--json")
        return kv("hierarchy", "replay", "workload:rag_burst", *options).json["miss_count"]

    assert misses(1) == misses(1)
    assert len({misses(seed) for seed in range(1, 6)}) > 1


def test_a_workload_written_to_a_file_replays_as_it_would_from_memory(kv, tmp_path):
    said = kv(
        "hierarchy",
        "workload",
        "rag_burst",
        "--set",
        "length=100",
        "--seed",
        "5",
        "--out",
        "rag.jsonl.gz",
        "--json",
    ).json
    assert (said["accesses"], said["file"]) == (100, "rag.jsonl.gz")
    written, made = (
        kv("hierarchy", "replay", source, "--policy", "lfu", "--capacity", "15", "--json").json
        for source in ("rag.jsonl.gz", "workload:rag_burst,length=100,seed=5")
    )
    assert written == made


def test_a_sweep_writes_its_artifacts_and_counts_what_is_void(kv, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP)
    said = kv("hierarchy", "sweep", "tiny.toml", "--out", "out", "--workers", "1", "--json").json
    assert (said["rows"], said["failed_rows"]) == (3, 0)
    assert said["void"]["prefetch"] == {"void": 2, "of": 3}
    assert {"results.json", "results.csv", "summary.csv", "run_metadata.json", "curves.json"} <= set(
        said["files"]
    )
    assert (tmp_path / "out/sweep.toml").read_text() == SWEEP
    shown = kv("hierarchy", "sweep", "tiny.toml", "--out", "out", "--seed", "4", "--workers", "1")
    assert "void comparisons: 0 of 1 cells" in shown.out


def test_a_sweep_with_failed_rows_ends_with_one(kv, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[1, 4]", "[1, 100]"))
    said = kv("hierarchy", "sweep", "tiny.toml", "--out", "out", "--workers", "1")
    assert said.code == 1
    assert "failed page" in said.out


def test_an_interrupt_says_what_is_saved_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "long.toml").write_text(SWEEP.replace("[1]", str(list(range(1, 3000)))))
    code = "from kv_cache_rl.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "hierarchy",
        "sweep",
        "long.toml",
        "--out",
        "out",
        "--workers",
        "2",
    ]
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as run:
        journal = tmp_path / "out/rows.jsonl"
        deadline = time.monotonic() + 300
        while (
            not (journal.exists() and journal.stat().st_size)
            and run.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert "of 8,997 rows are saved in out; the same command goes on from there" in said
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    assert 0 < len(rows) < 8997


def test_the_ablation_has_means_over_seeds_and_holds_the_text_against_them(kv, tmp_path):
    options = ("--semantics", "kv-hierarchy-lab", "--workers", "1", "--json")
    said = kv("hierarchy", "ablation", "--out", "lab", *options).json
    assert said["rows"] == 198 and len(said["means"]) == 66
    assert sum(not statement["agrees"] for statement in said["statements"]) == 4
    assert {"raw_results.json", "summary.csv", "aggregated_summary.csv"} <= {
        path.name for path in (tmp_path / "lab").iterdir()
    }
    ours = kv("hierarchy", "ablation", "--out", "ours", "--seed", "7", "--workers", "1", "--json").json
    assert (ours["semantics"], ours["rows"], ours["statements"]) == ("default", 66, [])


def test_reproduce_shows_all_rows_equal_and_every_claim(kv):
    said = kv("hierarchy", "reproduce", "--workers", "1", "--json")
    assert said.code == 0
    found = said.json
    assert (found["rows_equal"], found["rows"], found["against"]) == (210, 210, "digest")
    assert all(claim["agrees"] for claim in found["claims"]) and len(found["claims"]) == 10
    assert (len(found["void"]["policies"]["void"]), len(found["void"]["prefetch"]["void"])) == (12, 38)


def test_held_out_comparison_has_intervals(kv, tree):
    found = kv(
        "hierarchy", "heldout", tree, "--policy", "lfu", "--seed", "1", "--resamples", "100", "--json"
    ).json
    assert {row["policy"] for row in found["rows"]} == {"lru", "lfu"}
    for row in found["rows"]:
        assert row["hit_rate"]["low"] <= row["hit_rate"]["mean"] <= row["hit_rate"]["high"]
    shown = kv("hierarchy", "heldout", tree, "--policy", "lfu", "--seed", "1", "--resamples", "100")
    assert "minus lru" in shown.out


def test_bench_compares_with_a_peer_and_gives_machine_facts(kv):
    found = kv("hierarchy", "bench", "--part", "lru", "--accesses", "100000", "--json").json
    plain = found["measured"][0]
    assert plain["peer"] == "Python OrderedDict loop, LRU"
    assert plain["ratio"] == plain["value"] / plain["peer_value"]
    assert plain["target"] == 1e7
    assert found["machine"]["processor"]


def test_lru_that_knows_which_sessions_ended_is_for_prefix_trees_in_one_tier_of_blocks(kv, tree):
    rows = kv(
        "hierarchy", "replay", str(tree), "--policy", "lru,lru_ended,belady", "--capacity", "60", "--json"
    ).json["rows"]
    rate = {row["policy"]: row["hit_rate"] for row in rows}
    assert max(rate["lru"], rate["lru_ended"]) <= rate["belady"] and rate["lru_ended"] > 0
    for trace, *options in (["workload:rag_burst"], [str(tree), "--model", "llama-3.1-8b"]):
        said = kv(
            "hierarchy",
            "replay",
            trace,
            "--policy",
            "lru_ended",
            "--capacity",
            "1GB" if options else "20",
            *options,
        )
        assert (
            said.code == 2
            and "lru_ended counts hits of a prefix-tree trace in one tier of blocks" in said.err
        )


@pytest.mark.parametrize(
    "policy", ["lru", "arc", "sieve", "s3fifo", "random", "tinylfu", "gdsf", "regret_aware"]
)
def test_the_largest_capacity_holds_everything_under_every_policy(kv, policy):
    most = ("hierarchy", "replay", "workload:rag_burst", "-p", policy, "--capacity", str(2**63 - 1), "--json")
    found = kv(*most)
    assert found.code == 0 and found.json["miss_count"] == 69, "the pages that are touched"
    ends = kv(
        "hierarchy", "curve", "workload:rag_burst", "--capacity-range", f"5:{2**63 - 1}", "--points", "2"
    )
    assert str(2**63) not in ends.out + ends.err


def test_a_profile_of_hardware_is_refused_beside_a_calibration_that_measured_one(kv):
    said = kv(
        *("hierarchy", "replay", "workload:rag_burst", "--tiers", "gpu=20,host=40"),
        *("--hardware", "rtx4090-llama-3.1-8b", "--calibration", "measured-cpu"),
    )
    assert said.code == 2 and "has measured what computing takes; leave out one of them" in said.err


def test_page_accesses_have_no_answers_to_leave_out(kv, tmp_path):
    (tmp_path / "p.csv").write_text("# time,obj_id,obj_size\n0,a,4096\n5,b,4096\n9,a,4096\n")
    for command in (("replay", "p.csv", "--capacity", "2"), ("mrc", "p.csv")):
        said = kv("hierarchy", *command, "--prompt-only")
        assert said.code == 2 and "--prompt-only is for requests; p.csv holds page accesses" in said.err
