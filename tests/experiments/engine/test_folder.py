"""The folder of a recording: what is whole is read, what was cut off is not, and one process writes."""

import json
from dataclasses import replace

import pytest

from kv_cache_rl.experiments.engine.folder import Config, Recorded, Step, read_run
from kv_cache_rl.experiments.engine.plan import EngineError
from kv_cache_rl.experiments.engine.writer import Writer

CONFIG = Config(
    engine="vllm 0.32.0",
    trace="made",
    source={"workload": "made"},
    command="kv-cache-rl engine record",
    requests=3,
    blocks=9,
    block_tokens=32,
    trace_block_tokens=512,
    max_num_seqs=1,
    token_budget=2048,
    at="once",
    rate=1.0,
    model="tiny",
    seed=0,
    lengthened=0,
    working_set=5,
)
ONE = Recorded(0, 0.0, 0, 40, 3, ((0, 1),), 0, 0, 0.0, 0.1, 0.2, (0, 2))
STORED = {"type": "BlockStored", "block_hashes": [0], "parent_block_hash": None, "token_ids": []}


@pytest.fixture
def folder(tmp_path):
    with Writer(tmp_path / "run", CONFIG, resume=False) as out:
        out.step(Step(0, 0.1, 1, 0, 6, 0, (("take", 0, 0, 1, 2),)))
        out.events(0, 0.1, [STORED])
        out.step(Step(1, 0.1, 1, 0, 6, 0, ()))
        out.step(Step(2, 0.2, 0, 0, 8, 0, (("free", 0),)))
        out.request(ONE)
        out.step(Step(3, 0.3, 1, 0, 6, 0, (("take", 1, 0, 1, 2),)))
        out.events(3, 0.3, [STORED])
    return tmp_path / "run"


def test_what_is_written_is_read(folder):
    run = read_run(folder)
    assert (run.config, run.requests, run.complete) == (CONFIG, (ONE,), False)
    assert next(iter(run.events())) == (0, [STORED])


def test_a_step_that_changed_nothing_has_no_line_and_is_read_all_the_same(folder):
    assert len((folder / "steps.jsonl").read_text().splitlines()) == 3
    steps = list(read_run(folder).steps())
    assert [(one.step, one.running, one.free, len(one.ops)) for one in steps] == [
        (0, 1, 6, 1),
        (1, 1, 6, 0),
        (2, 0, 8, 1),
        (3, 1, 6, 1),
    ]


@pytest.mark.parametrize("step", [3, 2, -1, 3 + 33, 10**15])
def test_a_step_that_cannot_follow_the_one_before_is_named(folder, step):
    line = {"step": step, "time_s": 0.4, "running": 1, "waiting": 0, "free": 6, "preempted": 0, "ops": []}
    with open(folder / "steps.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")
    with pytest.raises(EngineError, match=f"step {step} stands behind step 3"):
        list(read_run(folder).steps())


def test_while_nothing_runs_there_is_no_step(folder):
    line = {"step": 9, "time_s": 0.4, "running": 1, "waiting": 0, "free": 6, "preempted": 0, "ops": []}
    lines = (folder / "steps.jsonl").read_text().splitlines()[:2]
    (folder / "steps.jsonl").write_text("\n".join([*lines, json.dumps(line)]) + "\n")
    assert [one.step for one in read_run(folder).steps()] == [0, 1, 2, 9]


def test_a_line_that_was_cut_off_is_left_out_and_taken_away_where_the_run_goes_on(folder):
    with open(folder / "requests.jsonl", "a") as file:
        file.write('{"request": 1, "time')
    assert read_run(folder).requests == (ONE,)
    with Writer(folder, replace(CONFIG, command="another"), resume=True) as out:
        assert out.finished == (ONE,)
        out.request(replace(ONE, request=1, steps=(3, 4)))
    assert [one.request for one in read_run(folder).requests] == [0, 1]
    assert [step for step, _ in read_run(folder).events()] == [0], "what belonged to the cut request is gone"
    assert [one.step for one in read_run(folder).steps()] == [0, 1, 2]


@pytest.mark.parametrize("name", ["steps.jsonl", "events.jsonl"])
@pytest.mark.parametrize("line", ["7", "{}", '{"step": "1"}', '{"step": true}'])
def test_a_damaged_file_is_not_gone_on_with_and_keeps_what_it_holds(folder, name, line):
    before = (folder / name).read_text() + line + "\n"
    (folder / name).write_text(before)
    with pytest.raises(EngineError, match=f"{name}: a line names no step.*record again into another folder"):
        Writer(folder, CONFIG, resume=True)
    assert (folder / name).read_text() == before


def test_two_recorders_do_not_share_a_folder(tmp_path):
    with (
        Writer(tmp_path / "run", CONFIG, resume=False),
        pytest.raises(
            EngineError, match="another recorder writes there now; wait for it, or give another --out"
        ),
    ):
        Writer(tmp_path / "run", CONFIG, resume=True)


def test_a_folder_is_gone_on_with_only_when_asked_and_with_the_same_settings(folder):
    with pytest.raises(EngineError, match="go on with --resume, or give another --out"):
        Writer(folder, CONFIG, resume=False)
    with pytest.raises(EngineError, match="was begun with blocks 9, not 10"):
        Writer(folder, replace(CONFIG, blocks=10), resume=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(EngineError, match="holds other files; give --out a new folder"):
        Writer(tmp_path, CONFIG, resume=False)
    with pytest.raises(EngineError, match="holds no recording"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": "of another kind of run"}')
    with pytest.raises(
        EngineError, match="is of no recording; give a folder that `engine record --out` made"
    ):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("requests.jsonl", "{}", "expected the fields of recorded"),
        ("requests.jsonl", "[1, 2]", "expected the fields of recorded"),
        ("requests.jsonl", '{"request": NaN}', "line 2: it holds NaN"),
        ("steps.jsonl", '{"step": 9}', "expected the fields of step"),
        ("events.jsonl", '{"events": []}', "a line has no step and events"),
    ],
)
def test_a_file_that_was_changed_is_named_with_what_is_wrong(folder, name, line, said):
    with open(folder / name, "a") as file:
        file.write(line + "\n")
    with pytest.raises(EngineError, match=said):
        run = read_run(folder)
        list(run.steps())
        list(run.events())


def test_a_request_that_stands_there_twice_is_refused(folder):
    with open(folder / "requests.jsonl", "a") as file:
        file.write((folder / "requests.jsonl").read_text())
    with pytest.raises(EngineError, match="request 0 stands in it twice"):
        read_run(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"watermark": "5%"}, "watermark is '5%'"),
        ({"rate": None}, "rate is None"),
        ({"blocks": 9.5}, "blocks is 9.5"),
        ({"prefix_caching": 1}, "prefix_caching is 1"),
        ({"max_num_seqs": True}, "max_num_seqs is True"),
        ({"watermark": -0.1}, "watermark is -0.1"),
        ({"at": "noon"}, "requests that come noon"),
        ({"block_tokens": 0}, "in blocks of 0 tokens"),
    ],
)
def test_a_config_that_no_recorder_wrote_is_named(folder, changes, said):
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | changes))
    with pytest.raises(EngineError, match=said):
        read_run(folder)


REQUEST = {
    "request": 1, "time_s": 0.0, "sequence": 0, "prompt": 40, "generated": 3, "blocks": [[0, 1]], "found": 0,
    "preempted": 0, "arrived_s": 0.0, "started_s": 0.1, "done_s": 0.2, "steps": [0, 2],
}  # fmt: skip
STEP = {"step": 4, "time_s": 0.4, "running": 1, "waiting": 0, "free": 6, "preempted": 0, "ops": []}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("config.json", {"watermark": 1e308}, "watermark is 1e"),
        ("config.json", {"watermark": 1.5}, "watermark is 1.5"),
        ("config.json", {"blocks": 1}, "blocks is 1;"),
        ("config.json", {"rate": 10**400}, "rate is an integer of"),
        ("requests.jsonl", {"time_s": None}, "time_s is None"),
        ("requests.jsonl", {"prompt": True}, "prompt is True"),
        ("requests.jsonl", {"request": 3}, "request 3 is none of 3"),
        ("requests.jsonl", {"generated": 90}, "request 1 fills 4 blocks of 32 tokens and names 1"),
        ("requests.jsonl", {"generated": 0}, "generated 0"),
        ("requests.jsonl", {"blocks": [["0", 1]]}, "no runs of first and length"),
        ("requests.jsonl", {"blocks": [[0, 1, 2]]}, "no runs of first and length"),
        ("requests.jsonl", {"blocks": [[0, 10**12]]}, "names 1,000,000,000,000"),
        ("requests.jsonl", {"prompt": 32 * 10**12, "blocks": [[0, 10**12]]}, "the pool has 9 and"),
        ("requests.jsonl", {"found": 2}, "found 2 blocks, its prompt has 1"),
        ("requests.jsonl", {"steps": [3]}, "not its first and its last"),
        ("requests.jsonl", {"steps": [3, 2]}, "not its first and its last"),
        ("steps.jsonl", {"running": "2"}, "running is '2'"),
        ("steps.jsonl", {"time_s": None}, "time_s is None"),
        ("steps.jsonl", {"step": 10**30}, "stands behind step 3"),
        ("steps.jsonl", {"step": "4"}, "step is .4."),
        ("steps.jsonl", {"ops": [["zap"]]}, "has .'zap'., which is no taking"),
        ("steps.jsonl", {"ops": [[]]}, "is no taking"),
        ("steps.jsonl", {"ops": [[["take"], 1]]}, "is no taking"),
        ("steps.jsonl", {"ops": [["free", 3]]}, "is no taking"),
        ("steps.jsonl", {"ops": [["take", 1, 0, 2, 1]]}, "is no taking"),
        ("steps.jsonl", {"ops": [["take", 1, "0", 1, 2]]}, "is no taking"),
        ("events.jsonl", {"step": 4, "events": ["BlockStored"]}, "a line has no step and events"),
        ("events.jsonl", {"step": 4, "events": [{"type": ["zap"]}]}, "a line has no step and events"),
        ("events.jsonl", {"step": 4, "events": [{"block_hashes": [[1]]}]}, "a line has no step and events"),
    ],
)
def test_values_of_another_kind_or_range_are_named_with_their_file(folder, name, changes, said):
    if name == "config.json":
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | changes))
    else:
        begun = {"requests.jsonl": REQUEST, "steps.jsonl": STEP, "events.jsonl": {}}[name]
        with open(folder / name, "a") as file:
            file.write(json.dumps(begun | changes) + "\n")
    with pytest.raises(EngineError, match=f"{name}: .*{said}"):
        run = read_run(folder)
        list(run.steps())
        list(run.events())


def test_what_the_changes_start_from_is_read(folder):
    for name, line in (("requests.jsonl", REQUEST), ("steps.jsonl", STEP)):
        with open(folder / name, "a") as file:
            file.write(json.dumps(line) + "\n")
    run = read_run(folder)
    assert len(run.requests) == 2 and [one.step for one in run.steps()] == [0, 1, 2, 3, 4]


def test_a_recording_from_before_the_scheduler_had_options_is_read(folder):
    found = json.loads((folder / "config.json").read_text())
    for name in ("prefix_caching", "long_prefill", "watermark"):
        del found[name]
    (folder / "config.json").write_text(json.dumps(found))
    assert read_run(folder).config == CONFIG


def test_a_recording_of_another_version_is_refused(folder):
    found = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(found | {"version": 2}))
    with pytest.raises(EngineError, match="is no recording of version 1"):
        read_run(folder)
