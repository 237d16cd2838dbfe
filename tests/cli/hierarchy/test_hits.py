"""Hits alone, and the lab beside libCacheSim."""

import json

import pytest

from kv_cache_rl.experiments.hierarchy import libcachesim


def test_hits_alone_are_those_of_a_replay(kv):
    workload = "workload:zipf,pages=300,accesses=4000"
    assert kv("hierarchy", "workload", workload, "--out", "z.oracleGeneral", "--json").json["pages"] == 300
    given = ("--policy", "lru,sieve,gdsf", "--capacity", "10%,40", "--json")
    for trace in (workload, "z.oracleGeneral"):
        rows = kv("hierarchy", "replay", trace, *given, "--hits-only").json["rows"]
        whole = kv("hierarchy", "replay", trace, *given).json["rows"]
        columns = ("policy", "capacity", "miss_count", "hit_rate", "accesses", "tiers")
        assert [[row[name] for name in columns] for row in rows] == [
            [row[name] for name in columns] for row in whole
        ]
        assert {row["method"] for row in rows} == {"hits only"}
    assert "lru" in kv("hierarchy", "replay", workload, *given[:4], "--hits-only").out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--policy", "belady"), "--hits-only has no belady"),
        (("--policy", "random"), "hits alone are not counted of random, only of lru, fifo"),
        (("--reserve", "10%"), "leave out it or --reserve"),
        (("--warm-up", "10%"), "leave out it or --warm-up"),
        (("--squeeze", "int8"), "leave out it or --squeeze"),
        (("--time-line", "5"), "leave out it or --time-line"),
        (("--capacity", "0"), "the capacity is 0 blocks; give at least 1"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_needs_more_than_hits_is_refused(kv, more, said):
    capacity = () if "--capacity" in more else ("--capacity", "20")
    found = kv("hierarchy", "replay", "workload:rag_burst", "--hits-only", "--json", *capacity, *more)
    assert found.code != 0 and said in found.err


def test_without_the_peer_its_recorded_misses_stand_beside_ours(kv, monkeypatch):
    monkeypatch.setattr(libcachesim, "TIMES", 1)
    monkeypatch.setattr(libcachesim, "PAIRS", libcachesim.PAIRS[:6])
    monkeypatch.setattr(libcachesim, "installed", lambda: None)
    found = kv("hierarchy", "bench", "--peer", "libcachesim", "--json").json
    assert [row["misses"] == row["their_misses"] for row in found["misses"]] == [True] * 5 + [False]
    assert not any(row["wrong"] for row in found["misses"])
    assert found["peer"] == {"name": "libCacheSim", "installed": None, "recorded": libcachesim.RECORDED}
    assert all(one["peer_value"] is None for one in found["measured"])
    said = kv("hierarchy", "bench", "--peer", "libcachesim").out
    assert said.index("265,669") < said.index("accesses/s") and libcachesim.INSTALL in said


def test_a_peer_that_does_not_answer_is_named_with_a_way_out(kv, monkeypatch):
    monkeypatch.setattr(libcachesim, "PAIRS", libcachesim.PAIRS[:1])
    monkeypatch.setattr(libcachesim, "installed", lambda: "9.9")
    monkeypatch.setattr(libcachesim, "PEER", "raise SystemExit('no such cache')")
    found = kv("hierarchy", "bench", "--peer", "libcachesim")
    assert found.code != 0
    assert "libCacheSim 9.9 did not replay LRU: no such cache" in found.err and "do without" in found.err


def test_a_peer_that_answers_stands_beside_ours(kv, monkeypatch):
    monkeypatch.setattr(libcachesim, "TIMES", 1)
    monkeypatch.setattr(libcachesim, "PAIRS", libcachesim.PAIRS[:1])
    monkeypatch.setattr(libcachesim, "installed", lambda: "9.9")
    monkeypatch.setattr(libcachesim, "PEER", "print('[0.5, 1000.0]')")
    found = kv("hierarchy", "bench", "--peer", "libcachesim", "--check", "--json")
    assert found.code == 1 and "missed: misses of lru" in found.err
    (row,), (one,) = (json.loads(found.out)[name] for name in ("misses", "measured"))
    assert (row["their_misses"], row["wrong"], one["peer"]) == (500_000, True, "libCacheSim 9.9 LRU")
    assert one["peer_value"] == 1000.0 and one["met"]


def test_the_peer_has_accesses_of_its_own(kv):
    found = kv("hierarchy", "bench", "--peer", "libcachesim", "--part", "lru")
    assert found.code != 0 and "--peer and --part are both given" in found.err
    assert "did you mean libcachesim" in kv("hierarchy", "bench", "--peer", "libcachesin").err
