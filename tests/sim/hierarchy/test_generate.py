"""Synthetic workloads and Zipf traces."""

import numpy as np
import pytest

from kv_cache_rl.sim.hierarchy.generate import WORKLOADS, footprints, workload, zipf
from kv_cache_rl.sim.hierarchy.spec import HierarchyError

TOUCHED = {  # unique pages and their fp16 bytes in kB. Source: kv-hierarchy-lab at commit 222356d
    "chat_continuation": (17, 69.5),
    "rag_burst": (69, 317),
    "periodic_reuse": (9, 36.8),
    "long_tail_mix": (59, 242),
    "prefetch_friendly": (48, 197),
    "adversarial_prefetch": (64, 262),
    "adversarial_burst": (95, 401),
    "mixed_locality": (110, 478),
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_touches_as_many_pages_and_bytes_as_the_peers(name):
    trace = workload(name)
    used = np.unique(trace.run_start)
    unique, kilobytes = TOUCHED[name]
    assert len(used) == unique
    assert trace.page_bytes[used].sum() / 1000 == pytest.approx(
        kilobytes, abs=0.5 if kilobytes > 100 else 0.05
    )


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_same_seed_gives_the_same_workload_and_the_name_is_kept(name):
    a, b, other = workload(name, seed=5), workload(name, seed=5), workload(name, seed=6)
    assert a.run_start.tolist() == b.run_start.tolist() and a.page_bytes.tolist() == b.page_bytes.tolist()
    assert a.page_bytes.tolist() != other.page_bytes.tolist()
    assert a.name == name and not a.chained


@pytest.mark.parametrize("name", WORKLOADS)
def test_length_and_number_of_pages_can_be_changed(name):
    trace = workload(name, pages=100, length=40)
    assert (trace.blocks, trace.accesses) == (100, 40)


@pytest.mark.parametrize(
    ("name", "parameters", "says"),
    [
        ("chat", {}, "unknown workload 'chat'; use one of chat_continuation"),
        ("rag_burst", {"period": 3}, "rag_burst cannot be made with .*period"),
        ("long_tail_mix", {"pages": 5}, "long_tail_mix cannot be made with"),
        ("rag_burst", {"pages": 18}, "rag_burst cannot be made with"),
        ("periodic_reuse", {"period": 0}, "periodic_reuse cannot be made with"),
        ("prefetch_friendly", {"pages": 0}, "prefetch_friendly cannot be made with"),
        ("prefetch_friendly", {"length": 0}, "prefetch_friendly cannot be made with"),
    ],
)
def test_a_workload_that_cannot_be_made_is_explained(name, parameters, says):
    with pytest.raises(HierarchyError, match=says):
        workload(name, **parameters)


def test_footprints_round_down_and_no_page_vanishes():
    assert footprints(np.array([4132, 4046, 2]), "int2").tolist() == [516, 505, 1]
    with pytest.raises(HierarchyError, match=r"unknown precision 'fp7'; did you mean fp8\? use one of fp16"):
        footprints(np.array([1]), "fp7")


def test_zipf_is_seeded_and_as_skewed_as_asked():
    trace = zipf(50, 200_000, 1.0, seed=3)
    counts = np.sort(np.bincount(trace.run_start, minlength=50))[::-1] / 200_000
    expected = 1 / np.arange(1, 51) / (1 / np.arange(1, 51)).sum()
    np.testing.assert_allclose(counts, expected, atol=0.005)
    assert np.array_equal(trace.run_start, zipf(50, 200_000, 1.0, seed=3).run_start)
    assert not np.array_equal(trace.run_start, zipf(50, 200_000, 1.0, seed=4).run_start)
    assert zipf(50, 10, 0.0, page_bytes=7).page_bytes.tolist() == [7] * 50
    for wrong in ({"skew": float("nan")}, {"skew": float("inf")}, {"seed": -1}):
        with pytest.raises(HierarchyError, match="a skew and a seed from 0 on"):
            zipf(10, 10, **wrong)
    with pytest.raises(HierarchyError, match="at most 2,147,483,646 are supported"):
        zipf(10**11, 10)
    with pytest.raises(HierarchyError, match="9999999999 accesses is too large; at most 2,147,483,646"):
        zipf(10, 9_999_999_999)
    with pytest.raises(HierarchyError, match="needs a page"):
        zipf(0, 10)


def test_what_fits_no_memory_is_refused_before_it_is_drawn(monkeypatch):
    monkeypatch.setattr("kv_cache_rl.sim.hierarchy.generate.free_bytes", lambda: 2 * 10**9)
    with pytest.raises(HierarchyError, match=r"takes 32 GB while it is drawn, of which 2\.0 GB are free"):
        zipf(10, 10**9)
    with pytest.raises(HierarchyError, match="rag_burst cannot be made with length 9999999999; give at most"):
        workload("rag_burst", length=9_999_999_999)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_as_long_as_asked_for(name):
    assert [workload(name, length=length).requests for length in (19, 50, 339)] == [19, 50, 339]
