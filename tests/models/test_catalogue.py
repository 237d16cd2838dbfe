"""The catalogue against published figures, each of which names its source."""

import pytest

from kv_cache_rl.core.geometry import MODELS, bytes_held
from kv_cache_rl.models.catalogue import CATALOGUE, SOURCES

OF_TOKENS = ("full attention", "sliding window", "chunk", "latent")
IN_GALLERY = [name for name, entry in CATALOGUE.items() if entry.kib_per_token]
IN_CALCULATOR = [name for name, entry in CATALOGUE.items() if entry.gib_at_128k]


def test_more_than_twelve_models_have_published_figures_of_either_kind():
    assert len(IN_GALLERY) >= 24 and len(IN_CALCULATOR) >= 12


@pytest.mark.parametrize("name", IN_GALLERY)
def test_a_token_takes_what_the_gallery_says_to_its_last_digit(name):
    entry = CATALOGUE[name]
    groups = (group for group in entry.geometry.layer_groups if group.keeps in OF_TOKENS)
    found = sum(group.layers * group.elements * 2 for group in groups) / 1024
    assert found == pytest.approx(entry.kib_per_token, abs=0.0501)


@pytest.mark.parametrize("name", IN_CALCULATOR)
def test_128_000_tokens_take_what_the_calculator_of_kvcache_ai_says(name):
    entry = CATALOGUE[name]
    states = sum(group.layers * group.state_bytes for group in entry.geometry.layer_groups)
    assert (bytes_held(entry.geometry, 128_000) - states) / 2**30 == pytest.approx(
        entry.gib_at_128k, abs=1e-9
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("kimi-k3", 15_261_696 + 434_110_464),
        ("qwen3.6-27b", 48 * 3 * (2 * 16 * 128 + 48 * 128) * 2 + 48 * 48 * 128 * 128 * 4),
        ("qwen3.5-0.8b", 18 * 3 * (2 * 16 * 128 + 16 * 128) * 2 + 18 * 16 * 128 * 128 * 4),
    ],
)
def test_states_take_what_the_calculators_tests_say(name, size):
    """Source: KVCache.AI, tests of the calculator, 2026-09."""
    assert sum(group.layers * group.state_bytes for group in CATALOGUE[name].geometry.layer_groups) == size


def test_the_cache_of_jamba_has_the_4_gib_that_its_paper_gives_for_256k_tokens():
    """Source: arXiv:2403.19887, table 1, attention alone."""
    groups = CATALOGUE["jamba-v0.1"].geometry.layer_groups
    assert sum(group.layers * group.elements * 2 for group in groups) * 2**18 == 4 * 2**30


def test_every_model_has_a_source_and_a_name_of_its_own():
    repos = [entry.repo for entry in CATALOGUE.values()]
    assert {entry.source for entry in CATALOGUE.values()} <= set(SOURCES)
    assert len(set(repos)) == len(repos) and all(repo.count("/") == 1 for repo in repos)


def test_a_model_that_the_simulators_know_is_the_catalogues():
    assert all(CATALOGUE[name].geometry is model for name, model in MODELS.items())
