"""The serving commands: what they print, that they agree with the simulator, and what they say about bad
input.
"""

import functools
import json
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest

from kv_cache_rl.adapters.playing import decider
from kv_cache_rl.agents import AGENTS, CANARIES
from kv_cache_rl.cli.serving.options import setting_of
from kv_cache_rl.cli.serving.play import agents_of, play
from kv_cache_rl.experiments.serving.log import ticks
from kv_cache_rl.search.serving.rollout import episode
from kv_cache_rl.sim.serving.columns import GPU_POOL
from kv_cache_rl.sim.serving.dynamics import act, new_state
from kv_cache_rl.sim.serving.heuristics import HEURISTICS, choose, new_memory
from kv_cache_rl.sim.serving.observe import look
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.seeds import agent_seed
from kv_cache_rl.sim.serving.spec import Scenario, task

FEW = ("--ticks", "600")


def test_simulate_prints_the_whole_report_the_load_and_every_setting(kv):
    said = kv("serving", "simulate", "--agent", "lru", "--task", "hard", "--seed", "4", *FEW, "--json").json
    state = episode(task("hard", ticks=600), 4, "lru")
    expected = json.loads(json.dumps(report(state).to_json()))
    assert {key: said[key] for key in expected} == expected
    load = said["traffic"]
    assert load["rho"] == 1.0 and load["arrival_rate_per_s"] == pytest.approx(load["service_rate_per_s"])
    assert load["tick_s"] == state.load.tick_us / 1e6
    assert set(said["scenario"]) == set(Scenario.__dataclass_fields__)


def test_simulate_says_what_was_asked_what_can_be_served_and_what_came_of_it(kv):
    said = kv("serving", "simulate", "--task", "medium", *FEW)
    assert said.code == 0
    state = episode(task("medium", ticks=600), 0, "lru")
    assert f"lambda {state.load.arrival_rate:.4g}/s, mu {state.load.service_rate:.4g}/s" in said.out
    assert f"b̄ {state.load.tick_us / 1e3:.4g} ms, rho 0.85" in said.out
    assert f"lru on medium, seed 0: score {report(state).score:.4f}" in said.out
    iterations = f"{report(state).ticks:,} iterations of the engine in {state.seconds:,.1f} s"
    assert f"{iterations}, which are 600 nominal ticks of {state.load.tick_us / 1e3:.3g} ms" in said.out


@pytest.mark.parametrize(
    ("command", "option", "file"),
    [("simulate", "--log", "log.jsonl"), ("simulate", "--plot", "a.png"), ("evaluate", "--plot", "a.png")],
)
def test_a_file_in_a_folder_that_is_not_there_is_refused_before_anything_is_played(
    kv, tmp_path, monkeypatch, command, option, file
):
    monkeypatch.setattr("kv_cache_rl.sim.serving.dynamics.new_state", None)
    said = kv("serving", command, "--ticks", "9", option, f"some/where/{file}")
    assert said.code == 2 and list(tmp_path.iterdir()) == []
    assert f"{option} some/where/{file}: there is no folder some/where; make it, or give another" in said.err


def test_an_agent_is_never_told_the_seed_of_the_traffic(monkeypatch):
    from kv_cache_rl import agents

    told = []

    class Curious:
        name = "curious"

        def reset(self, seed=0):
            told.append(seed)

        def act(self, observation, mask):
            return 17

    monkeypatch.setitem(agents.AGENTS, "curious", Curious)
    state = play("curious", task("easy", ticks=5), 12_345)
    decider("curious", state)
    assert told == [agent_seed(12_345)] * 2
    assert episode(task("hard", ticks=150), 9, "random").columns.rows.tobytes() == (
        play("random", task("hard", ticks=150), 9).columns.rows.tobytes()
    )


@pytest.mark.parametrize("agent", ["lru", "random", "oracle"])
def test_a_log_has_a_line_per_tick_and_leads_to_the_same_report(kv, tmp_path, agent):
    command = ("serving", "simulate", "--agent", agent, "--task", "hard", *FEW, "--json")
    plain = kv(*command).json
    assert kv(*command, "--log", "log.jsonl").json == plain
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(lines) == plain["ticks"]
    assert set(lines[0]) >= {
        "tick",
        "clock_s",
        "gpu_utilization",
        "free_queue",
        "vip_queue",
        "actions",
        "reward",
    }
    assert sum(line["reward"] for line in lines) == pytest.approx(plain["total_reward"])
    assert lines[-1]["clock_s"] == plain["seconds"]


def test_settings_reach_the_simulator_and_the_traffic_does_not_depend_on_the_agent(kv):
    options = (
        "--set",
        "gpu_blocks=2000",
        "--set",
        "strict=true",
        "--set",
        "sla_free=none",
        "--rho",
        "0.5",
        *FEW,
        "--json",
    )
    lru, idle = (
        kv("serving", "simulate", "--agent", agent, *options).json for agent in ("lru", "do_nothing")
    )
    assert (lru["scenario"]["gpu_blocks"], lru["scenario"]["strict"], lru["scenario"]["sla_free"]) == (
        2000,
        True,
        None,
    )
    assert lru["traffic"] == idle["traffic"] and lru["arrived"] == idle["arrived"]
    assert lru["completed"] > idle["completed"] == 0


def test_a_trace_is_replayed_at_the_load_asked_for(kv, users):
    path = users("mooncake.jsonl")
    said = kv("serving", "simulate", "--trace", path, "--rho", "0.6", "--ticks", "400", "--json").json
    load = said["traffic"]
    assert load["rho"] == 0.6
    assert load["arrival_rate_per_s"] / load["service_rate_per_s"] == pytest.approx(0.6, rel=0.1)
    assert any("mooncake" in note for note in load["notes"])


def test_seeds_up_to_the_last_are_accepted_and_differ(kv):
    def arrived(seed):
        said = kv("serving", "simulate", "--seed", seed, *FEW, "--agent", "do_nothing", "--json").json
        assert said["seed"] == seed
        return said["work_bound"]

    assert len({arrived(seed) for seed in (0, 1, 2**63, 2**64 - 1)}) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu_blocks=5_000", ("gpu_blocks", 5000)),
        ("rho=0.7", ("rho", 0.7)),
        ("strict=Yes", ("strict", True)),
        ("reuse=false", ("reuse", False)),
        ("sla_vip=none", ("sla_vip", None)),
        ("sla_vip=7", ("sla_vip", 7.0)),
        ("admission=reserve", ("admission", "reserve")),
    ],
)
def test_a_setting_has_the_type_of_its_field(text, expected):
    key, value = setting_of(text)
    assert (key, value) == expected and type(value) is type(expected[1])


def test_every_field_of_a_scenario_but_its_name_can_be_set():
    for name in Scenario.__dataclass_fields__:
        if name != "task":
            value = getattr(task("hard"), name)
            assert setting_of(f"{name}={str(value).lower()}") == (name, value)


@pytest.mark.parametrize("name", list(AGENTS))
def test_an_agent_decides_the_same_whether_compiled_or_asked_each_time(name):
    scenario = task("hard", ticks=150)
    state = new_state(scenario, 9)
    for _ in ticks(state, decider(name, state)):
        pass
    assert np.array_equal(state.columns.rows, play(name, scenario, 9).columns.rows)


def test_agents_are_named_by_comma_all_of_them_or_those_that_mean_to_serve():
    assert agents_of(["lru,fifo", "lru"]) == ["lru", "fifo"]
    assert agents_of(["all"]) == [*AGENTS, "oracle"]
    assert set(agents_of(["all"])) - set(agents_of(None)) == set(CANARIES)


def test_evaluate_prints_intervals_differences_and_the_bound(kv):
    command = (
        "serving",
        "evaluate",
        "--policy",
        "lru,stability,do_nothing",
        "--task",
        "easy,hard",
        "--seeds",
        "3",
        *FEW,
    )
    said = kv(*command, "--workers", "1", "--json").json
    assert said["seeds"] == [30000, 30001, 30002]
    rows = {(row["task"], row["agent"]): row for row in said["results"]}
    assert set(rows) == {
        (t, a) for t in ("easy", "hard") for a in ("fluid bound", "lru", "stability", "do_nothing")
    }
    score = rows["hard", "stability"]["score"]
    mine = [
        row["report"]["score"]
        for row in said["episodes"]
        if (row["task"], row["agent"]) == ("hard", "stability")
    ]
    assert score["mean"] == pytest.approx(np.mean(mine))
    # Student's t, 97.5 %, two degrees of freedom.
    assert score["high"] - score["mean"] == pytest.approx(4.3027 * np.std(mine, ddof=1) / 3**0.5)
    assert rows["hard", "do_nothing"]["score_minus_base"]["high"] < 0
    assert rows["hard", "lru"]["score_minus_base"] is None
    table, markdown = kv(*command), kv(*command, "--markdown")
    assert "fluid bound" in table.out and "3 seeds are few" in table.out
    assert f"| stability | {rows['easy', 'stability']['score']['mean']:.3f} ± " in markdown.out
    assert markdown.out.count("\n") == 6


def test_evaluate_goes_on_in_its_folder(kv, tmp_path):
    command = (
        "serving",
        "evaluate",
        "--policy",
        "lru",
        "--task",
        "easy",
        *FEW,
        "--workers",
        "1",
        "--out",
        "there",
        "--json",
    )
    first = kv(*command, "--seeds", "1").json["episodes"]
    kept = (tmp_path / "there" / "rows.jsonl").read_text()
    more = kv(*command, "--seeds", "2").json["episodes"]
    assert more[0] == first[0]
    assert (tmp_path / "there" / "rows.jsonl").read_text().startswith(kept)


def test_evaluate_ends_with_one_where_an_agent_failed(kv, monkeypatch):
    from kv_cache_rl import agents

    class Careless:
        name = "careless"

        def reset(self, seed=0):
            pass

        def act(self, observation, mask):
            raise RuntimeError("no idea")

    monkeypatch.setitem(agents.AGENTS, "careless", Careless)
    said = kv(
        "serving",
        "evaluate",
        "--policy",
        "lru,careless",
        "--task",
        "easy",
        "--seeds",
        "2",
        *FEW,
        "--workers",
        "1",
    )
    assert said.code == 1
    assert "failed careless on easy: RuntimeError: no idea" in said.err
    assert "lru" in said.out


def test_train_writes_the_table_and_how_it_was_made(kv, tmp_path):
    command = (
        "serving",
        "train",
        "--agent",
        "qlearning",
        "--task",
        "easy",
        "--episodes",
        "2",
        "--seed",
        "5",
        "--out",
        "made",
    )
    said = kv(*command, "--json").json
    table = np.load(tmp_path / "made" / "qlearning.npz")["table"]
    record = json.loads((tmp_path / "made" / "qlearning.json").read_text())
    assert table.dtype == np.float32 and np.any(table != 0)
    assert record["training"]["episodes"] == 2 and record["training"]["tasks"] == ["easy"]
    assert record["seeds"] == {"train": [10010, 10011], "select": [20000, 20007]}
    assert (
        [point["episode"] for point in record["curve"]]
        == [2]
        == [point["episode"] for point in said["curve"]]
    )
    kv(*command[:-1], "again")
    assert np.array_equal(np.load(tmp_path / "again" / "qlearning.npz")["table"], table)


def test_the_table_that_was_trained_plays_and_a_file_that_holds_none_is_refused(kv, tmp_path):
    short = ("--task", "easy", "--ticks", "60", "--seeds", "2")
    shipped = files("kv_cache_rl.agents") / "weights" / "qlearning.npz"
    (tmp_path / "mine.npz").write_bytes(shipped.read_bytes())
    found = kv("serving", "evaluate", "--agent", "qlearning,mine.npz", *short, "--json").json
    rows = {
        name: [row for row in found["episodes"] if row["agent"] == name] for name in ("qlearning", "mine.npz")
    }
    keep = ("seed", "report", "error")
    first, second = ([{k: row[k] for k in keep} for row in rows[name]] for name in rows)
    assert first == second and len(first) == 2
    table = np.load(shipped)["table"]
    np.savez(tmp_path / "short.npz", table=table[:-1])
    np.savez(tmp_path / "other.npz", weights=table)
    (tmp_path / "torn.npz").write_bytes(shipped.read_bytes()[:99])
    for name, words in (
        ("short", "finite floats; train them with"),
        ("other", "holds no table"),
        ("torn", "holds no table"),
        ("none", "No such file"),
    ):
        said = kv("serving", "simulate", "--agent", f"{name}.npz", *short[:4])
        assert said.code == 2 and words in said.err, name


def test_a_plot_of_nothing_is_not_drawn_and_the_failures_are_told(kv, tmp_path):
    (tmp_path / "boom.py").write_text(
        "class Boom:\n    name = 'boom'\n    def reset(self, seed=0): pass\n"
        "    def act(self, seen, mask): raise RuntimeError('boom')\n"
    )
    agent = ("--agent", "boom.py:Boom", "--task", "easy", "--ticks", "20", "--seeds", "2")
    said = kv("serving", "evaluate", *agent, "--plot", "p.png")
    assert said.code == 1 and "RuntimeError: boom" in said.err and "p.png is not drawn" in said.err
    assert "boom" in said.out and not (tmp_path / "p.png").exists()


def test_two_files_of_a_command_are_two_files(kv, tmp_path):
    said = kv("serving", "simulate", "--ticks", "5", "--log", "one.svg", "--plot", "./one.svg")
    assert said.code == 2 and "--plot and --log both name one.svg; give each its own" in said.err
    assert not (tmp_path / "one.svg").exists()


def test_bench_measures_beside_peers_and_says_what_it_measured_on(kv, monkeypatch):
    from kv_cache_rl.cli.serving import measure

    shorter = functools.partial(measure.interpreted_ticks, ticks=80, window=10)
    monkeypatch.setattr(measure, "interpreted_ticks", shorter)
    said = kv("serving", "bench", "--part", "episode", "--seconds", "0.05", "--json").json
    assert [one["target"] for one in said["measured"]] == [300_000, 300_000]
    assert all(one["met"] == (one["value"] >= one["target"]) for one in said["measured"])
    assert all(one["ratio"] > 2 and one["peer"] == "same code, interpreted" for one in said["measured"])
    assert said["machine"]["cores"] >= 1


def test_bench_asks_for_the_extra_that_has_gymnasium(kv, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    said = kv("serving", "bench", "--part", "gym")
    assert said.code == 2
    assert "pip install 'kv-cache-rl[serving]'" in said.err


def test_no_other_serving_command_loads_gymnasium():
    code = (
        "import sys\nfrom kv_cache_rl.cli import app\n"
        "try:\n    app(['serving', 'simulate', '--ticks', '20', '--json'])\nexcept SystemExit:\n    pass\n"
        "print('LOADED', sorted({'gymnasium', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_vectorised_peers_play_the_same_actions():
    pytest.importorskip("gymnasium")
    from kv_cache_rl.cli.serving import measure
    from kv_cache_rl.gym import ServingVectorEnv

    states = measure.in_mid_episode(3, ticks=400)
    taken = measure.actions_of("lru", states, 30)
    env = ServingVectorEnv(3, "medium", ticks=400)
    env.resume(states)
    for actions in taken:
        env.step(actions)
    for k, state in enumerate(states):
        alone, memory = state.copy(), new_memory("lru")
        seen, mask = np.zeros(24, np.float32), np.zeros(18, np.int8)
        look(*alone.buffers, seen, mask)
        for action in taken[:, k]:
            assert action == choose(HEURISTICS["lru"].which, seen, mask, memory)
            act(*alone.buffers, seen, mask, action)
        assert np.array_equal(env.state(k).columns.rows, alone.columns.rows)


def test_bench_measures_servers_under_load():
    from kv_cache_rl.cli.serving import measure

    for state in measure.in_mid_episode(4):
        share = state.columns.book["clock_us"] / state.columns.book["end_us"]
        assert 0.3 <= share < 0.72
        assert (
            state.columns.book["serving"] > 5
            and state.columns.book["pools"][GPU_POOL, 1] > 0.5 * state.scenario.gpu_blocks
        )


def test_a_rate_is_the_median_of_several_runs(monkeypatch):
    from kv_cache_rl.cli.serving import measure

    instants = iter(
        [0.0, *(t for k, took in enumerate((1, 8, 2, 4, 1)) for t in (100.0 * k, 100.0 * k + took)), 1e9]
    )
    monkeypatch.setattr(measure, "perf_counter", lambda: next(instants))
    prepared = []
    assert measure.median_rate(lambda: prepared.append(1), lambda: 8, 1.0) == 4.0
    assert len(prepared) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["simulate", "--agent", "lruu"],
            "unknown agent 'lruu'; did you mean lru? use one of random, fifo",
        ),
        (["simulate", "--task", "brutal"], "use one of easy, medium, hard"),
        (["simulate", "--seed", "-1"], "give a whole number from 0 to 2**64 - 1"),
        (["simulate", "--seed", str(2**64)], "give a whole number from 0 to 2**64 - 1"),
        (["simulate", "--rho", "nan"], "--rho is nan; give a number"),
        (["simulate", "--rho", "0"], "rho is 0.0; give a number from"),
        (["simulate", "--rho", "-3"], "rho is -3.0; give a number from"),
        (["simulate", "--ticks", "0"], "ticks is 0; give a whole number from 1"),
        (["simulate", "--set", "gpu_blocks=0"], "gpu_blocks is 0; give a whole number from 16"),
        (["simulate", "--set", "gpu_blocks=many"], "'many' is not a whole number"),
        (["simulate", "--set", "gpu_block=9"], "did you mean gpu_blocks?"),
        (["simulate", "--set", "task=9"], "unknown setting 'task'"),
        (["simulate", "--set", "rho"], "write --set rho=VALUE"),
        (["simulate", "--set", "strict=perhaps"], "'perhaps' is not true or false"),
        (["simulate", "--set", "sla_free=soon"], "'soon' is not a number, or none"),
        (["simulate", "--set", "sla_free=0"], "sla_free is 0.0; give a positive number"),
        (["simulate", "--set", "pattern=odd"], "use one of constant, waves, spikes"),
        (["simulate", "--ticks", "5", "--set", "ticks=6"], "ticks is given twice, as 5 and as 6"),
        (["simulate", "--trace", "nothing.jsonl"], "nothing.jsonl: there is no such file"),
        (["simulate", "--trace", "."], ".: this is a directory without trace files"),
        (["simulate", "--ticks", "9", "--log", "."], "is a folder"),
        (
            ["simulate", "--task", "medium", "--rho", "99"],
            "rho is 99.0: medium would reach 151.4, above 100; give a number up to 65",
        ),
        (["simulate", "--rho", "1e300"], "rho is 1e+300; give a number from"),
        (["simulate", "--set", "sla_free=1e300"], "sla_free is 1e+300; give a positive number up to 1e+09"),
        (
            ["simulate", "--set", "trace="],
            "trace is ''; give the name of a trace file, or None for drawn users",
        ),
        (
            ["simulate", "--set", "length_scale=2"],
            "length_scale is 2.0, but it is for the lengths of a trace",
        ),
        (["simulate", "--ticks", "9", "--plot", "x.gif"], "use one of .png, .svg, .pdf"),
        (["evaluate", "--policy", "lruu"], "did you mean lru?"),
        (["evaluate", "--task", "brutal"], "use one of easy, medium, hard"),
        (["evaluate", "--seeds", "0"], "give a number from 1 to 100"),
        (["evaluate", "--seeds", "101"], "give a number from 1 to 100"),
        (["train", "--agent", "lru"], "unknown agent to train 'lru'; use one of qlearning"),
        (["train", "--task", "brutal"], "use one of easy, medium, hard"),
        (["train", "--seed", str(2**53)], "give a whole number below 2**53"),
        (["bench", "--part", "gymm"], "did you mean gym?"),
    ],
)
def test_bad_input_ends_with_two_and_one_line_that_says_what_to_do(kv, arguments, words):
    said = kv("serving", *arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_an_episode_too_short_for_any_request_says_so_and_gives_no_share(kv):
    command = ("--agent", "lru", "--ticks", "2")
    said = kv("serving", "simulate", *command)
    assert said.code == 0 and "the episode is too short" in said.out
    assert "100.0 %" not in said.out.split("latency")[0]
    assert kv("serving", "simulate", *command, "--json").json["throughput"] is None
    said = kv("serving", "evaluate", *command, "--task", "easy", "--seeds", "1", "--workers", "1")
    assert said.code == 0 and "easy: no share: the episode is too short" in said.out


def test_train_does_not_write_over_a_training_of_other_settings(kv, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    settings = {"tasks": ["easy"], "episodes": 2}
    (made / "qlearning.json").write_text(json.dumps({"training": settings}))
    (made / "qlearning.npz").write_bytes(b"theirs")
    said = kv("serving", "train", "--task", "easy", "--episodes", "3", "--out", "made")
    assert (said.code, "episodes 2, now 3" in said.err, "another --out" in said.err) == (2, True, True)
    assert (made / "qlearning.npz").read_bytes() == b"theirs"


def test_a_trace_that_cannot_be_replayed_is_refused_before_anything_is_played(kv, tmp_path):
    (tmp_path / "p.csv").write_text("# time,obj_id,obj_size\n0,a,4096\n5,b,4096\n9,a,4096\n")
    for command in (
        ("simulate", "--trace", "p.csv"),
        ("evaluate", "--trace", "p.csv", "--policy", "lru"),
        ("transfer", "p.csv"),
    ):
        said = kv("serving", *command)
        assert (said.code, said.out) == (
            2,
            "",
        ) and "replayed in the lab (kv-cache-rl hierarchy replay)" in said.err


def test_the_means_of_a_window_of_a_trace_are_told_apart_from_those_of_mu(kv, write):
    lines = [{"timestamp": 900 * k, "input_length": 50 + 20 * k, "output_length": 9 + k} for k in range(120)]
    path = write(lines, "growing.jsonl")
    found = kv("serving", "simulate", "--task", "easy", "--ticks", "300", "--trace", path, "--json").json
    [window] = [note for note in found["traffic"]["notes"] if note.startswith("window: ")]
    number, start = (int(window.split()[at]) for at in (1, 5))
    asked = [50 + 20 * ((start - 1 + k) % 120) for k in range(number)]
    assert f"of {sum(asked) / number:,.0f} prompt" in window
