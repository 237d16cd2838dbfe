"""Files as people have them, under ../shared/cases: each is read with the right numbers, or refused
with a sentence that names the remedy. Numbers were counted from the raw files by other means than
these readers."""

from pathlib import Path

import pytest

from kv_cache_rl.traces import Reading, TraceError, detect
from kv_cache_rl.traces.demand import demand_of
from kv_cache_rl.traces.summary import COMMANDS, LAB, PLAN, SERVING, WINDOWS, summary_of

CASES = Path(__file__).parent / "../../../shared/cases"

AZURE = {
    "azure-2024-tz-some-whole": (182_410, 23_169),
    "azure-2024-tz": (152_221, 23_501),
    "azure-2025-mm": (160_479, 23_449),
    "azure-epoch-seconds": (154_241, 25_255),
    "azure-excel-slash": (166_076, 21_148),
    "azure-float-tokens": (156_172, 22_755),
    "azure-iso-z": (171_744, 24_778),
    "azure-lower-header": (153_366, 24_927),
    "azure-offset-nocolon": (155_163, 23_330),
    "azure-pandas-index": (169_317, 23_736),
    "azure-quoted": (156_874, 24_920),
}
BURSTGPT = {  # requests with an answer, input and output tokens of those, calls without, sessions
    "burstgpt-float-lengths": (89, 88_705, 22_319, 31, None),
    "burstgpt-index-column": (89, 88_705, 22_319, 31, None),
    "burstgpt-lower-header": (89, 88_705, 22_319, 31, None),
    "burstgpt-subset-columns": (89, 88_705, 22_319, 31, None),
    "burstgpt-v1": (89, 88_705, 22_319, 31, None),
    "semicolon": (89, 88_705, 22_319, 31, None),
    "burstgpt-v3-sessions": (89, 88_705, 22_319, 31, 12),
    "burstgpt-neg-elapsed": (19, 11_402, 4_812, 12, 9),
    "burstgpt-sci-time": (28, 16_909, 7_007, 11, None),
    "burstgpt-v3-elapsed-empty-nan": (27, 16_809, 6_987, 14, 9),
    "burstgpt-v3-no-newline-crlf-bom": (41, 25_781, 9_957, 19, 10),
    "burstgpt-zero-both": (19, 11_392, 4_812, 13, None),
}
BLOCK_512 = (24, 359_736, 3_878, 512, 159, 715)
BAILIAN_16 = (36, 5_652, 1_440, 16, 168, 360)
BLOCKS = {  # requests, input and output tokens, tokens in a block, different blocks, block accesses
    "bailian-blksz64.jsonl": (36, 22_608, 1_440, 64, 168, 360),
    "bailian-no-parent-turn.jsonl": BAILIAN_16,
    "bailian-no-type.jsonl": BAILIAN_16,
    "bailian-parent-null.jsonl": BAILIAN_16,
    "bailian-root-without-parent.jsonl": BAILIAN_16,
    "bailian-string-ids.jsonl": BAILIAN_16,
    "bailian.jsonl": BAILIAN_16,
    "comment-first.jsonl": BLOCK_512,
    "meta-first.jsonl": (24, 44_980, 3_878, 64, 159, 715),
    "mooncake-array-pretty.json": BLOCK_512,
    "mooncake-array.json": BLOCK_512,
    "mooncake-block16.jsonl": (24, 11_251, 3_878, 16, 159, 715),
    "mooncake-block512.jsonl": BLOCK_512,
    "mooncake-block64.jsonl": (24, 44_980, 3_878, 64, 159, 715),
    "mooncake-cr.jsonl": BLOCK_512,
    "kv-events.jsonl": (1, 32, None, 16, 2, 2),
    "mooncake-float-ms.jsonl": BLOCK_512,
    "mooncake-float-whole.jsonl": BLOCK_512,
    "mooncake-full-blocks-only.jsonl": (24, 359_736, 3_878, 512, 155, 691),
    "mooncake-identical-partial.jsonl": (60, 140_880, 3_000, 512, 5, 300),
    "mooncake-identical.jsonl": (60, 122_880, 3_000, 512, 4, 240),
    "mooncake-no-output.jsonl": (24, 359_736, None, 512, 159, 715),
    "mooncake-output-comes-back.jsonl": (40, 102_400, 20_480, 512, 72, 200),
    "mooncake-partial-then-full.jsonl": (3, 2_900, 15, 512, 3, 7),
    "mooncake-repeated-id.jsonl": (2, 4_000, 10, 512, 2, 8),
    "mooncake-session-delay-int.jsonl": (25, 1_204_234, 12_745, 512, 284, 2_361),
    "mooncake-session-delay.jsonl": (25, 1_204_234, 12_745, 512, 284, 2_361),
    "mooncake-two-parents.jsonl": (3, 3_072, 15, 512, 3, 6),
    "mooncake-zero-input.jsonl": (24, 354_072, 3_878, 512, 159, 703),
    "mooncake-zero-output.jsonl": (24, 359_736, 3_726, 512, 159, 715),
    "multi.jsonl.gz": BLOCK_512,
    "rle-global-scope.jsonl": (22, 607_052, 12_556, 64, 620, 9_475),
    "rle-no-dup-flag.jsonl": (22, 607_052, 12_556, 64, 620, 9_475),
    "rle-null-stop.jsonl": (22, 607_052, 12_556, 64, 620, 9_475),
    "rle-null-times.jsonl": (22, 607_052, 12_556, 64, 620, 9_475),
    "rle-sessions.jsonl": (132, 3_486_268, 67_900, 64, 3_631, 54_403),
    "trailing-commas.jsonl": BLOCK_512,
    "vllm-timed-trace-seconds.jsonl": BLOCK_512,
    "weka-one-session.json": (25, 620_832, 10_579, 64, 549, 9_687),
    "weka-pretty.json": (5, 82_727, 2_215, 64, 289, 1_289),
    "weka-sessions.jsonl": (132, 3_107_446, 63_764, 64, 3_108, 48_488),
}
OTHERS = {  # format, requests, input and output tokens
    "libcachesim.csv": ("libcachesim", 100, None, None),
    "mooncake-no-hash-ids.jsonl": ("mooncake", 24, 359_736, 3_878),
    "sharegpt-oneline.json": ("sharegpt", 1, 3, 1),
    "sharegpt-shape.json": ("sharegpt", 1, 3, 1),
    "tracelab-shape.csv": ("tracelab", 2, 2_780, 140),
    "utf16.csv": ("azure", 1, 1, 2),
    "vidur-splitwise-shape.csv": ("vidur", 80, 176_677, 21_702),
}
REFUSED = {  # part of the problem, part of the remedy
    "azure-unsorted.csv": ("line 12, field 'TIMESTAMP': the row is older", "traces convert, which sorts"),
    "mooncake-unsorted.jsonl": (
        "line 5, field 'timestamp': 9087 ms is before",
        "traces convert, which sorts",
    ),
    "bailian-fewer-ids.jsonl": (
        "line 1, field 'hash_ids': 4 ids for 93 tokens",
        "(--block-size of this command",
    ),
    "fake.jsonl.zst": ("", ""),
    "fake.parquet": ("a Parquet file", "pandas.read_parquet(FILE).to_json("),
    "html-404.csv": ("a web page, not a trace", "download the raw file"),
    "lfs-pointer.csv": ("a Git LFS pointer", "git lfs pull"),
    "plain-404.csv": ("a server's error message", "check the address"),
}


@pytest.fixture
def case():
    """case(name) → the path of a file, or a skipped test that says where it was looked for."""

    def find(name):
        path = CASES / name
        if not path.is_file():
            pytest.skip(f"the case {name} is not under {CASES}: ../shared is absent")
        return path

    return find


@pytest.mark.parametrize("name", AZURE)
def test_azure_tables_after_pandas_and_excel(case, name):
    found = summary_of(case(f"{name}.csv"))
    assert (found.format, found.requests, found.sessions) == ("azure", 80, None)
    assert (found.input_tokens, found.output_tokens) == AZURE[name]
    assert 1.6 < found.rate_per_s < 2.3
    assert found.uses[SERVING] == found.uses[PLAN] == ""
    assert "80 of 80 requests have no block ids" in found.uses[LAB]


@pytest.mark.parametrize("name", BURSTGPT)
def test_burstgpt_tables_of_three_editions(case, name):
    found = summary_of(case(f"{name}.csv"))
    requests, tokens_in, tokens_out, failed, sessions = BURSTGPT[name]
    assert (found.format, found.requests, found.sessions) == ("burstgpt", requests, sessions)
    assert (found.input_tokens, found.output_tokens) == (tokens_in, tokens_out)
    assert sum(found.left_out.values()) == failed
    demand = demand_of(case(f"{name}.csv"))
    assert (demand.requests, demand.failed) == (requests, failed)
    assert bool(demand.histories) == (sessions is not None)


@pytest.mark.parametrize("name", BLOCKS)
def test_files_with_block_ids(case, name):
    found = summary_of(case(name))
    assert BLOCKS[name] == (
        found.requests,
        found.input_tokens,
        found.output_tokens,
        found.block_size,
        found.blocks,
        found.block_accesses,
    )
    assert found.uses[LAB] == ""
    assert bool(found.uses[SERVING]) == bool(found.uses[PLAN]) == (found.output_tokens is None)


@pytest.mark.parametrize("name", OTHERS)
def test_files_without_block_ids(case, name):
    found = summary_of(case(name))
    assert (found.format, found.requests, found.input_tokens, found.output_tokens) == OTHERS[name]
    assert set(found.uses) == set(COMMANDS)


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_no_traces_or_out_of_order(case, name):
    path = case(name)
    with pytest.raises(TraceError) as caught:
        summary_of(path)
    problem, remedy = REFUSED[name]
    assert problem in str(caught.value) and remedy in str(caught.value)
    assert caught.value.remedy


def test_every_case_that_is_a_trace_is_held_here():
    if not CASES.is_dir():
        pytest.skip(f"{CASES} is absent")
    held = {*(f"{name}.csv" for name in (*AZURE, *BURSTGPT)), *BLOCKS, *OTHERS, *REFUSED}
    assert {path.name for path in CASES.iterdir() if path.suffix != ".py"} == held


def test_seconds_are_read_as_such_when_said_and_asked_about_when_not(case):
    path = case("vllm-timed-trace-seconds.jsonl")
    assert summary_of(path, Reading(time_unit="s")).span_s == pytest.approx(57.9, abs=0.1)
    assert "give --time-unit s" in summary_of(path).notes[0]
    assert not summary_of(case("mooncake-float-ms.jsonl")).notes


def test_unsorted_files_are_sorted_when_asked(case):
    found = summary_of(case("mooncake-unsorted.jsonl"), Reading(sort=True))
    assert (found.requests, found.block_accesses) == (24, 715)
    assert summary_of(case("azure-unsorted.csv"), Reading(sort=True)).requests == 80


def test_windows_can_be_cut_where_blocks_or_sessions_tell_what_continues_what(case):
    for name, usable in (
        ("burstgpt-v3-sessions.csv", True),
        ("burstgpt-v1.csv", False),
        ("bailian.jsonl", True),
    ):
        assert (summary_of(case(name)).uses[WINDOWS] == "") is usable


def test_the_format_is_never_guessed_wrong(case):
    assert detect(case("bailian-root-without-parent.jsonl")) == "bailian"
    assert detect(case("bailian-no-parent-turn.jsonl")) == "bailian"
    assert detect(case("mooncake-no-output.jsonl")) == "mooncake"
