"""Traffic from traces: whose history is whose, how lengths and times are brought to a server, what cannot be
replayed.
"""

import numpy as np
import pytest

from kv_cache_rl.sim.serving.demand import held
from kv_cache_rl.sim.serving.generate import traffic
from kv_cache_rl.sim.serving.spec import Scenario, ServingError
from kv_cache_rl.theory.condition import MEMORY
from kv_cache_rl.traces.errors import TraceError

ARRIVAL, PROMPT, OUTPUT, VIP, POWER, PARENT, HISTORY = range(7)

PUBLISHED = {
    "claude-code/cc_sessions_rle.jsonl.gz": (46_218, 755),
    "mooncake/conversation_trace.jsonl.gz": (12_031, None),
    "mooncake/synthetic_trace.jsonl.gz": (3_993, None),
    "azure/AzureLLMInferenceTrace_code.csv.gz": (8_819, 8_819),
    "azure/AzureLLMInferenceTrace_conv.csv.gz": (19_366, 19_366),
}


def replaying(path, **settings) -> Scenario:
    return Scenario(
        "replay",
        "constant",
        **{"rho": 0.5, "rho_peak": 100.0, "sla_free": 100, "sla_vip": 50, "ticks": 2_000} | settings,
        trace=str(path),
    )


def mooncake(times, first=0):
    """One chat that grows by a block of 512 tokens a turn: 512, 1024, ... tokens, 500 of them generated."""
    return [
        {
            "timestamp": at,
            "input_length": 512 * (turn + 1),
            "output_length": 500,
            "hash_ids": list(range(first, first + turn + 1)),
        }
        for turn, at in enumerate(times)
    ]


def call(t, tokens, out, first=0, **others):
    blocks = tokens // 64
    return {
        "t": t,
        "type": "n",
        "in": tokens,
        "out": out,
        "stop": "tool_use",
        "it": [],
        "ot": [],
        "h": [[first, blocks]] if blocks else [],
    } | others


def session(name, requests, duplicate=False):
    return {
        "id": name,
        "models": ["m"],
        "block_size": 64,
        "hash_id_scope": "local",
        "tool_tokens": 0,
        "system_tokens": 0,
        "exact_duplicate": duplicate,
        "requests": requests,
    }


def azure(rows):
    stamps = [
        f"2023-11-16 18:{at // 60:02d}:{at % 60:02d}.0000000,{prompt},{output}" for at, prompt, output in rows
    ]
    return ["TIMESTAMP,ContextTokens,GeneratedTokens", *stamps]


def work_of(scenario, made):
    prompt, output = made.table[:, PROMPT], made.table[:, OUTPUT]
    if made.binding == MEMORY:
        return held(
            prompt, output, scenario.token_budget, scenario.block_tokens
        ), scenario.gpu_tokens * scenario.ticks
    return prompt + output, scenario.token_budget * scenario.ticks


def test_a_chat_keeps_its_turns_their_lengths_and_their_rhythm(write):
    path = write(mooncake([0, 1_000, 4_000, 10_000]))
    made = traffic(replaying(path, length_scale=1.0, rho=100.0, ticks=100), 0)
    made.check()
    rows = made.table
    start = int(made.turn[0])
    assert made.turn[:8].tolist() == [(start + n) % 4 for n in range(8)]
    for row, turn, parent in zip(rows, made.turn, rows[:, PARENT], strict=True):
        known = 0 if parent < 0 else rows[parent, PROMPT] + 500
        assert (row[PROMPT], row[OUTPUT], row[HISTORY]) == (512 * (turn + 1), 500, known)
    # The clock goes round after the last request and a mean gap: 10,000 ms + 10,000 / 3 ms.
    gaps = np.array([1_000, 3_000, 6_000, 10_000 / 3])
    seen = np.diff(rows[:, ARRIVAL]) / np.resize(np.roll(gaps, -start), len(rows) - 1)
    assert seen == pytest.approx(np.full(len(seen), seen[0]), rel=5e-3)


@pytest.mark.parametrize("scale", [0.9, 0.37, 0.01, 3.0])
def test_what_was_a_prefix_remains_one_under_any_factor(write, scale):
    made = traffic(
        replaying(write(mooncake(range(0, 10_000, 1_000))), length_scale=scale, rho=20.0, ticks=50), 0
    )
    made.check()
    children = made.table[made.table[:, PARENT] >= 0]
    parents = made.table[children[:, PARENT]]
    assert len(children) > 10
    left = parents[:, PROMPT] + parents[:, OUTPUT]
    assert children[:, HISTORY].tolist() == np.minimum(left, children[:, PROMPT] - 1).tolist()


def test_when_the_clock_has_gone_round_the_users_are_others(write):
    made = traffic(replaying(write(mooncake([0, 1_000, 4_000])), length_scale=1.0, rho=100.0, ticks=100), 0)
    first_turns = made.turn == 0
    assert first_turns.sum() > 10
    assert len(set(made.user[first_turns])) == first_turns.sum()
    assert (made.table[first_turns, PARENT] == -1).all()
    later = np.flatnonzero(~first_turns)[3:]
    assert (made.table[later, PARENT] >= 0).all()
    assert (made.user[later] == made.user[made.table[later, PARENT]]).all()


def test_the_seed_draws_where_the_window_begins_and_who_is_a_vip(write):
    path = write(azure([(second, 100 + second, 10) for second in range(600)]), "azure.csv")
    made = [traffic(replaying(path, ticks=40), seed) for seed in range(30)]
    assert len({int(one.table[0, PROMPT]) for one in made}) > 20
    assert all(0 < len(one.table) < 600 for one in made)
    vips = np.concatenate([one.table[:, VIP] for one in made])
    assert abs(vips.mean() - 0.3) < 4 * np.sqrt(0.21 / len(vips))
    again = traffic(replaying(path, ticks=40), 7)
    assert again.table.tobytes() == made[7].table.tobytes() and again.notes == made[7].notes


def test_no_user_returns_in_a_trace_that_names_none(write):
    made = traffic(replaying(write(azure([(second, 900, 90) for second in range(60)]), "azure.csv")), 1)
    made.check()
    assert (made.table[:, PARENT] == -1).all() and not made.table[:, HISTORY].any()
    assert "no user returns: it names none" in str(made)


def test_sessions_and_their_sub_agents_are_sequences_of_one_user_and_copies_are_dropped(write):
    agent = {
        "t": 3,
        "type": "subagent",
        "agent_id": "a",
        "tool_tokens": 0,
        "system_tokens": 0,
        "requests": [call(0, 640, 9, 500), call(2, 704, 9, 500)],
    }
    requests = [call(0, 1_280, 20), call(2, 1_344, 30), agent, call(9, 1_472, 40)]
    lines = [
        session("a", requests),
        session("b", requests, duplicate=True),
        session("c", requests),
        session("d", [call(0, 64, 7)]),
    ]
    made = traffic(replaying(write(lines), length_scale=1.0, rho=20.0, ticks=50), 0)
    made.check()
    assert "(claude-code): 6 requests of 3 sequences" in str(
        made
    ) and "2 sessions dropped as exact duplicates" in str(made)
    by_length = {
        int(row[PROMPT]): at for at, row in enumerate(made.table) if made.turn[at] > 0 and row[PARENT] >= 0
    }
    for tokens, parent, history in ((1_344, 1_280, 1_300), (1_472, 1_344, 1_374), (704, 640, 649)):
        row = made.table[by_length[tokens]]
        assert made.table[row[PARENT], PROMPT] == parent and row[HISTORY] == history
    assert set(made.user[made.table[:, PROMPT] == 640]) <= set(made.user[made.table[:, PROMPT] > 1_000])


def test_sessions_start_all_over_eight_hours(write):
    path = write([session(str(n), [call(0, 64 * (n + 1), 7), call(60, 64 * (n + 2), 7)]) for n in range(100)])
    scenario = replaying(path, length_scale=1.0, rho=4.0)
    made = traffic(scenario, 0)
    starts = np.sort(made.table[made.turn == 0, ARRIVAL])
    gaps = np.diff(starts) / np.diff(starts).mean()
    assert len(starts) > 100 and 0.6 < gaps.std() < 1.4  # of uniform instants: 1


def test_a_session_longer_than_eight_hours_is_folded_and_its_later_turns_still_have_their_parents(write):
    path = write([session("long", [call(0, 640, 7), call(10 * 3600, 1_280, 7)])])
    made = traffic(replaying(path, length_scale=1.0, rho=4.0, ticks=200), 0)
    made.check()
    eight_hours = made.table[2, ARRIVAL] - made.table[0, ARRIVAL]
    children = made.table[made.table[:, PARENT] >= 0]
    assert len(children) > 5
    assert (children[:, ARRIVAL] - made.table[children[:, PARENT], ARRIVAL]) / eight_hours == pytest.approx(
        1.25, rel=1e-3
    )


@pytest.mark.parametrize("rho", [0.1, 0.85, 3.0])
def test_an_episode_carries_the_load_asked_for_to_within_half_a_request(write, rho):
    rng = np.random.default_rng(0)
    path = write(
        azure([(second, int(rng.integers(50, 4_000)), int(rng.integers(1, 900))) for second in range(500)]),
        "azure.csv",
    )
    scenario = replaying(path, rho=rho)
    for seed in range(10):
        made = traffic(scenario, seed)
        work, capacity = work_of(scenario, made)
        assert abs(work.sum() - rho * capacity) <= 1.5 * work.max()
        assert (
            made.table[0, ARRIVAL] == 0
            and made.table[-1, ARRIVAL] < made.end_us == scenario.ticks * made.tick_us
        )


def test_lengths_are_scaled_by_one_factor_so_that_the_99th_percentile_takes_a_twentieth_of_the_gpu(write):
    rows = [(second, 10_000 + 100 * second, 500) for second in range(300)]
    path = write(azure(rows), "azure.csv")
    long = np.percentile([prompt + output for _, prompt, output in rows], 99)
    for gpu_blocks in (1_000, 10_000):
        scenario = replaying(path, gpu_blocks=gpu_blocks, ticks=20_000)
        made = traffic(scenario, 0)
        factor = 0.05 * scenario.gpu_tokens / long
        assert np.percentile(made.table[:, PROMPT] + made.table[:, OUTPUT], 99) <= 0.05 * scenario.gpu_tokens
        assert set(made.table[:, OUTPUT]) == {int(500 * factor)}
        assert set(made.table[:, PROMPT]) <= {int(prompt * factor) for _, prompt, _ in rows}
        assert (
            f"lengths x {factor:.4g} (so that the 99th percentile, {long:,.0f} tokens, takes 5% of the GPU's)"
            in str(made)
        )
    assert "lengths x 1 (the 99th percentile" in str(traffic(replaying(path, gpu_blocks=100_000), 0))
    assert "lengths x 0.01 (as set)" in str(traffic(replaying(path, length_scale=0.01), 0))


def test_lengths_of_zero_and_lengths_beyond_the_context_limit_are_cut_and_said(write):
    path = write(
        azure([(second, (0, 50_000, 300)[second % 3], (5, 40_000, 0)[second % 3]) for second in range(60)]),
        "azure.csv",
    )
    scenario = replaying(path, length_scale=1.0, rho=5.0)
    made = traffic(scenario, 0)
    made.check()
    assert set(map(tuple, made.table[:, [PROMPT, OUTPUT]].tolist())) == {
        (1, 5),
        (32_768 - 16_384, 16_384),
        (300, 1),
    }
    assert "20 requests cut to the context limit of 32,768 tokens" in str(made)
    assert "where it was 0, a prompt or an output is 1 token" in str(made)
    traffic(replaying(path, length_scale=1e9, rho=5.0), 0).check()


def test_the_longest_fifth_of_the_sequences_are_power_users(write):
    path = write(azure([(second, 100 + second, 10) for second in range(100)]), "azure.csv")
    made = traffic(replaying(path, ticks=4_000), 0)
    assert set(made.table[made.table[:, POWER] == 1, PROMPT]) == set(range(180, 200))


@pytest.mark.parametrize(("share", "users"), [(0.0, 0), (0.5, 5), (1.0, 10)])
def test_of_equal_users_as_many_are_power_users_as_asked_for(write, share, users):
    chats = [{"timestamp": 1000 * at, "input_length": 100, "output_length": 10} for at in range(10)]
    table = traffic(replaying(write(chats), power_share=share), 1).table
    assert table[:10, POWER].sum() == users


def test_a_file_that_changed_is_read_anew(write):
    path = write(azure([(0, 100, 10), (1, 100, 10)]), "azure.csv")
    assert set(traffic(replaying(path), 0).table[:, PROMPT]) == {100}
    write(azure([(0, 2_000, 10), (1, 2_000, 10)]), "azure.csv")
    assert set(traffic(replaying(path), 0).table[:, PROMPT]) == {2_000}


BAD = {
    "an empty file": ([], "the file is empty"),
    "a header alone": (azure([]), "the table has a header and no rows; give at least one request"),
    "no lengths": (
        ["TIMESTAMP", "2023-11-16 18:00:00.0"],
        "line 1: the first line fits no known trace format",
    ),
    "a line without lengths": (
        [*mooncake([0]), {"timestamp": 5, "hash_ids": []}],
        "line 2, field 'input_length': the field is missing",
    ),
    "lengths of nothing": (
        azure([(0, 10, 0), (1, 20, 0)]),
        "no request has output tokens; give a trace with the lengths",
    ),
    "time going back": (
        azure([(5, 10, 1), (4, 10, 1)]),
        "line 3, field 'TIMESTAMP': the row is older .*; sort the file",
    ),
    "one instant": (azure([(5, 10, 1), (5, 10, 1)]), r"all requests \(2\) come at one instant; give a trace"),
    "one request": (mooncake([0]), r"all requests \(1\) come at one instant"),
    "only copies": (
        [session("a", [call(0, 64, 7)], duplicate=True)],
        "every session is an exact duplicate; give a trace",
    ),
    "no trace": (["hello"], "line 1: the first line fits no known trace format"),
}


@pytest.mark.parametrize(("lines", "says"), BAD.values(), ids=BAD)
def test_a_trace_that_cannot_be_replayed_is_refused_with_file_line_and_remedy(write, lines, says):
    path = write(lines, "bad.trace")
    with pytest.raises(TraceError, match=rf"bad\.trace.*{says}"):
        traffic(replaying(path), 0)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.csv: there is no such file; check the path"):
        traffic(replaying(tmp_path / "nowhere.csv"), 0)


def test_an_episode_too_short_for_one_request_is_refused_with_a_way_out(write):
    path = write(azure([(0, 4_000, 4_000), (1, 4_000, 4_000)]), "azure.csv")
    with pytest.raises(
        ServingError,
        match=r"1 ticks at rho 0\.5 are too short for a request of .*azure\.csv; raise ticks or rho",
    ):
        traffic(replaying(path, ticks=1), 0)
    with pytest.raises(ServingError, match="requests, at most 20,000,000 are supported"):
        traffic(replaying(path, ticks=10_000_000, rho=100.0, length_scale=0.001), 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_trace_keeps_the_rules_the_load_and_a_rhythm_of_its_own(real, name):
    scenario = replaying(real(name), rho=0.85, ticks=5_000)
    requests, sequences = PUBLISHED[name]
    for seed in (0, 1, 2**63):
        made = traffic(scenario, seed)
        made.check()
        assert (
            made.notes[0].startswith(f"{name.split('/')[1]} (")
            and f": {requests:,} requests of " in made.notes[0]
        )
        assert sequences is None or f" of {sequences:,} sequences" in made.notes[0]
        assert (made.table[:, PROMPT] + made.table[:, OUTPUT] <= scenario.longest).all()
        work, capacity = work_of(scenario, made)
        assert abs(work.sum() - 0.85 * capacity) <= 1.5 * work.max()
        assert made.table.tobytes() == traffic(scenario, seed).table.tobytes()


def test_claude_code_sessions_return_with_most_of_their_prompt_and_mooncake_chats_with_some(real):
    def share(name):
        table = traffic(replaying(real(name), ticks=5_000, rho=0.85), 0).table
        return table[:, HISTORY].sum() / table[:, PROMPT].sum()

    # With an unlimited cache 96 % of Claude Code's input tokens and 37 % of Mooncake's are hits; those of a
    # window that begins
    # in the middle, and of prefixes that sequences share, are not counted here.
    assert 0.85 < share("claude-code/cc_sessions_rle.jsonl.gz") < 0.97
    assert 0.15 < share("mooncake/conversation_trace.jsonl.gz") < 0.37
