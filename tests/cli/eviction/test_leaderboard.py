"""From a run to a place on the leaderboard, and the committed leaderboard."""

import gzip
import json
from pathlib import Path

import pytest

from kv_cache_rl.sim.eviction import DECIDERS

COMMITTED = Path(__file__).parents[3] / "leaderboard"


@pytest.fixture
def two_of_each_tier(monkeypatch):
    """The committed sets, cut to two scenarios a tier."""
    import kv_cache_rl.cli.eviction.options as selecting
    import kv_cache_rl.sim.eviction as eviction

    whole = eviction.load_scenarios

    def cut(difficulty="all", split="eval", num_examples=-1, seed=42):
        return whole(difficulty, split, 6 if num_examples == -1 else num_examples, 42)

    monkeypatch.setattr(eviction, "load_scenarios", cut)
    assert selecting.select_scenarios("all", "test", -1, 1, None) == whole("all", "test", 6)


def test_a_run_becomes_an_entry(kv, two_of_each_tier):
    assert kv("baselines", "-p", "lru,learned", "--split", "test", "-n", -1, "--out", "run").code == 0
    said = kv("submit", "run", "--by", "A. Person", "--out", "board", "--json")  # a folder that it makes
    assert [one["name"] for one in said.json["submissions"]] == ["lru", "learned"]
    built = kv("leaderboard", "build", "board", "--json")
    scores = {one["name"]: one["normalized"]["all"]["mean"] for one in built.json["entries"]}
    rows = json.loads(Path("run/summary.json").read_text())["rows"]
    means = {row["policy"]: row["normalized"]["mean"] for row in rows if row["tier"] == "all"}
    assert scores == {name: pytest.approx(means[name]) for name in ("lru", "learned")}
    assert "A. Person" in Path("board/index.html").read_text()
    assert "| `lru` | +" in Path("board/README.md").read_text()
    assert "| `learned` |" in kv("leaderboard", "build", "board", "--markdown").out


def test_several_runs_of_a_model_are_one_entry(kv, two_of_each_tier):
    for name in ("one", "two"):
        kv("baselines", "-p", "lru,fifo", "--split", "test", "-n", -1, "--out", name)
    said = kv("submit", "one", "two", "-m", "lru", "--name", "lru twice", "--by", "me", "--out", "two.json")
    assert said.code == 0 and "lru twice: two.json" in said.out
    Path("board").mkdir()
    Path("two.json").rename("board/two.json")
    (entry,) = kv("leaderboard", "build", "board", "--json").json["entries"]
    assert entry["runs"] == 2 and entry["pass^k"]["0.5"][0] == entry["pass^k"]["0.5"][1]


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("run",), "choose one with --model, or give a folder as --out"),
        (("run", "-m", "lruu"), "did you mean lru?"),
        (("run", "-m", "lru", "--by", "<b>"), "the field 'by' is '<b>'"),
        (("run", "-m", "lru", "--link", "http://a"), "the field 'link'"),
        (("part", "-m", "lru"), "play all of them: --split test --num-examples -1"),
        (("run", "other", "-m", "lru"), "the first run the test set"),
        (("run", "run", "-m", "lru"), "a run folder is given twice"),
        (("nothing",), "is not a run folder"),
    ],
)
def test_what_cannot_be_submitted_says_why(kv, two_of_each_tier, arguments, remedy):
    kv("baselines", "-p", "lru,fifo", "--split", "test", "-n", -1, "--out", "run")
    kv("baselines", "-p", "lru", "--split", "test", "-n", 2, "--out", "part")
    kv("baselines", "-p", "lru", "-n", -1, "--out", "other")
    given = arguments if "--by" in arguments else (*arguments, "--by", "me")
    said = kv("submit", *given, "--out", "x.json")
    assert said.code == 2 and remedy in said.err and not Path("x.json").exists()


def test_a_name_that_no_leaderboard_looks_for_is_refused(kv, two_of_each_tier):
    kv("baselines", "-p", "lru", "--split", "test", "-n", -1, "--out", "run")
    said = kv("submit", "run", "--by", "me", "--out", "x.txt")
    assert said.code == 2 and "NAME.json" in said.err


def test_an_altered_entry_stops_the_build_and_leaves_the_page(kv, two_of_each_tier):
    kv("baselines", "-p", "lru", "--split", "test", "-n", -1, "--out", "run")
    Path("board").mkdir()
    kv("submit", "run", "--by", "me", "--out", "board/lru.json.gz")
    kv("leaderboard", "build", "board")
    before = Path("board/index.html").read_bytes()
    path = Path("board/lru.json.gz")
    found = json.loads(gzip.decompress(path.read_bytes()))
    key = min(found["runs"][0])
    found["runs"][0][key]["log"][3] = [["keep"], ["keep"]]
    path.write_bytes(gzip.compress(json.dumps(found).encode()))
    said = kv("leaderboard", "build", "board")
    assert said.code == 2 and f"{path}: run 1, {key}, window 4:" in said.err
    assert Path("board/index.html").read_bytes() == before


def test_a_page_of_ones_own_is_not_replaced(kv, two_of_each_tier):
    kv("baselines", "-p", "lru", "--split", "test", "-n", -1, "--out", "run")
    Path("board").mkdir()
    Path("board/README.md").write_text("# Mine")
    kv("submit", "run", "--by", "me", "--out", "board/lru.json.gz")
    said = kv("leaderboard", "build", "board")
    assert said.code == 2 and "board/README.md was not written by this command" in said.err
    assert Path("board/README.md").read_text() == "# Mine" and not Path("board/index.html").exists()


def test_runs_that_were_asked_differently_are_submitted_apart(kv, two_of_each_tier):
    for name in ("one", "two"):
        kv("baselines", "-p", "lru", "--split", "test", "-n", -1, "--out", name)
    config = json.loads(Path("two/config.json").read_text())
    Path("two/config.json").write_text(json.dumps(config | {"sampling": {"temperature": 0.5}}))
    said = kv("submit", "one", "two", "--by", "me", "--out", "x.json")
    assert said.code == 2 and "two has sampling {'temperature': 0.5}" in said.err and "apart" in said.err


def test_folders_that_are_none(kv):
    assert "is no folder" in kv("leaderboard", "build", "nowhere").err
    Path("empty").mkdir()
    assert "holds no submission" in kv("leaderboard", "build", "empty").err
    assert "--out gone is no folder" in kv("leaderboard", "build", "empty", "--out", "gone").err


@pytest.mark.slow
def test_the_committed_leaderboard_is_what_its_entries_give(kv, tmp_path):
    said = kv("leaderboard", "build", COMMITTED, "--out", tmp_path, "--json")
    assert said.code == 0, said.err
    assert {one["name"] for one in said.json["entries"]} >= set(DECIDERS)
    for name in ("index.html", "README.md"):
        assert (tmp_path / name).read_bytes() == (COMMITTED / name).read_bytes(), name
