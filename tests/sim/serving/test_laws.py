"""What holds whoever decides: every block in one place, the same arrivals for all, no state shared, Little's
law.
"""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from driving import Face, bytes_of, crowd, player, rng_of, serve, serve_all, users

from kv_cache_rl.core.pool import LedgerError
from kv_cache_rl.sim.serving import columns as s
from kv_cache_rl.sim.serving.audit import check, members
from kv_cache_rl.sim.serving.dynamics import new_state
from kv_cache_rl.sim.serving.generate import traffic
from kv_cache_rl.sim.serving.score import TERM_WEIGHTS, report
from kv_cache_rl.sim.serving.spec import TASKS, task
from kv_cache_rl.sim.serving.state import State

NOTHING = 17
AGENTS = {
    "serve all": lambda seed: serve_all,
    "rest": lambda seed: lambda mask: NOTHING,
    "turn away": lambda seed: lambda mask: next((action for action in (10, 11) if mask[action]), NOTHING),
    "at random": lambda seed: player(rng_of(seed), wild=False),
    "wildly": lambda seed: player(rng_of(seed), wild=True),
}


def play(state, choose, decisions):
    """The face of a state after so many decisions, or at the end."""
    face = Face(state)
    for _ in range(decisions):
        if state.done:
            break
        face.act(choose(face.mask))
    return face


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("wild", [False, True], ids=["tame", "wild"])
def test_every_block_is_in_one_place_at_every_tick_of_long_episodes(name, wild):
    rng = rng_of(f"{name} {wild}")
    peak = {} if name == "easy" else {"rho_peak": 2.5}
    small = rng.choice((0, 500, 5_000))
    state = new_state(task(name, ticks=3_000, gpu_blocks=3_000, cpu_blocks=small, rho=1.5, **peak), 11)
    face, choose, ticks = Face(state), player(rng, wild=wild), 0
    while not state.done and ticks < 700:
        face.act(choose(face.mask))
        if face.ticks > ticks:
            ticks = face.ticks
            check(state)
            assert (
                0 <= face.used(s.GPU_POOL) <= 3_000
                and 0 <= face.used(s.CPU_POOL) <= state.scenario.cpu_blocks
            )
            assert (
                np.isfinite(face.seen).all()
                and (np.abs(face.seen) <= 1).all()
                and (np.delete(face.seen, (2, 23)) >= 0).all()
            )
    assert ticks >= 500


def spoil_ledger(columns):
    columns.book["pools"][s.GPU_POOL, 1] += 1


def spoil_blocks(columns):
    columns.rows["blocks"][columns.running[0]] -= 1


def spoil_place(columns):
    columns.rows["where"][columns.running[0]] = s.CPU


def spoil_queue(columns):
    queue = columns.book["queues"][s.FREE]
    queue["first"] = columns.rows["after"][queue["first"]]


def spoil_service(columns):
    columns.book["serving"] -= 1


def spoil_sums(columns):
    columns.book["idle_sums"][s.VIP]["since_squared"] += 1


def spoil_largest(columns):
    columns.book["largest"][s.FREE]["idle"] = 0


def spoil_lane(columns):
    columns.book["lanes"][s.OUT]["blocks"] += 1


SPOIL = spoil_ledger, spoil_blocks, spoil_place, spoil_queue, spoil_service
SPOIL += spoil_sums, spoil_largest, spoil_lane


@pytest.mark.parametrize("spoil", SPOIL)
def test_the_check_notices(spoil):
    face = Face(serve(users((0, 30, 9), (0, 40, 9), (0, 50, 9))))
    face.act(8)
    face.act(NOTHING)
    check(face.state)
    spoil(face.state.columns)
    with pytest.raises(LedgerError):
        check(face.state)


@pytest.mark.parametrize("name", TASKS)
def test_arrivals_are_the_same_whatever_decides(name):
    scenario = task(name, ticks=400, gpu_blocks=1_000)
    table = traffic(scenario, 5).table.tobytes()
    for make in AGENTS.values():
        state = new_state(scenario, 5)
        face, choose, come = Face(state), make(5), 0
        while not state.done:
            face.act(choose(face.mask))
            arrivals, arrived = state.columns.requests["arrival"], int(state.columns.book["arrived"])
            assert arrived == np.searchsorted(arrivals, face.clock, side="right") >= come
            assert (state.columns.rows["status"][arrived:] == s.FUTURE).all()
            come = arrived
        assert (state.columns.requests.tobytes() == table and come == len(arrivals)) or state.crashed


def test_the_same_seed_gives_the_same_bytes_and_another_one_others():
    scenario = task("hard", ticks=300)
    first, second = (play(new_state(scenario, 3), player(rng_of(1)), 400).state for _ in range(2))
    assert bytes_of(first) == bytes_of(second)
    assert repr(report(first)) == repr(report(second))
    assert bytes_of(new_state(scenario, 3)) != bytes_of(new_state(scenario, 4))


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, State.copy, lambda state: pickle.loads(pickle.dumps(state))],
    ids=["deepcopy", "copy", "pickle"],
)
@pytest.mark.parametrize("decisions", [0, 150])
def test_a_copied_or_pickled_server_goes_on_alike(again, decisions):
    original = play(
        new_state(task("medium", ticks=300, gpu_blocks=1_500), 8), player(rng_of(2)), decisions
    ).state
    twin, before = again(original), bytes_of(original)
    assert bytes_of(twin) == before and twin.scenario == original.scenario and twin.seed == 8
    play(twin, player(rng_of(3)), 300)
    assert bytes_of(original) == before and bytes_of(twin) != before
    play(original, player(rng_of(3)), 300)
    assert bytes_of(twin) == bytes_of(original)


def test_two_thousand_servers_side_by_side_are_two_thousand_alone():
    def scenario(seed):
        return task(
            list(TASKS)[seed % 3],
            ticks=40,
            gpu_blocks=500 + seed % 7 * 200,
            cpu_blocks=seed % 5 * 100,
            queue_free=1 + seed % 3,
        )

    faces = [Face(new_state(scenario(seed), seed)) for seed in range(2_000)]
    for _ in range(3):
        for seed, face in enumerate(faces):
            for action in (8, 9, 17, seed % 17):
                face.act(action)
    for seed in range(0, 2_000, 7):
        alone = Face(new_state(scenario(seed), seed))
        for _ in range(3):
            for action in (8, 9, 17, seed % 17):
                alone.act(action)
        assert bytes_of(alone.state) == bytes_of(faces[seed].state)


def test_settings_of_one_server_never_reach_another():
    before = dict(TASKS)
    plain = play(new_state(task("easy", ticks=100), 1), serve_all, 100).state
    odd = {
        "gpu_blocks": 300,
        "cpu_blocks": 7,
        "block_tokens": 4,
        "token_budget": 9,
        "strict": True,
        "reuse": False,
    }
    other = new_state(
        task("easy", ticks=100, queue_free=1, sla_free=1, hardware="8xh100-llama-3.1-70b", **odd), 1
    )
    beside = new_state(task("easy", ticks=100), 1)
    for _ in range(100):
        play(other, serve_all, 1)
        play(beside, serve_all, 1)
    assert bytes_of(beside) == bytes_of(plain) and before == TASKS
    assert other.columns.settings.tolist() != beside.columns.settings.tolist()


def test_a_reset_in_the_middle_starts_afresh_and_leaves_the_old_server_alone():
    scenario = task("hard", ticks=200)
    fresh, old = bytes_of(new_state(scenario, 6)), play(new_state(scenario, 6), serve_all, 60).state
    middle = bytes_of(old)
    assert bytes_of(new_state(scenario, 6)) == fresh != middle
    play(new_state(scenario, 6), serve_all, 30)
    assert bytes_of(old) == middle


@pytest.mark.parametrize("name", TASKS)
def test_rewards_by_term_add_up_to_what_was_paid(name):
    state = new_state(task(name, ticks=400, gpu_blocks=900), 2)
    face, choose, paid = Face(state), player(rng_of(9), wild=True), 0.0
    while not state.done:
        paid += face.act(choose(face.mask))
    found = report(state)
    assert found.total_reward == pytest.approx(paid) and tuple(found.rewards) == tuple(TERM_WEIGHTS)
    assert (
        found.arrived
        == found.completed + found.dropped + found.rejected + found.unfinished
        == len(state.load.table)
    )


def test_no_agent_beats_the_bound_and_every_share_is_one():
    best = 0.0
    for seed in range(80):
        rng = rng_of(seed)
        load = crowd(rng, ticks := rng.choice((5, 40, 200)), longest=60, number=rng.choice((2, 20, 60)))
        choose = rng.choice((serve_all, player(rng, wild=False)))
        found = report(
            play(serve(load, ticks, gpu_blocks=rng.choice((60, 400)), block_tokens=4), choose, 3_000).state
        )
        shares = (found.throughput, found.latency_efficiency, found.cache_residency, found.fairness)
        assert 0 < found.score < 1
        if not found.work_bound:  # nothing could be done: a share of nothing is none
            assert math.isnan(found.throughput)
            shares = shares[1:]
        assert all(0 <= share <= 1 + 1e-9 for share in shares)
        best = max(best, found.throughput)
    assert best > 0.95


def test_the_area_under_the_queue_is_the_sum_of_waits():
    # Little's law over any stretch of time, without tolerance: integral of the number waiting = sum of times
    # waited.
    state = new_state(task("medium", ticks=500, gpu_blocks=900, rho=1.2, rho_peak=1.5), 4)
    face, area, rows = Face(state), 0, state.columns.rows
    while not state.done:
        before = face.clock
        face.act(serve_all(face.mask))
        waiting = [row for vip in (0, 1) for row in members(state.columns, "queues", vip)]
        area += int((face.clock - np.maximum(rows["since"][waiting], before)).sum())
    assert report(state).forced_preemptions > 0
    assert area == rows["waited"].sum() + (face.clock - rows["since"][waiting]).sum() > 0


def test_in_the_long_run_the_mean_number_is_the_rate_times_the_mean_time():
    # Little (1961) on the whole server in the middle of episodes, with the rate the load declares: L = lambda
    # W.
    area = spent = 0
    times = []
    for seed in range(8):
        state = new_state(task("easy", ticks=2_000, gpu_blocks=2_000, rho=0.6), seed)
        face, (low, high) = Face(state), (0.2 * state.load.end_us, 0.6 * state.load.end_us)
        while not state.done:
            before = face.clock
            face.act(serve_all(face.mask))
            if low <= before and face.clock <= high:
                status = state.columns.rows["status"]
                area += int(((status == s.QUEUED) | (status == s.ACTIVE)).sum()) * (face.clock - before)
                spent += face.clock - before
        rows, arrival = state.columns.rows, state.columns.requests["arrival"]
        within = (low <= arrival) & (arrival <= high)
        assert (rows["status"][within] == s.FINISHED).all()
        times.append(rows["ended"][within] - arrival[within])
    assert area / spent == pytest.approx(
        state.load.arrival_rate * np.concatenate(times).mean() / 1e6, rel=0.05
    )


def test_what_is_swapped_out_can_finish():
    # At a light load everyone is swapped out once in the middle of his answer; nearly all of those finish
    # none the less.
    swapped, finished = 0, 0
    for seed in range(3):
        state = new_state(task("easy", ticks=1_500, rho=0.2, rho_peak=0.2), seed)
        face, gone, since = Face(state), set(), 0
        while not state.done:
            face.act(serve_all(face.mask))
            active = state.columns.running[: state.columns.book["serving"]].tolist()
            action = next((14 + vip for vip in (0, 1) if face.mask[14 + vip]), NOTHING)
            if face.ticks - since > 25 and action != NOTHING:
                face.act(action)
                gone |= set(active) - set(state.columns.running[: state.columns.book["serving"]].tolist())
                since = face.ticks
        rows = state.columns.rows
        early = [row for row in gone if state.columns.requests["arrival"][row] < 0.7 * state.load.end_us]
        swapped, finished = swapped + len(early), finished + int((rows["status"][early] == s.FINISHED).sum())
        check(state)
    assert swapped >= 30 and finished >= 0.9 * swapped


def test_reserve_admission_preempts_nothing_where_optimism_does():
    # Without reuse: what is finished and stays on the GPU is the agent's to evict in time.
    forced = {}
    for admission in ("optimistic", "reserve"):
        forced[admission] = 0
        for seed in range(40):
            rng = rng_of(seed)
            load = crowd(rng, 200, longest=rng.choice((30, 60)), number=60)
            settings = {
                "gpu_blocks": rng.choice((60, 100)),
                "block_tokens": 4,
                "token_budget": rng.choice((3, 10, 50, 2_048)),
            }
            state = serve(load, 200, admission=admission, reuse=False, cpu_blocks=200, **settings)
            choose = rng.choice((serve_all, player(rng, wild=False)))
            forced[admission] += report(play(state, choose, 2_000).state).forced_preemptions
    assert forced["reserve"] == 0 and forced["optimistic"] > 20


def test_time_never_stands_still():
    state = new_state(task("hard", ticks=500, gpu_blocks=800, actions_per_tick=1), 3)
    face, choose, clocks = Face(state), player(rng_of(4), wild=True), []
    while not state.done:
        clocks.append(face.clock)
        face.act(choose(face.mask))
    assert all(sooner < later for sooner, later in pairwise(clocks)) and len(clocks) == face.ticks
