"""Every policy of the default engine against the plainest form of itself, page by page."""

import numpy as np
import plain_policies as plain
import pytest
from hypothesis import given, settings
from stepping import SEEDS, page_trace, resident, rng_of, stepped, tiers_for, whole

from kv_cache_rl.core.candidates import CANDIDATE_COLS, Column
from kv_cache_rl.policies.rank import RANK_IDS, RANKS, rank
from kv_cache_rl.sim.hierarchy.audit import check
from kv_cache_rl.sim.hierarchy.dynamics import advance, new_state
from kv_cache_rl.sim.hierarchy.engine import run
from kv_cache_rl.sim.hierarchy.generate import zipf
from kv_cache_rl.sim.hierarchy.policies import POLICIES
from kv_cache_rl.sim.hierarchy.spec import one_tier, recompute_seconds
from kv_cache_rl.sim.hierarchy.state import AGES, CLASSES, GHOST_A, GHOST_B, LISTS, A
from kv_cache_rl.sim.hierarchy.traces.trace import expand, pages

few = settings(max_examples=25, deadline=None)
PLAIN = (
    "lru", "fifo", "slru", "s3fifo", "sieve", "lfu", "largest_first", "compute_aware", "heavy_hitter",
    "predictive", "windowed_recency",
)  # fmt: skip


def kept_by(policy, trace, room):
    """Pages in the only tier after every access."""
    return [resident(state) for state in stepped(trace, one_tier(room), policy)]


@pytest.mark.parametrize("largest", [1, 6])
@pytest.mark.parametrize("policy", PLAIN)
@given(seed=SEEDS)
@few
def test_a_policy_keeps_what_its_plain_form_keeps(policy, largest, seed):
    rng = rng_of(seed)
    trace = page_trace(rng, largest=largest)
    room = 8 * rng.randint(largest, 20)
    expected = getattr(plain, policy)(trace.run_start.tolist(), trace.page_bytes.tolist(), room)
    assert kept_by(policy, trace, room) == list(expected)


@given(seed=SEEDS)
@few
def test_gdsf_keeps_what_inflation_says(seed):
    rng = rng_of(seed)
    trace = page_trace(rng, largest=6)
    room, (_, cost) = 8 * rng.randint(6, 25), recompute_seconds("a100-llama-3.1-8b", trace.block_tokens, 1)
    assert kept_by("gdsf", trace, room) == list(
        plain.gdsf(cost)(trace.run_start.tolist(), trace.page_bytes.tolist(), room)
    )


@given(seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_arc_is_figure_4_of_its_paper_for_equal_pages(seed):
    rng = rng_of(seed)
    ids, room = page_trace(rng, accesses=300).run_start, rng.randint(1, 16)
    assert kept_by("arc", pages("counted", ids), room) == list(plain.arc(ids.tolist(), [1] * 24, room))


@pytest.mark.parametrize("policy", ["arc", "s3fifo"])
@pytest.mark.parametrize("squeeze", ["fp16", "int4"])
@given(seed=SEEDS)
@few
def test_lists_weigh_what_is_in_them_and_ghosts_no_more_than_the_tier(policy, squeeze, seed):
    rng = rng_of(seed)
    trace, scenario = page_trace(rng, largest=4), tiers_for(rng, rng.randint(1, 3), 32, 90, squeeze=squeeze)
    for state in stepped(trace, scenario, policy):
        check(state)
        nodes = state.node["list"][: state.settings.nodes].reshape(len(scenario.tiers), -1)
        now = state.page["full_bytes"] >> state.page["level"]
        for tier, where in enumerate(nodes):
            room, weights = scenario.tiers[tier].capacity, state.tiers[tier].list_bytes
            each = [
                (state.page["full_bytes"] if which >= GHOST_A else now)[where == which].sum()
                for which in range(LISTS)
            ]
            assert each == weights.tolist()
            assert 0 <= state.tiers[tier].target <= room
            assert policy == "arc" or weights[GHOST_A] <= room


@given(seed=SEEDS)
@few
def test_arc_remembers_ghosts_for_no_more_bytes_than_the_tier_has(seed):
    rng = rng_of(seed)
    trace, room = page_trace(rng, largest=4), 8 * rng.randint(4, 16)
    for state in stepped(
        trace, one_tier(room), "arc"
    ):  # that of the last page may be too much until the next comes in
        weights = state.tiers[0].list_bytes
        assert weights[A] + weights[GHOST_A] <= room + 32
        assert weights[GHOST_A] + weights[GHOST_B] <= room + 64


@given(seed=SEEDS)
@few
def test_tinylfu_is_a_window_and_slru_with_a_contest_between(seed):
    """With a sketch so wide that it counts exactly, in rooms with and without space for a window."""
    rng = rng_of(seed)
    trace = page_trace(rng, accesses=400, count=240, largest=rng.choice((1, 3)))
    room = 8 * rng.choice((rng.randint(3, 40), rng.randint(100, 220)))
    state, (first, blocks), kept = new_state(trace, one_tier(room), "tinylfu"), expand(trace), []
    state = state._replace(sketch=np.zeros((4, 1 << 16), np.uint8))
    for request in range(trace.requests):
        advance(state, first, blocks, request, request + 1)
        kept.append(resident(state))
    assert kept == list(plain.tinylfu(blocks.tolist(), trace.page_bytes.tolist(), room))


def test_tinylfu_lets_no_page_seen_once_displace_pages_in_use():
    """60 pages in turn, three new ones after each: for LRU with room for 100 every page is new."""
    rounds, hot = 12, 60
    ids, new = [], hot
    for _ in range(rounds):
        for page in range(hot):
            ids += [page, new, new + 1, new + 2]
            new += 3
    trace = pages("scan", np.array(ids))
    assert run(trace, one_tier(100), "lru").metrics["hit_rate"] == 0
    hits = run(trace, one_tier(100), "tinylfu").state.hits[np.array(ids) < hot].reshape(rounds, hot)
    assert hits[2:].mean() > 0.95


def test_tinylfu_counts_accesses_and_not_moves_between_tiers():
    trace = pages("once", np.arange(40))
    scenario = tiers_for(rng_of(1), 3, 4, 4)
    assert whole(trace, scenario, "tinylfu").sketch.sum() == 4 * 40


class Facts:
    """What the accesses so far say of every page: full rows of candidate columns, kept without the engine."""

    def __init__(self, trace, tiers, fit):
        self.size, self.fit, self.now = trace.page_bytes.tolist(), fit, 0
        self.reload = recompute_seconds("a100-llama-3.1-8b", trace.block_tokens, 1)[1]
        count = trace.blocks
        self.last, self.uses, self.ever = [0] * count, [0] * count, [0] * count
        self.inserted, self.left, self.regret, self.lately = [0] * count, [None] * count, [0.0] * count, []
        self.inflation, self.base = [0.0] * tiers, [0.0] * count

    def access(self, page, tier):
        """An access to a page that lies in a tier, or nowhere (-1)."""
        self.now += 1
        if self.regret[page] > 0:
            self.regret[page] *= 0.98
        if self.left[page] is not None and self.now - self.left[page] <= self.fit:
            self.regret[page] += (self.fit - (self.now - self.left[page]) + 1.0) / self.fit
        self.left[page] = None
        self.ever[page] += 1
        self.uses[page] = 1 if tier < 0 else self.uses[page] + 1
        self.last[page] = self.now
        self.lately = [*self.lately, page][-32:]

    def row(self, page, policy):
        """The row of a page at this moment;

        GDSF's idle time is the inflation of its tier when it was last touched there.
        """
        c = np.zeros(CANDIDATE_COLS)
        c[Column.SIZE], c[Column.TOKENS], c[Column.RELOAD_S] = self.size[page], 1.0, self.reload
        c[Column.IDLE] = -self.base[page] if RANKS[policy].inflates else self.now - self.last[page]
        c[Column.AGE], c[Column.INSERTED] = self.now - self.inserted[page], self.inserted[page]
        c[Column.USES], c[Column.FREQUENCY] = self.uses[page], self.ever[page]
        c[Column.LAST], c[Column.NOW] = self.last[page], self.now
        c[Column.RECENT_USES], c[Column.REGRET] = self.lately.count(page), 6.0 * self.regret[page]
        c[Column.VALUE] = 1.0 / (1.0 + self.uses[page])
        return c


RANKED = [name for name, rank in RANKS.items() if rank.stands_still or rank.drift]


@pytest.mark.parametrize("policy", RANKED)
@given(seed=SEEDS)
@few
def test_what_leaves_is_lowest_of_all_full_rows_at_that_moment(policy, seed):
    """Equal pages: one leaves each full tier.

    Proves that orders kept at clock zero, and drifts, are those of the rows.
    """
    rng = rng_of(seed)
    trace, scenario = page_trace(rng), tiers_for(rng, rng.randint(1, 3), 8, 56)
    facts = Facts(trace, len(scenario.tiers), max(scenario.tiers[0].capacity // 8, 1))
    before = np.full(trace.blocks, -1)
    for page, state in zip(trace.run_start.tolist(), stepped(trace, scenario, policy), strict=True):
        after = state.page["tier"].copy()
        facts.access(page, before[page])
        gone = [other for other in range(trace.blocks) if before[other] != after[other] and other != page]
        for victim in gone:
            tier = before[victim]
            rows = {
                other: facts.row(other, policy) for other in np.flatnonzero(before == tier) if other != page
            }
            keys = {other: rank(RANK_IDS[policy], row) for other, row in rows.items()}
            lowest = min(keys.values())
            assert keys[victim] <= lowest + 1e-9 * max(abs(lowest), 1.0)
            ties = [facts.inserted[other] for other, key in keys.items() if key == keys[victim]]
            assert RANKS[policy].drift or policy == "lfu" or facts.inserted[victim] == min(ties)
            facts.inflation[tier] = keys[victim]
            facts.left[victim] = facts.now
        for other in [*gone, page]:
            facts.inserted[other] = facts.now if before[other] != after[other] else facts.inserted[other]
            facts.base[other] = facts.inflation[after[other]] if after[other] >= 0 else 0.0
        before = after


def test_ttl_evicts_what_is_least_likely_to_return_by_what_it_has_learnt():
    trace, room, learnt = zipf(120, 17_000, skew=0.7, seed=3), 40, 16_500
    state, (first, blocks) = new_state(trace, one_tier(room), "ttl"), expand(trace)
    unlearnt = state.hazard.copy()
    advance(state, first, blocks, 0, learnt)
    assert not np.allclose(state.hazard, unlearnt)
    for request in range(learnt, trace.requests):
        before = {
            page: (int(state.page[page].frequency), int(state.page[page].last_access))
            for page in resident(state)
        }
        advance(state, first, blocks, request, request + 1)
        page, shift = int(blocks[request]), int(state.settings.age_shift)
        ages = {other: min((request + 1 - last) >> shift, AGES - 1) for other, (_, last) in before.items()}
        returns = {
            other: state.hazard[min(before[other][0], CLASSES) - 1, age] for other, age in ages.items()
        }
        for victim in before.keys() - resident(state) - {page}:
            assert returns[victim] == min(returns.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_one_seed_gives_the_same_bytes_and_only_random_asks_for_it(policy):
    trace, scenario = page_trace(rng_of(5), accesses=400, largest=3), tiers_for(rng_of(6), 3, 40, 80)
    runs = [run(trace, scenario, policy, seed=seed) for seed in (1, 1, 2)]
    tiers = [each.state.page["tier"].tobytes() + each.state.latency.tobytes() for each in runs]
    assert tiers[0] == tiers[1] and runs[0].metrics == runs[1].metrics
    assert (tiers[0] == tiers[2]) == (policy != "random")


def test_random_draws_every_resident_page_about_as_often():
    ids = np.array([page for _ in range(900) for page in range(10)])
    state = whole(pages("cycle", ids), one_tier(9), "random")
    misses = np.bincount(ids[state.hits == 0], minlength=10)
    assert misses.sum() > 900 and misses.min() > 0.6 * misses.mean()
