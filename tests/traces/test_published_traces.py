"""The published files hold what is known of them; skipped where they are not at hand."""

from collections import Counter

import pytest

from kv_cache_rl.traces import cut_windows, detect, read, read_mooncake, read_sessions

SESSIONS = "claude-code/cc_sessions_rle.jsonl.gz"
CONVERSATION = "mooncake/conversation_trace.jsonl.gz"


def unique_blocks(requests):
    """How many different ids the runs of some requests name."""
    total, until = 0, -1
    for first, length in sorted({run for request in requests for run in request.runs}):
        total += max(0, first + length - 1 - max(until, first - 1))
        until = max(until, first + length - 1)
    return total


def test_the_claude_code_file_has_692_distinct_sessions_and_96_percent_prefix_hits(real):
    path = real(SESSIONS)
    assert detect(path) == "claude-code"
    assert sum(1 for _ in read_sessions(path)) == 710
    sessions = accesses = unique = 0
    kinds = Counter()
    for session in read_sessions(path, drop_duplicates=True):
        requests = [*session.calls, *(inner for agent in session.sub_agents for inner in agent.requests)]
        sessions += 1
        kinds["main"] += len(session.calls)
        kinds["sub-agent"] += len(requests) - len(session.calls)
        accesses += sum(length for request in requests for _, length in request.runs)
        unique += unique_blocks(requests)
    assert sessions == 692
    assert kinds == {"main": 45_542, "sub-agent": 676}
    assert kinds.total() == 46_218
    assert round(accesses / 1e6, 1) == 85.4
    assert round(unique / 1e6, 3) == 3.196
    assert round(100 * (1 - unique / accesses), 2) == 96.26


@pytest.mark.parametrize(
    ("name", "known", "rows"),
    [
        (CONVERSATION, "mooncake", 12_031),
        ("mooncake/synthetic_trace.jsonl.gz", "mooncake", 3_993),
        ("azure/AzureLLMInferenceTrace_code.csv.gz", "azure", 8_819),
        ("azure/AzureLLMInferenceTrace_conv.csv.gz", "azure", 19_366),
    ],
)
def test_the_other_files_have_as_many_requests_as_published(real, name, known, rows):
    path = real(name)
    assert detect(path) == known
    assert sum(1 for _ in read(path)) == rows


def test_an_infinite_cache_serves_36_6_percent_of_the_mooncake_conversation(real):
    seen, hits, blocks = set(), 0, 0
    for request in read_mooncake(real(CONVERSATION)):
        leading = 0
        while leading < len(request.hash_ids) and request.hash_ids[leading] in seen:
            leading += 1
        hits, blocks = hits + leading, blocks + len(request.hash_ids)
        seen.update(request.hash_ids)
    assert round(100 * hits / blocks, 1) == 36.6


def test_windows_of_the_claude_code_file_hold_every_request_once_and_half_the_idle_return(real):
    windows = list(cut_windows(real(SESSIONS), seed=0, live=24))
    found = [session for window in windows for session in window.sessions]
    assert sum(len(session.turns) for session in found) == 46_218
    live = [session for session in found if session.last_seen_s is not None and session.last_seen_s > -60]
    assert len(live) / len(windows) == pytest.approx(24, rel=0.02)
    idle = [session for session in live if session.last_seen_s < 0]
    assert sum(bool(session.turns) for session in idle) / len(idle) == pytest.approx(0.48, abs=0.02)


def test_windows_of_the_mooncake_conversation_have_few_returns(real):
    windows = list(cut_windows(real(CONVERSATION), seed=0, live=24))
    found = [session for window in windows for session in window.sessions]
    idle = [session for session in found if session.last_seen_s is not None and -60 < session.last_seen_s < 0]
    assert len(windows) > 500
    assert sum(bool(session.turns) for session in idle) / len(idle) < 0.1
    assert {session.prefix_tokens for session in found if session.prefix_key == "block 0"} == {512}
