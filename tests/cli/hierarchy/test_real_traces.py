"""Windows cut from published traces play through every command that takes scenarios."""

import pytest

from kv_cache_rl.sim.eviction import load_file

FILES = {
    "claude-code": "claude-code/cc_sessions_rle.jsonl.gz",
    "mooncake": "mooncake/conversation_trace.jsonl.gz",
}


@pytest.fixture(params=FILES)
def trace(request, real):
    # The commands know a trace by its full path, so one that they share is read once.
    return real(FILES[request.param]).resolve()


def test_windows_of_a_trace_are_cut_verified_replayed_and_evaluated_with_the_same_scores(
    kv, environment, trace, tmp_path
):
    said = kv("scenarios", "from-trace", trace, "--out", "windows.jsonl", "-d", "hard", "-n", 2, "--json")
    assert (said.code, said.json["scenarios"]) == (0, 2)
    assert kv("scenarios", "verify", "windows.jsonl", "--json").json["faults"] == []
    first = load_file(tmp_path / "windows.jsonl")[0].id
    assert kv("replay", f"windows.jsonl:{first}", "--policy", "lru", "--json").json["policy"] == "lru"
    direct = kv("baselines", "-p", "weigh_value", "--trace", trace, "-d", "hard", "-n", 2, "--json").json
    evaluated = kv("eval", "-p", "weigh_value", "--trace", trace, "-d", "hard", "-n", 2, "--json").json
    assert evaluated["rows"] == direct["rows"]
    assert evaluated["config"]["trace"] == str(trace)
