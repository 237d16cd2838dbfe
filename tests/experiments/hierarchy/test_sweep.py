"""A sweep gives the same rows on any worker and however often it is interrupted; it says what is void."""

import csv
import importlib.util
import json
import math
import socket
import subprocess
import sys
import time
from itertools import groupby

import pytest

from kv_cache_rl.experiments import workers
from kv_cache_rl.experiments.hierarchy import sweep as sweeps
from kv_cache_rl.experiments.hierarchy.ablation import regret_ablation, write_tables
from kv_cache_rl.experiments.hierarchy.cells import RELAXED, Cell, Decider, run_cell
from kv_cache_rl.experiments.hierarchy.comparisons import summarised
from kv_cache_rl.experiments.hierarchy.definition import committed, read_sweep, sweep_of
from kv_cache_rl.experiments.hierarchy.settings import LAB, Setting, setting_of
from kv_cache_rl.experiments.hierarchy.sources import from_file, from_workload
from kv_cache_rl.experiments.hierarchy.sweep import run_sweep
from kv_cache_rl.experiments.journal import JOURNAL
from kv_cache_rl.experiments.workers import WorkerError, spread
from kv_cache_rl.extras import MissingExtra
from kv_cache_rl.sim.hierarchy.peer.ablation import aggregate
from kv_cache_rl.sim.hierarchy.peer.reproduce import sweep_cells, sweep_row
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

ARTIFACTS = ("results.json", "results.csv", "summary.csv", "curves.json", "run_metadata.json", JOURNAL)
SMALL = {
    "name": "small",
    "seeds": [1, 2],
    "policies": ["lru", "predictive", "sieve", "random"],
    "workloads": [
        {"workload": "rag_burst", "length": 80},
        {"workload": "prefetch_friendly", "length": 120, "pages": 20},
    ],
    "scenarios": [
        {"name": "quarter", "tiers": {"gpu": 0.25}},
        {"name": "ahead", "laboratory": [1, 4], "prefetch": True},
        {"name": "plain", "laboratory": [1, 4]},
        {"name": "peer", "laboratory": [1, 4], "semantics": LAB, "policies": ["lru", "predictive"]},
    ],
}


@pytest.fixture(scope="module")
def small():
    return sweep_of(SMALL)


@pytest.fixture(scope="module")
def one_core(small, tmp_path_factory):
    """(folder, rows) of the small sweep on one core."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, run_sweep(small, folder, command="test")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ARTIFACTS}


def test_many_cores_leave_the_same_bytes_as_one(small, one_core, tmp_path):
    rows = run_sweep(small, tmp_path, workers=3, command="test")
    assert rows == one_core[1]
    assert contents(tmp_path) == contents(one_core[0])


def test_ray_leaves_the_same_bytes_as_one_core(small, one_core, tmp_path):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install 'kv-cache-rl[ray]' to run this test")
    assert run_sweep(small, tmp_path, workers=2, ray="local", command="test") == one_core[1]
    assert contents(tmp_path) == contents(one_core[0])


def test_an_interrupted_sweep_goes_on_and_drops_a_half_written_line(small, one_core, tmp_path, monkeypatch):
    def stop(done, _):
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(small, tmp_path, command="test", progress=stop)
    assert not (tmp_path / "results.json").exists()
    lines = (tmp_path / JOURNAL).read_bytes()
    assert lines.count(b"\n") == 11
    (tmp_path / JOURNAL).write_bytes(lines + lines[:100])

    replayed = []
    monkeypatch.setattr(sweeps, "run_cell", lambda cell: replayed.append(cell) or run_cell(cell))
    steps = []
    assert (
        run_sweep(small, tmp_path, command="test", progress=lambda done, total: steps.append((done, total)))
        == one_core[1]
    )
    assert len(replayed) == len(small.cells()) - 11
    assert steps[0] == (11, len(small.cells()))
    assert steps[-1] == (len(small.cells()), len(small.cells()))
    assert contents(tmp_path) == contents(one_core[0])


def test_a_sweep_that_grows_replays_only_what_is_new_and_keeps_the_rest(small, tmp_path, monkeypatch):
    run_sweep(small.over((1,)), tmp_path)
    before = (tmp_path / JOURNAL).read_text().splitlines()
    replayed = []
    monkeypatch.setattr(sweeps, "run_cell", lambda cell: replayed.append(cell.seed) or run_cell(cell))
    run_sweep(small.over((2,)), tmp_path)
    assert set(replayed) == {2}
    assert set(before) < set((tmp_path / JOURNAL).read_text().splitlines())
    replayed.clear()
    run_sweep(small.over((1,)), tmp_path)
    assert replayed == []


def test_a_row_is_keyed_by_what_it_depends_on_and_by_nothing_else(tmp_path):
    def key(source=None, setting=None, decider=None, seed=1):
        source = source or from_workload("rag_burst")
        return Cell(source, setting or Setting("a"), decider or Decider("lru", "lru"), seed).key

    (tmp_path / "a.jsonl").write_text("one\n")
    (tmp_path / "b.jsonl").write_text("one\n")
    (tmp_path / "c.jsonl").write_text("two\n")
    a, b, c = (key(from_file(tmp_path / f"{name}.jsonl", "trace")) for name in "abc")
    assert a == b != c
    others = [
        key(seed=2),
        key(from_workload("rag_burst", length=9)),
        key(setting=Setting("a", laboratory=(1, 2))),
    ]
    others += [key(decider=Decider("lru", "fifo")), key(setting=setting_of({"name": "a", "overlap": True}))]
    assert len({key(), *others}) == 6


def test_rows_carry_the_bound_that_applies_or_none(one_core):
    for row in one_core[1]:
        if row["metrics"]["prefetch_requests"]:
            assert (row["bound"], row["bound_hit_rate"], row["regret_to_bound"]) == (None, None, None)
        else:
            assert row["bound"] == RELAXED  # pages of the workloads differ by 3 %
            assert row["regret_to_bound"] == row["bound_hit_rate"] - row["metrics"]["overall_hit_rate"]
            assert row["regret_to_bound"] >= 0
    assert any(row["bound"] is None for row in one_core[1])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "setting",
    [
        {"tiers": {"gpu": 0.3}},
        {"laboratory": [1, 4]},
        {"laboratory": [1, 4], "squeeze": "int4"},
        {"laboratory": [1, 6]},
    ],
    ids=str,
)
def test_no_policy_beats_the_bound(policy, setting):
    for name in ("adversarial_burst", "mixed_locality"):
        row = run_cell(Cell(from_workload(name), setting_of(setting), Decider(policy, policy), 3))
        assert row["error"] is None
        assert row["regret_to_bound"] >= 0


def test_the_bound_is_missed_by_all_only_where_pages_differ():
    equal = Cell(
        from_workload("zipf", pages=40, accesses=400),
        setting_of({"tiers": {"gpu": 10}}),
        Decider("lru", "lru"),
        1,
    )
    assert run_cell(equal)["bound"] == "Belady's MIN with bypass for equal pages"


def test_void_comparisons_are_flagged_with_the_reason(one_core):
    by_cell = groupby(sorted(one_core[1], key=cell_of), cell_of)
    for _, rows in by_cell:
        rows = list(rows)
        tied = all(row["metrics"] == rows[0]["metrics"] for row in rows)
        for row in rows:
            assert ("policies" in row["void"]) == tied
            assert ("policies: all" in (row["void_reason"] or "")) == tied
    ahead = {key_of(row): row for row in one_core[1] if row["scenario"] == "ahead"}
    plain = {key_of(row): row for row in one_core[1] if row["scenario"] == "plain"}
    for key, row in ahead.items():
        same = row["metrics"] == plain[key]["metrics"]
        assert ("prefetch" in row["void"]) == ("prefetch" in plain[key]["void"]) == same
    assert {row["policy"] for row in ahead.values() if "prefetch" not in row["void"]} == {"predictive"}


def cell_of(row):
    return row["workload"], row["seed"], row["scenario"]


def key_of(row):
    return row["workload"], row["seed"], row["policy"]


def test_a_page_larger_than_a_tier_is_a_row_with_the_error(tmp_path):
    rows = run_sweep(sweep_of({**SMALL, "scenarios": [{"name": "tiny", "laboratory": [1, 100]}]}), tmp_path)
    assert {row["metrics"] for row in rows} == {None}
    assert all("holds 1280; enlarge the tier" in row["error"] for row in rows)
    assert json.loads((tmp_path / "run_metadata.json").read_text())["failed_rows"] == len(rows)


def test_the_table_holds_what_the_results_hold(one_core):
    rows = json.loads((one_core[0] / "results.json").read_text())
    with (one_core[0] / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(rows) == len(table)
    for row, line in zip(rows, table, strict=True):
        assert line["tier_hit_rate"] == json.dumps(row["metrics"]["tier_hit_rate"], sort_keys=True)
        assert float(line["avg_latency_ms"]) == row["metrics"]["avg_latency_ms"]
        assert line["bound"] == (row["bound"] or "")
        assert json.loads(line["void"]) == row["void"]


def test_metadata_says_what_was_run_with_what_and_not_when_or_where(one_core):
    found = json.loads((one_core[0] / "run_metadata.json").read_text())
    assert found["command"] == "test"
    assert [policy["name"] for policy in found["policies"]] == SMALL["policies"]
    assert [scenario["name"] for scenario in found["scenarios"]] == ["quarter", "ahead", "plain", "peer"]
    assert set(found["versions"]) == {"kv-cache-rl", "python", "numpy", "numba"}
    assert socket.gethostname() not in json.dumps(found)


def test_the_peers_sweep_is_a_sweep_of_its_semantics():
    cells = [cell for cell in sweep_cells() if cell[0] == "constrained_fp16_prefetch"][::7]
    setting = setting_of({"name": "x", "laboratory": [1, 4], "prefetch": True, "semantics": LAB})
    for _, workload, policy in cells:
        row = run_cell(Cell(from_workload(workload), setting, Decider(policy, policy), None))
        assert row["metrics"] == sweep_row(("constrained_fp16_prefetch", workload, policy))["metrics"]


def test_the_peers_ablation_is_a_sweep_too(ablation, tmp_path):
    rows = run_sweep(regret_ablation(LAB, (7,)), tmp_path)
    golden = {
        (row["scenario"], row["workload"], row["policy"]): row["metrics"]
        for row in ablation
        if row["seed"] == 7
    }
    assert {(row["scenario"], row["workload"], row["policy"]): row["metrics"] for row in rows} == golden
    means = write_tables(tmp_path, rows)
    names = ("scenario", "workload", "policy", "avg_latency_ms_mean", "miss_count_std")
    expected = aggregate(row for row in ablation if row["seed"] == 7)
    assert [[line[name] for name in names] for line in means] == [
        [line[name] for name in names] for line in expected
    ]


def test_the_summary_is_over_seeds(one_core):
    line = next(
        line
        for line in summarised(one_core[1])
        if line["policy"] == "random" and line["scenario"] == "quarter"
    )
    assert line["seeds"] == 2
    assert line["miss_count_std"] > 0


def test_a_file_is_replayed_once_whatever_the_seeds_but_for_random(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("")
    table = {**SMALL, "workloads": [{"file": "t.jsonl"}], "scenarios": [{"name": "a", "tiers": {"gpu": 4}}]}
    found = [(cell.decider.name, cell.seed) for cell in sweep_of(table, tmp_path).cells()]
    assert found == [("lru", 1), ("predictive", 1), ("sieve", 1), ("random", 1), ("random", 2)]


def test_the_committed_sweep_holds_every_workload_and_policy():
    sweep = read_sweep(committed("default"))
    assert {decider.policy for decider in sweep.deciders} == set(POLICIES)
    assert len(sweep.sources) == 8
    assert len(sweep.cells()) == len(sweep.sources) * len(sweep.settings) * len(sweep.deciders) * len(
        sweep.seeds
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policies": ["lruu"]}, "unknown policy 'lruu'; did you mean lru\\? use one of lru"),
        ({"policies": []}, "has no policy; give at least one"),
        ({"policies": ["lru", "lru"]}, "has policy 'lru' twice; name each once"),
        (
            {"policies": [{"policy": "lru", "depth": 3}]},
            "policy 'lru' takes no 'depth' under default; it takes nothing",
        ),
        ({"workloads": [{"workload": "rag"}]}, "unknown workload 'rag'; use one of chat_continuation"),
        ({"workloads": [{"length": 9}]}, "needs either workload = NAME or file = PATH"),
        ({"workloads": ["rag_burst"]}, r"write \[\[workloads\]\]"),
        (
            {"scenarios": [{"name": "a", "tiers": {"gqu": 4}}]},
            "unknown tier 'gqu'; did you mean gpu\\? use one of gpu, peer_gpu, host, nvme",
        ),
        (
            {"scenarios": [{"name": "a", "prefetching": True}]},
            "scenario 'a' has no setting 'prefetching'; use name",
        ),
        ({"scenarios": [{"name": "a", "footprint": "fp17"}]}, "unknown footprint 'fp17'"),
        ({"scenarios": [{"name": "a", "semantics": "mine"}]}, "unknown semantics 'mine'"),
        ({"scenarios": [{"name": "a", "semantics": LAB, "tiers": {"gpu": 4}}]}, "has tiers of its own"),
        (
            {"scenarios": [{"name": "a", "semantics": LAB, "overlap": True}]},
            "knows only footprint and prefetch; drop overlap",
        ),
        (
            {"scenarios": [{"name": "a", "laboratory": [1, 0]}]},
            r"must be \[numerator, denominator\], both positive",
        ),
        ({"policies": "lru"}, "policies = 'lru' must be a list"),
        ({"policies": [3]}, r"policies = \[3\] must be a list"),
        (
            {"policies": [{"policy": "regret_aware", "regret": [float("nan"), 0.9, 2]}]},
            "a weight from 0 on, a decay from 0 to 1, a whole horizon from 0 on",
        ),
        (
            {"policies": [{"policy": "regret_aware", "regret": [float("inf"), 0.9, 2]}]},
            "a weight from 0 on",
        ),
        ({"policies": [{"policy": "regret_aware", "regret": [-5, 0.9, 2]}]}, "a weight from 0 on"),
        ({"policies": [{"policy": "regret_aware", "regret": [10**400, 0.9, 2]}]}, "a weight from 0 on"),
        ({"policies": [{"policy": "windowed_recency", "window": 10**400}]}, "must be a whole number from 1"),
        ({"policies": [{"policy": "regret_aware", "regret": [6, 5.0, 2]}]}, "a decay from 0 to 1"),
        ({"policies": [{"policy": "regret_aware", "regret": [6, 0.9, -1]}]}, "a whole horizon from 0 on"),
        (
            {"policies": [{"policy": "regret_aware", "regret": [1, 2]}]},
            r"regret = \(1, 2\) must be \[weight, decay, horizon",
        ),
        (
            {"policies": [{"policy": "windowed_recency", "window": 0}]},
            "window = 0 must be a whole number from 1 on",
        ),
        (
            {"policies": [{"policy": "windowed_recency", "window": "x"}]},
            "window = 'x' must be a whole number from 1 on",
        ),
        (
            {"workloads": [{"workload": "rag_burst", "pages": "x"}]},
            "rag_burst: pages = 'x' is no whole number",
        ),
        ({"workloads": [{"workload": "rag_burst", "pages": [1]}]}, "neither a number nor a text"),
        ({"workloads": [{"workload": "zipf", "pages": "x"}]}, "zipf: pages = 'x' is no whole number"),
        ({"scenarios": [{"name": "a", "tiers": 5}]}, "scenario 'a': tiers = 5 must be a table"),
        (
            {"scenarios": [{"name": "a", "compute_s": "x"}]},
            "scenario 'a': compute_s = 'x' must be like 0.0, its default",
        ),
        (
            {"scenarios": [{"name": "a", "prefetch": "yes"}]},
            "scenario 'a': prefetch = 'yes' must be like False, its default",
        ),
        (
            {"scenarios": [{"name": "a", "tiers": {"gpu": math.nan}}]},
            "gpu: the capacity nan is no share",
        ),
        (
            {"scenarios": [{"name": "a", "tiers": {"gpu": math.inf}}]},
            "gpu: the capacity inf is no share",
        ),
        ({"scenarios": [{"name": "a", "tiers": {"gpu": 10**30}}]}, "more than 63 bits can count"),
        ({"workloads": [{"workload": "zipf", "skew": math.nan}]}, "zipf: skew = nan is no skew"),
        (
            {"workloads": [{"workload": "rag_burst", "seed": 2**64}]},
            "rag_burst: seed is 184467440",
        ),
        ({"seeds": [2**64]}, "must be a list of whole numbers from 0 on, of at most 63 bits"),
        ({"seeds": [-1]}, "must be a list of whole numbers from 0 on"),
        ({"cores": 3}, "a sweep has no key 'cores'"),
    ],
    ids=str,
)
def test_a_bad_definition_says_what_to_change(change, words):
    with pytest.raises(HierarchyError, match=words):
        sweep_of({**SMALL, **change})


def test_a_file_that_is_no_toml_is_named(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text("name = \n")
    with pytest.raises(HierarchyError, match=r"sweep\.toml is no TOML"):
        read_sweep(path)


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtra, match=r"--ray needs ray; pip install 'kv-cache-rl\[ray\]', or leave it out"
    ):
        spread(str, [1, 2], print, 2, ray="local")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("here:there", "is no Ray address"),
        ("ray://", "is no Ray address"),
    ],
)
def test_an_address_that_does_not_answer_is_told_within_seconds(address, words):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install 'kv-cache-rl[ray]' to run this test")
    importlib.import_module("ray")
    started = time.monotonic()
    with pytest.raises(WorkerError, match=words):
        spread(str, [1, 2], print, 2, ray=address)
    assert time.monotonic() - started < workers.PATIENCE_S + 1


def test_something_that_accepts_and_says_nothing_is_no_cluster():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed; pip install 'kv-cache-rl[ray]' to run this test")
    code = (
        "import sys\nfrom kv_cache_rl.experiments import workers\nworkers.START_S = 2.0\n"
        "try:\n    workers.connect(sys.argv[1], 1)\nexcept workers.WorkerError as wrong:\n    print(wrong)"
    )
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, text=True, check=False, timeout=60
        )
    assert f"no Ray cluster answers at {address} (no answer within 2 s); check the address" in done.stdout
