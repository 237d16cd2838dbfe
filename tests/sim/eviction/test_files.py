"""Scenario files: what is written is read back, and what is broken is named with its place and a remedy."""

import copy
import gzip
import json
from pathlib import Path

import pytest

from kv_cache_rl.files import LINE_LIMIT
from kv_cache_rl.sim.eviction import (
    DECIDERS,
    Episode,
    Scenario,
    ScenarioError,
    load_file,
    load_scenarios,
    play,
    write_file,
)
from kv_cache_rl.sim.eviction.columns import Counter, Slot
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.spec import dumps


@pytest.fixture(scope="module")
def good(kit):
    """A scenario with everything in it, as JSON values."""
    return kit.scenario(
        kit.session("a", 10, kit.turn(-1, 10, out=60), kit.turn(3, 10, new=5), prefix=0),
        kit.session("b", 5, kit.turn(4, 5, out=300, dead=200), place="cpu"),
        prefixes=(4,),
    ).to_json()


def test_a_committed_set_is_read_once_and_anew_when_its_file_changes(kit, tmp_path, monkeypatch):
    path = tmp_path / "easy.jsonl"
    monkeypatch.setattr("kv_cache_rl.sim.eviction.scenarios.set_path", lambda split, difficulty: path)
    write_file(path, [kit.generate("easy", 1)])
    (first,) = load_scenarios("easy")
    assert load_scenarios("easy")[0] is first
    write_file(path, [kit.generate("easy", 2), kit.generate("easy", 3)])
    assert len(load_scenarios("easy")) == 2
    path.unlink()
    with pytest.raises(ScenarioError, match=r"easy\.jsonl: cannot be read"):
        load_scenarios("easy")


def test_a_file_is_read_back_as_it_was_written(kit, tmp_path):
    scenarios = [kit.generate("hard", seed) for seed in range(3)]
    write_file(tmp_path / "deep" / "set.jsonl", scenarios)
    assert list(load_file(tmp_path / "deep" / "set.jsonl")) == scenarios
    packed = tmp_path / "set.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "deep" / "set.jsonl").read_bytes()))
    assert list(load_file(packed)) == scenarios


def test_a_file_of_other_things_is_said_to_be_no_scenario(tmp_path):
    (tmp_path / "trace.jsonl").write_text('{"timestamp": 0, "input_length": 9, "hash_ids": [1]}\n')
    with pytest.raises(ScenarioError, match=r"no scenario .its fields: hash_ids, input_length.*from-trace"):
        load_file(tmp_path / "trace.jsonl")


HUGE = 10**30
BROKEN = {
    "a missing field": (("norm",), None, "field 'norm' is missing"),
    "an unknown field": (("colour",), 1, "unknown field 'colour'"),
    "another version": (("version",), "1", "version '1' is not '2'"),
    "a text for a number": (("gpu_pages",), "many", ".gpu_pages: expected int, got 'many'"),
    "a truth for a number": (("gpu_pages",), True, ".gpu_pages: expected int, got True"),
    "a fraction for a number": (("gpu_pages",), 1.5, ".gpu_pages: expected int, got 1.5"),
    "a number for a text": (("id",), 7, ".id: expected str, got 7"),
    "an unknown tier": (("difficulty",), "brutal", "difficulty must be one of easy, medium, hard"),
    "no steps": (("steps",), 0, "steps must be 1 to 1000"),
    "no budget": (("budget_pages",), 0, "budget_pages must be positive"),
    "a budget above the GPU": (("budget_pages",), 101, "budget_pages must not exceed gpu_pages"),
    "a negative pool": (("cpu_pages",), -1, "cpu_pages must be at least 0"),
    "a best that is no number": (("best",), float("nan"), "it holds NaN, which is no number in JSON"),
    "an infinite floor": (("floor",), float("-inf"), "it holds -Infinity, which is no number"),
    "an endless window": (("step_ms",), 2**35, "step_ms must be positive and below 2^30"),
    "a prefill beyond 64 bits": (
        ("prefill_c1_ns",),
        2**40 - 1,
        "prefill_c1_ns, prefill_c2_ps make 1852 tokens",
    ),
    "a quadratic prefill beyond 64 bits": (
        ("prefill_c2_ps",),
        2**40 - 1,
        "prefill_c1_ns, prefill_c2_ps make 1852 tokens",
    ),
    "a link beyond 64 bits": (
        ("link_fixed_us",),
        2**40 - 1,
        "link_ns_per_page, link_fixed_us make 1852 tokens",
    ),
    "no sessions": (("sessions",), [], "sessions must be 1 to 512"),
    "sessions of another type": (("sessions",), {}, ".sessions: expected a list, got dict"),
    "a session of another type": (("sessions", 1), [], ".sessions[1]: expected a JSON object, got list"),
    "a turn without output": (
        ("sessions", 1, "turns", 0, "out"),
        0,
        "session 'b': turns must have non-negative lengths",
    ),
    "a negative length": (
        ("sessions", 1, "turns", 0, "new"),
        -1,
        "session 'b': turns must have non-negative lengths",
    ),
    "an endless turn": (("sessions", 1, "turns", 0, "out"), HUGE, ".out: 1000"),
    "a turn too long": (("sessions", 1, "turns", 0, "out"), 2**40, "session 'b': turns must have"),
    "a turn beyond time": (("sessions", 1, "turns", 0, "arrive"), 2**50, "session 'b': arrive must be below"),
    "a last access beyond time": (("sessions", 0, "last_access"), -HUGE, ".last_access: -1000"),
    "accesses beyond number": (("sessions", 0, "accesses"), 2**40, "session 'a': last_access, accesses"),
    "more left than made": (
        ("sessions", 1, "turns", 0, "after"),
        10**6,
        "cannot leave more context than they made",
    ),
    "turns out of order": (("sessions", 0, "turns", 1, "arrive"), -5, "turns must be in order of arrival"),
    "a twin": (("sessions", 1, "seq_id"), "a", "sessions must have distinct seq_ids"),
    "a twin of a dead part": (("sessions", 0, "seq_id"), "b.0", "sessions must have distinct seq_ids"),
    "an empty id": (("sessions", 0, "seq_id"), "", "seq_id must be 1 to 4 printable characters"),
    "an id of two lines": (("sessions", 0, "seq_id"), "a\n", "seq_id must be 1 to 4 printable characters"),
    "an id as long as a novel": (
        ("sessions", 0, "seq_id"),
        "x" * 5_000,
        "seq_id must be 1 to 4 printable characters",
    ),
    "a prefix that is not there": (
        ("sessions", 0, "prefix"),
        3,
        "session 'a': prefix must be -1 or the index",
    ),
    "a prefix below nothing": (("prefixes", 0, "tokens"), -5, "prefix 'p0' needs an id and tokens"),
    "a session that is a system prompt": (
        ("sessions", 0, "kind"),
        "system",
        "session 'a': kind must be one of context",
    ),
    "a turn that leaves a system prompt": (
        ("sessions", 0, "turns", 0, "leaves"),
        "system",
        "session 'a': leaves must be one of",
    ),
    "work that runs on the CPU": (
        ("sessions", 1, "turns", 0, "arrive"),
        -1,
        "session 'b': place must be 'gpu' while",
    ),
    "work further than its end": (
        ("sessions", 0, "tokens"),
        10 * 128 + 60,
        "session 'a': tokens must be context + new",
    ),
    "tokens nowhere": (
        ("sessions", 0, "place"),
        "none",
        "place must be 'none' exactly when nothing is cached",
    ),
    "an unknown class": (
        ("sessions", 0, "work_class"),
        "poetry",
        "session 'a': work_class must be one of chat",
    ),
    "a priority above one": (("sessions", 0, "priority"), 1001, "session 'a': priority must be 0 to 1000"),
    "a log that is no list": (("best_log",), "keep", ".best_log: it is str 'keep', not a list of windows"),
    "a log of objects": (("best_log",), [[{"evict": "a"}]], ".best_log: window 1 holds"),
    "a log of texts": (("best_log",), [["evict"]], ".best_log: window 1 holds 'evict', not a call"),
    "a best return below the floor": (("best",), -0.5, "best -0.5 must not be below floor 0.0"),
    "a log of too few windows": (("best_log",), [[["keep"]]], "best_log has 1 windows, and must have"),
    "a log of numbers": (("best_log",), [[1]], ".best_log: window 1 holds '1', not a call such as"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_scenario_is_named_by_file_line_field_and_remedy(good, tmp_path, what):
    (*where, last), value, message = BROKEN[what]
    broken = copy.deepcopy(good)
    target = broken
    for key in where:
        target = target[key]
    if value is None:
        del target[last]
    else:
        target[last] = value
    path = tmp_path / "set.jsonl"
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(broken) + "\n")
    with pytest.raises(ScenarioError) as error:
        load_file(path)
    assert str(error.value).startswith(f"{path}:3") and message in str(error.value)
    assert "kv-cache-rl scenarios generate" in str(error.value) and len(str(error.value)) < 400 + len(
        str(path)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400])
def test_a_return_beyond_number_is_refused_in_python_too(good, value):
    with pytest.raises(ScenarioError, match=r"scenario\.best: .* is out of range"):
        Scenario.from_json({**good, "best": value})


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_file_without_an_end_is_refused():
    with pytest.raises(ScenarioError, match=r"cannot be read .is not a regular file"):
        load_file("/dev/zero")


def test_a_line_without_an_end_is_refused(tmp_path):
    with open(tmp_path / "long.jsonl", "wb") as file:
        file.truncate(LINE_LIMIT + 2)
    with pytest.raises(ScenarioError, match=r"cannot be read .line 1 is longer than"):
        load_file(tmp_path / "long.jsonl")


def test_the_unbroken_scenario_plays(good):
    episode = Episode(Scenario.from_json(good))
    assert episode.report().scenario_id == "eviction-hand-made-v2"


@pytest.mark.parametrize(
    "field", ["prefill_c1_ns", "prefill_c2_ps", "link_ns_per_page", "link_fixed_us", "step_ms"]
)
def test_the_largest_constants_that_are_accepted_never_overflow(kit, field):
    new, old = (
        kit.session("new", 0, kit.turn(0, new=2**24 - 1)),
        kit.session("old", 2**16, kit.turn(1, 2**16, new=9), place="cpu"),
    )
    long = kit.scenario(new, old, budget=2**20, cpu=2**20).to_json()
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        try:
            made, low = Scenario.from_json({**long, field: middle}), middle
        except ScenarioError:
            high = middle
    for name in ("keep", "swap_all", "evict_all"):
        episode = play(Episode(made), DECIDERS[name]())
        episode.check()
        c = episode.state.columns
        times = c.dyn[[Slot.TODO_US, Slot.LOST_US, Slot.WAIT_US]]
        assert times.min() >= 0 and c.counters[Counter.LATENCY_US] >= 0


def bad_files(good):
    line = (json.dumps(good) + "\n").encode()
    packed = gzip.compress(line)
    return {
        "empty.jsonl": (b"", "holds no scenario"),
        "blank.jsonl": (b"\n\n  \n", "holds no scenario"),
        "cut.jsonl": (line[: len(line) // 2], ":1: not JSON"),
        "deep.jsonl": (b"[" * 100_000 + b"\n", ":1: not JSON"),
        "list.jsonl": (b"[1]\n", ":1: expected a JSON object, got list"),
        "binary.jsonl": (bytes(range(128, 256)), ":1: not JSON as it was written: byte 0x80"),
        "twice.jsonl": (
            line.replace(b'{"id"', b'{"id": "x", "id"'),
            "the field 'id' stands there twice",
        ),
        "bomb.jsonl.gz": (gzip.compress(b"\n" * 2_000_000), "cannot be read (1,000,000 blank lines"),
        "cut.jsonl.gz": (packed[: len(packed) // 2], "cannot be read"),
        "head.jsonl.gz": (packed[:5], "cannot be read"),
        "plain.jsonl.gz": (line, "cannot be read"),
        "second.jsonl": (line + b"{,}\n", ":2: not JSON"),
    }


@pytest.mark.parametrize("name", bad_files({}))
def test_a_broken_file_is_named_with_the_reason_and_the_remedy(good, tmp_path, name):
    data, message = bad_files(good)[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ScenarioError) as error:
        load_file(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "scenarios generate" in str(error.value) or "regenerate" in str(error.value)


@pytest.mark.parametrize("damage", range(12))
def test_a_damaged_gzip_file_is_an_error_of_the_file_wherever_the_damage_is(good, tmp_path, damage):
    packed = bytearray(gzip.compress((json.dumps(good) + "\n").encode() * 3))
    packed[10 + damage * (len(packed) - 20) // 12] ^= 0xFF
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(packed)
    with pytest.raises(ScenarioError, match=r"set\.jsonl\.gz"):
        load_file(path)


@pytest.mark.parametrize("what", ["missing", "folder", "locked"])
def test_a_file_that_cannot_be_opened_is_named(tmp_path, monkeypatch, what):
    path = tmp_path / "set.jsonl"
    if what == "folder":
        path.mkdir()
    if what == "locked":

        def refuse(*_, **__):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("pathlib.Path.open", refuse)
    reason = {"missing": "No such file", "folder": "Is a directory", "locked": "Permission denied"}[what]
    with pytest.raises(ScenarioError, match=rf"set\.jsonl: cannot be read \({reason}"):
        load_file(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"difficulty": "brutal"}, "unknown difficulty 'brutal'; use one of easy, medium, hard, all"),
        ({"split": "validation"}, "unknown split 'validation'; use one of train, eval, test"),
        ({"num_examples": 0}, "num_examples is 0; use -1 for all, or a positive number"),
        ({"num_examples": -7}, "num_examples is -7"),
        ({"num_examples": 1.5}, "num_examples is 1.5; give a whole number"),
        ({"num_examples": "3"}, "num_examples is '3'; give a whole number"),
        ({"num_examples": True}, "num_examples is True; give a whole number"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number"),
        ({"seed": None}, "seed is None; give a whole number"),
    ],
)
def test_an_impossible_request_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ScenarioError, match=message):
        load_scenarios(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("brutal", 1), "unknown difficulty 'brutal'; use one of easy, medium, hard"),
        (("hard", 1, "validation"), "unknown split 'validation'; use one of train, eval, test"),
        (("hard", -1), "seed is -1 and index 0; give numbers from 0 on"),
        (("hard", 1.5), "seed is 1.5; give a whole number"),
        (("hard", 1, "train", 0.5), "index is 0.5; give a whole number"),
        (("hard", 1, "train", -3), "seed is 1 and index -3; give numbers from 0 on"),
    ],
)
def test_what_cannot_be_generated_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ScenarioError, match=message):
        generate(*arguments)


def test_a_line_is_the_same_bytes_after_a_round_trip(kit):
    for difficulty in ("easy", "medium", "hard"):
        made = kit.generate(difficulty, 9)
        assert dumps(Scenario.from_json(json.loads(dumps(made)))) == dumps(made)
