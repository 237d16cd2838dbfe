"""Capacities relative to a trace, and the traces that can be named."""

import numpy as np
import pytest

from kv_cache_rl.experiments.hierarchy.charges import with_model
from kv_cache_rl.experiments.hierarchy.settings import (
    Bytes,
    capacity_of,
    in_blocks,
    parse_capacity,
    setting_of,
    tiers_of,
)
from kv_cache_rl.experiments.hierarchy.sources import parse_source
from kv_cache_rl.sim.hierarchy.generate import workload
from kv_cache_rl.sim.hierarchy.spec import HierarchyError
from kv_cache_rl.sim.hierarchy.traces.trace import pages

EQUAL = pages("equal", np.arange(10), 1000, blocks=10)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5000", 5000),
        ("5_000 blocks", 5000),
        ("25%", 0.25),
        ("0.25", 0.25),
        ("80GB", Bytes(80 * 10**9)),
        ("1.5 KiB", Bytes(1536)),
        ("80.1GB", Bytes(80_100_000_000)),
        ("4.0blocks", 4),
        ("4.0", 4),
        ("10.0", 10),
        ("200%", 2.0),
    ],
)
def test_a_capacity_is_blocks_a_share_or_bytes(text, value):
    assert parse_capacity(text) == value


@pytest.mark.parametrize("text", ["", "many", "-5", "5 apples", "1e3", "%"])
def test_other_text_is_no_capacity(text):
    with pytest.raises(HierarchyError, match=r"is no capacity; write blocks \(5000\), a share"):
        parse_capacity(text)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.5blocks", "no whole number of blocks"),
        ("5.5 blocks", "no whole number of blocks"),
        ("5.5", r"no whole number of blocks; give one, or a share \(550%\)"),
        (5.5, r"no whole number of blocks; give one, or a share \(550%\)"),
        ("1.0", "one block or all of them; write 1 or 100%"),
        (1.0, "one block or all of them; write 1 or 100%"),
        ("9" * 5000, "is no number of 63 bits"),
        ("9" * 5000 + "GB", "is no number of 63 bits"),
    ],
)
def test_a_capacity_that_may_be_two_things_is_refused(value, words):
    with pytest.raises(HierarchyError, match=words):
        capacity_of(value, in_blocks(EQUAL))


def test_a_number_from_one_on_counts_blocks_and_a_percentage_is_a_share():
    assert capacity_of(4.0, in_blocks(EQUAL)) == capacity_of("4.0", in_blocks(EQUAL)) == 4
    assert capacity_of("200%", in_blocks(EQUAL)) == 20
    assert capacity_of(0.5, in_blocks(EQUAL)) == 5


def test_blocks_shares_and_bytes_mean_the_same_room():
    assert capacity_of(4, EQUAL) == capacity_of(0.4, EQUAL) == capacity_of("4KB", EQUAL) == 4000
    assert capacity_of(4, in_blocks(EQUAL)) == capacity_of("40%", in_blocks(EQUAL)) == 4


def test_a_share_of_pages_of_unequal_size_is_of_their_bytes():
    trace = workload("rag_burst")
    assert capacity_of(0.5, trace) == -(-int(trace.page_bytes.sum()) // 2)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "give at least 1"),
        (0.0, "is no share"),
        (float("nan"), "is no share"),
        ("1GB", "name a model"),
        (10**22, "more than 63 bits can count; give a smaller one"),
        (1e300, "more than 63 bits can count; give a smaller one"),
    ],
)
def test_a_capacity_that_cannot_be_says_why(value, words):
    with pytest.raises(HierarchyError, match=words):
        capacity_of(value, in_blocks(EQUAL))


def test_a_model_gives_blocks_their_bytes():
    assert with_model(EQUAL, "llama-3.1-8b").page_bytes == 16 * 131072
    with pytest.raises(HierarchyError, match="unknown model 'gpt'"):
        with_model(EQUAL, "gpt")


def test_tiers_come_fastest_first_whatever_the_order_given():
    assert [tier.name for tier in tiers_of({"nvme": 9, "gpu": 1, "host": 5}).tiers] == ["gpu", "host", "nvme"]
    with pytest.raises(HierarchyError, match="tier 'host' has capacity 0"):
        tiers_of({"gpu": 4, "host": 0})


def test_a_setting_tells_what_is_not_default():
    table = {"name": "a", "tiers": {"gpu": "4KB"}, "overlap": True, "compute_s": 0.5}
    assert setting_of(table).to_json() == {**table, "semantics": "default"}


def test_a_workload_is_named_with_its_parameters():
    trace = parse_source("workload:rag_burst,length=40,seed=3").trace()
    assert np.array_equal(trace.run_start, workload("rag_burst", length=40, seed=3).run_start)
    assert parse_source("workload:zipf,pages=30,skew=0.5").trace().blocks == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workload:rag", "unknown workload 'rag'"),
        ("workload:zipf,depth=3", "zipf has no parameter 'depth'; it takes pages"),
        ("workload:rag_burst,length", "'length' in .* is no parameter; write parameter=number"),
    ],
)
def test_a_workload_that_does_not_exist_says_what_does(text, words):
    with pytest.raises(HierarchyError, match=words):
        parse_source(text)


def test_a_warm_up_belongs_to_a_scenario_and_to_the_trace_it_sizes():
    setting = setting_of({"name": "warm", "tiers": {"gpu": 9}, "warm_up": "25%"})
    trace = parse_source("workload:rag_burst").trace()
    assert setting.to_json()["warm_up"] == "25%"
    assert setting.sized(trace).accesses == 240 < trace.accesses == 320
    for table, words in (
        ({"tiers": {"gpu": 9}, "warm_up": "soon"}, "'soon' is no warm-up"),
        ({"semantics": "kv-hierarchy-lab", "warm_up": 5}, "kv-hierarchy-lab has no warm-up; drop warm_up"),
    ):
        with pytest.raises(HierarchyError, match=words):
            setting_of(table)
