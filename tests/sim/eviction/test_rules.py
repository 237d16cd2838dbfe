"""The rules of a window, one hand-made scenario each."""

import pytest

from kv_cache_rl.sim.eviction import MAX_CALLS_PER_STEP, Call, Episode


def why(episode):
    return [(w["step"], f["seq_id"], f["why"]) for w in episode.timeline for f in w["failures"]]


def ended(episode):
    return [(w["step"], name) for w in episode.timeline for name in w["completions"]]


def test_evicting_one_of_six_sharers_frees_only_its_own_pages(kit):
    made = kit.scenario(
        *[kit.session(f"s{k}", 3 + k, prefix=0) for k in range(6)], prefixes=(20,), budget=200
    )
    before = kit.used(Episode(made))
    assert before == 20 + sum(3 + k for k in range(6))
    after = kit.play(made, 1, t0=[("evict", "s4")])
    assert before - kit.used(after) == 7
    assert after.said[0] == ["ok: evicted, 7 GPU pages freed"]


def test_the_pages_of_a_prefix_go_with_its_last_reference(kit):
    made = kit.scenario(kit.session("a", 5, prefix=0), kit.session("b", 6, prefix=0), prefixes=(20,))
    assert kit.used(kit.play(made, 1, t0=[("evict", "sys0"), ("evict", "a")])) == 26
    gone = kit.play(made, 1, t0=[("evict", "a"), ("evict", "b"), ("evict", "sys0")])
    assert kit.used(gone) == 0
    assert (
        gone.said[0][2]
        == "ok: evicted, 0 GPU pages freed, and the 20 GPU pages of prefix p0, which nobody else shares"
    )


def test_an_eviction_says_what_becomes_of_the_shared_prefix(kit):
    made = kit.scenario(
        kit.session("a", 5, prefix=0), kit.session("b", 6, place="cpu", prefix=0), prefixes=(20,)
    )
    assert kit.play(made, 1, t0=[("evict", "sys0"), ("compress", "a"), ("evict", "a"), ("evict", "b")]).said[
        0
    ] == [
        "ok: evicted, 0 GPU pages freed; prefix p0 stays, 2 more share it",
        "ok: now 8 bits, 2.5 pages freed, no decode in this window",
        "ok: evicted, 2.5 GPU pages freed",
        "ok: evicted, 3 CPU pages freed, and the 20 GPU pages of prefix p0, which nobody else shares",
    ]


def test_a_prefix_evicted_and_needed_again_is_recomputed_and_waited_for(kit):
    made = kit.scenario(
        kit.session("a", 0, kit.turn(1, new=128), prefix=0), prefixes=(20,), prefill_per_window=1_000
    )
    kept, gone = kit.play(made), kit.play(made, t0=[("evict", "sys0")])
    assert kept.report().metrics["recomputed_tokens"] == 0
    assert gone.report().metrics["recomputed_tokens"] == 20 * 128
    assert kit.column(kept, "WAIT_US", "a") == 0 and kit.column(gone, "WAIT_US", "a") == 2_560_000


def test_compress_halves_the_pages_twice_and_is_then_refused(kit):
    made = kit.scenario(kit.session("a", 40))
    episode = kit.play(made, 1, t0=[("compress", "a")] * 3)
    assert kit.used(episode) == 10
    assert [text.split(":")[0] for text in episode.said[0]] == ["ok", "ok", "refused"]
    assert "4 bits already" in episode.said[0][2] and "evict or swap" in episode.said[0][2]


def test_compress_works_past_the_first_call_also_in_a_later_window(kit):
    """A bug of the original environment: an entry once compressed could not be compressed again."""
    made = kit.scenario(kit.session("a", 40))
    episode = kit.play(made, 3, t0=[("compress", "a")], t2=[("compress", "a")])
    assert kit.used(episode) == 10 and kit.counter(episode, "INVALID") == 0


def test_every_call_of_a_window_counts(kit):
    """A bug of the original environment: only the first call of a message took effect."""
    made = kit.scenario(kit.session("a", 10), kit.session("b", 20), kit.session("c", 30), kit.session("d", 5))
    episode = kit.play(made, 1, t0=[("evict", "a"), ("compress", "b"), ("swap_to_cpu", "c")])
    assert (kit.used(episode), kit.used(episode, 1)) == (10 + 5, 30)
    assert kit.counter(episode, "CALLS") == 3


def test_the_whole_throughput_reward_is_within_one_episode_not_fifteen(kit):
    """A bug of the original environment: the norm was fifteen times too high."""
    made = kit.scenario(kit.session("a", 10, kit.turn(0, 10, out=1_000), rate=500), norm=1_000)
    assert kit.play(made).report().rewards["throughput_reward"] == 1.0


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_the_throughput_norm_is_500_tokens_per_100_ms_of_one_window(kit, difficulty):
    made = kit.generate(difficulty, 1)
    assert made.norm == 500 * made.step_ms / 100


def test_a_compressed_sequence_does_not_decode_in_that_window(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(-1, 10, out=200)))
    assert ended(kit.play(made)) == [(3, "a")]
    assert ended(kit.play(made, t1=[("compress", "a")])) == [(4, "a")]
    assert ended(kit.play(made, t1=[("compress", "a")], t2=[("compress", "a")])) == [(5, "a")]


def test_sixteen_calls_count_and_the_rest_are_refused(kit):
    made = kit.scenario(*[kit.session(f"s{k}", 2) for k in range(20)])
    episode = kit.play(made, 1, t0=[("evict", f"s{k}") for k in range(20)])
    assert MAX_CALLS_PER_STEP == 16 and kit.used(episode) == 4 * 2
    assert all(text == "refused: only the first 16 calls of a window count" for text in episode.said[0][16:])
    assert kit.counter(episode, "INVALID") == 4 and kit.counter(episode, "CALLS") == 20


def test_swapped_pages_leave_the_gpu_and_come_back_late_by_the_seconds_of_their_bytes(kit):
    made = kit.scenario(kit.session("a", 50, kit.turn(2, 50)), pages_per_window=200)
    episode = kit.play(made, 1, t0=[("swap_to_cpu", "a")])
    assert (kit.used(episode), kit.used(episode, 1)) == (0, 50)
    whole = kit.play(made, t0=[("swap_to_cpu", "a")])
    assert whole.report().metrics["total_latency_metric"] == 0.25
    assert sum(w["latency_s"] for w in whole.timeline) == 0.25 and ended(whole)


def test_a_full_cpu_pool_refuses_and_names_both_numbers(kit):
    made = kit.scenario(kit.session("a", 50), kit.session("b", 40), cpu=80)
    episode = kit.play(made, 1, t0=[("swap_to_cpu", "a"), ("swap_to_cpu", "b")])
    assert episode.said[0][1].startswith("refused: the CPU pool has 30 pages free, b needs 40;")
    assert (kit.used(episode), kit.used(episode, 1)) == (40, 50)


def test_a_refusal_names_the_cpu_room_of_that_moment_not_of_the_end_of_the_window(kit):
    """The pool empties within the window, as the swapped sequence is admitted again."""
    made = kit.scenario(kit.session("a", 50, kit.turn(0, 50)), kit.session("b", 40), cpu=80)
    episode = kit.play(
        made, 1, t0=[("swap_to_cpu", "a"), ("swap_to_cpu", "b"), ("evict", "a"), ("swap_to_cpu", "b")]
    )
    assert "has 30 pages free, b needs 40" in episode.said[0][1]
    assert episode.said[0][3] == "ok: 40 pages moved to the CPU pool"
    again = kit.play(made, 1, t0=[("swap_to_cpu", "a"), ("swap_to_cpu", "b")])
    assert kit.used(again, 1) == 0 and "has 30 pages free, b needs 40" in again.said[0][1]


def test_the_link_is_shared_and_what_does_not_fit_into_a_window_delays_the_next(kit):
    made = kit.scenario(
        kit.session("a", 60),
        kit.session("b", 60),
        kit.session("c", 5),
        budget=200,
        cpu=200,
        pages_per_window=100,
    )
    episode = kit.play(made, 2, t0=[("swap_to_cpu", "a"), ("swap_to_cpu", "b"), ("swap_to_cpu", "c")])
    assert [text.split(":")[0] for text in episode.said[0]] == ["ok", "ok", "refused"]
    assert "link is taken" in episode.said[0][2]
    assert [w["link_busy"] for w in episode.timeline] == [1.0, 0.2]


@pytest.mark.parametrize(
    ("calls", "words"),
    [
        ([("evict", "zz")], "no entry 'zz' in the cache now; choose from visible_seq_ids"),
        ([("evict", "a"), ("evict", "a")], "no entry 'a' in the cache now; choose from visible_seq_ids"),
        ([("evict", "later")], "no entry 'later' in the cache now; choose from visible_seq_ids"),
        ([("swap_to_cpu", "a"), ("swap_to_cpu", "a")], "a is on the CPU"),
        ([("swap_to_cpu", "a"), ("compress", "a")], "a is on the CPU"),
        ([("compress", "sys0")], "sys0 holds only shared prefix pages"),
        ([("swap_to_cpu", "sys0")], "sys0 holds only shared prefix pages"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(kit, calls, words):
    made = kit.scenario(kit.session("a", 5), kit.session("later", 0, kit.turn(3)), prefixes=(4,))
    episode = kit.play(made, 1, t0=calls)
    assert episode.said[0][-1].startswith(f"refused: {words}")


def test_a_call_that_could_not_be_read_is_answered_with_its_error(kit):
    episode = Episode(kit.scenario(kit.session("a", 5)))
    assert (
        episode.step([Call("?", error="unknown tool 'x'"), Call("teleport", "a")])[0]
        == "refused: unknown tool 'x'"
    )
    assert kit.counter(episode, "INVALID") == 2 and kit.used(episode) == 5


def test_a_message_without_calls_is_a_keep_that_is_counted(kit):
    made = kit.scenario(kit.session("a", 5, kit.turn(1, 5)))
    silent, kept = kit.play(made, t0=[], t1=[]).report(), kit.play(made).report()
    assert silent.metrics["text_only_steps"] == 2 and kept.metrics["text_only_steps"] == 0
    assert silent.total == kept.total


@pytest.mark.parametrize(("out", "windows"), [(50, 1), (51, 2), (200, 4)])
def test_a_sequence_decodes_its_rate_per_window_and_is_done_when_its_tokens_are(kit, out, windows):
    made = kit.scenario(kit.session("a", 10, kit.turn(0, 10, out=out)))
    episode = kit.play(made)
    assert ended(episode) == [(windows, "a")] and episode.report().metrics["total_tokens_metric"] == out


def test_pages_grow_while_a_sequence_decodes(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(0, 10, out=600), rate=128))
    episode = Episode(made)
    pages = []
    for _ in range(6):
        episode.step([Call("keep")])
        pages.append(kit.used(episode))
    assert pages == [10 + k for k in (0, 1, 2, 3, 4, 5)]


def test_cold_prefill_takes_its_lane_and_does_not_count_as_waiting(kit):
    made = kit.scenario(kit.session("a", 0, kit.turn(0, new=5_000)), prefill_per_window=1_000)
    episode = kit.play(made)
    assert ended(episode) == [(5, "a")] and not why(episode)
    assert [w["prefill_busy"] for w in episode.timeline[:6]] == [1.0] * 5 + [0.0]


def test_the_prefill_lane_serves_in_order_of_arrival(kit):
    made = kit.scenario(
        kit.session("b", 0, kit.turn(1, new=2_000)),
        kit.session("a", 0, kit.turn(0, new=3_000)),
        prefill_per_window=1_000,
    )
    assert ended(kit.play(made)) == [(3, "a"), (5, "b")]


def test_admission_is_first_come_first_served_and_the_first_holds_back_the_rest(kit):
    made = kit.scenario(
        kit.session("full", 60),
        kit.session("big", 0, kit.turn(0, new=50 * 128)),
        kit.session("small", 0, kit.turn(1, new=128)),
    )
    assert [w["admitted"] for w in kit.play(made, 3).timeline] == [[], [], []]
    freed = kit.play(made, 4, t3=[("evict", "full")])
    assert freed.timeline[3]["admitted"] == ["big", "small"]


def test_more_than_five_windows_of_waiting_fail(kit):
    made = kit.scenario(kit.session("full", 90), kit.session("a", 0, kit.turn(2, new=20 * 128)))
    assert why(kit.play(made)) == [(7, "a", "waited more than 5 windows")]
    assert not why(kit.play(made, t7=[("evict", "full")]))


def test_waits_of_one_turn_add_up(kit):
    """Three windows in the queue and three stalled on recompute, of which neither alone would fail."""
    sessions = (kit.session("a", 20, kit.turn(1, 20)), kit.session("full", 90))
    made = kit.scenario(*sessions, budget=110, prefill_per_window=800)
    queued = kit.play(made, t0=[("swap_to_cpu", "a"), ("keep")], t4=[("evict", "full")])
    assert not why(queued)
    recomputed = kit.play(made, t0=[("evict", "a")])
    assert not why(recomputed) and recomputed.report().metrics["recomputed_tokens"] == 20 * 128
    made = kit.scenario(*sessions, kit.session("late", 0), budget=109, prefill_per_window=800)
    both = kit.play(made, t0=[("evict", "a")], t4=[("evict", "full")])
    assert why(both) == [(6, "a", "waited more than 5 windows")]


@pytest.mark.parametrize("verb", ["evict", "swap_to_cpu"])
def test_throwing_everything_out_again_and_again_does_fail(kit, verb):
    sessions = [kit.session(f"s{k}", 30, kit.turn(-1, 30, out=2_000)) for k in range(3)]
    made = kit.scenario(*sessions, budget=120, cpu=200, pages_per_window=40, prefill_per_window=2_000)
    everything = {f"t{t}": [(verb, f"s{k}") for k in range(3)] for t in range(15)}
    assert len(why(kit.play(made, **everything))) == 3
    assert why(kit.play(made)) == []


def test_waiting_that_ends_within_each_window_adds_up_to_a_failure_too(kit):
    """Each recompute takes 0.96 of a window; the sixth is one too many, though the queue is empty when a
    window ends.
    """
    made = kit.scenario(kit.session("a", 30, kit.turn(-1, 30, out=2_000)), prefill_per_window=4_000)
    assert why(kit.play(made, **{f"t{t}": [("evict", "a")] for t in range(15)})) == [
        (5, "a", "waited more than 5 windows")
    ]


def test_an_eviction_of_running_work_loses_its_tokens_and_queues_it_again(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(-1, 10, out=200)))
    episode = kit.play(made, t2=[("evict", "a")])
    assert episode.report().metrics["recomputed_tokens"] == 100 + 10 * 128
    assert ended(episode) == [(6, "a")]


def test_a_swap_of_running_work_loses_nothing(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(-1, 10, out=200)))
    episode = kit.play(made, t2=[("swap_to_cpu", "a")])
    assert episode.report().metrics["recomputed_tokens"] == 0 and ended(episode) == [(4, "a")]


@pytest.mark.parametrize(
    ("tolerance", "calls", "wrong"),
    [
        ("fp16", 0, ""),
        ("fp16", 1, "int8"),
        ("fp16", 2, "int4"),
        ("int8", 1, ""),
        ("int8", 2, "int4"),
        ("int4", 2, ""),
    ],
)
def test_an_answer_decoded_below_its_tolerance_is_a_failure_and_its_tokens_do_not_count(
    kit, tolerance, calls, wrong
):
    made = kit.scenario(kit.session("a", 10, kit.turn(0, 10, out=70), tolerance=tolerance))
    report = kit.play(made, t0=[("compress", "a")] * calls).report()
    assert report.metrics["total_tokens_metric"] == (0 if wrong else 70)
    assert report.metrics["total_failures_metric"] == (1 if wrong else 0)
    assert [report.metrics[f"wrong_answers_{p}"] for p in ("int8", "int4")] == [
        wrong == "int8",
        wrong == "int4",
    ]


def test_overflow_preempts_the_active_sequence_of_lowest_priority_after_the_peak_is_recorded(kit):
    sessions = [
        kit.session(f"s{k}", 30, kit.turn(-1, 30, out=2_000), rate=128, priority=p)
        for k, p in enumerate((600, 200, 400))
    ]
    episode = kit.play(kit.scenario(*sessions, kit.session("idle", 8, priority=0), budget=100), 2)
    assert why(episode) == [(0, "s1", "preempted by overflow")]
    assert episode.timeline[0]["usage_peak"] == 1.01 and kit.used(episode) == 8 + 2 * 32
    assert episode.report().metrics["forced_preemptions"] == 1


def test_after_a_failure_the_next_turn_comes_on_time_and_with_a_cold_context(kit):
    low = kit.session("low", 30, kit.turn(-1, 30, out=1_000), kit.turn(3, 30, new=128), rate=128, priority=1)
    episode = kit.play(kit.scenario(low, kit.session("x", 70, priority=900), budget=100), t2=[("evict", "x")])
    assert why(episode) == [(0, "low", "preempted by overflow")]
    assert [w["step"] for w in episode.timeline if "low" in w["arrivals"]] == [3]
    assert episode.report().metrics["recomputed_tokens"] == 30 * 128


def test_a_request_that_has_waited_a_window_at_the_end_has_failed(kit):
    def waiting_since(step):
        return kit.scenario(
            kit.session("full", 90), kit.session("a", 0, kit.turn(step, new=20 * 128)), steps=4
        )

    assert why(kit.play(waiting_since(2))) == [(3, "a", "still waiting when the episode ended")]
    assert why(kit.play(waiting_since(3))) == []


def test_a_wrong_start_is_forgotten_with_an_eviction(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(-1, 10, out=150), tolerance="fp16"))
    assert why(kit.play(made, t0=[("compress", "a")])) == [(3, "a", "decoded below its tolerance")]
    assert why(kit.play(made, t0=[("compress", "a")], t2=[("evict", "a")])) == []


def test_after_a_wrong_answer_the_next_turn_comes_with_a_cold_context(kit):
    made = kit.scenario(
        kit.session("a", 10, kit.turn(0, 10, out=60), kit.turn(4, 10, new=5), tolerance="fp16")
    )
    assert kit.play(made, t0=[("compress", "a")]).report().metrics["recomputed_tokens"] == 10 * 128
    assert kit.play(made).report().metrics["recomputed_tokens"] == 0


def test_what_a_rewritten_history_no_longer_needs_is_freed_when_its_turn_arrives(kit):
    made = kit.scenario(kit.session("a", 20, kit.turn(2, 6, new=128)))
    pages = [kit.used(kit.play(made, steps)) for steps in (2, 3)]
    assert pages == [20, 7] and kit.play(made).report().metrics["recomputed_tokens"] == 0


def test_work_decoded_too_coarsely_is_a_failure_even_if_the_episode_ends_before_it_is_done(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(-1, 10, out=2_000), tolerance="fp16"), steps=4)
    assert why(kit.play(made, t0=[("compress", "a")])) == [(3, "a", "decoded below its tolerance")]
    assert why(kit.play(made)) == []


def test_dead_reasoning_stays_until_it_is_evicted_and_costs_nothing(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(0, 10, out=512, dead=384), rate=512))
    episode = kit.play(made)
    assert (kit.used(episode), episode.observation()["rows"][1][:2]) == (10 + 4, ["a.0", "think"])
    gone = kit.play(made, t3=[("evict", "a.0")])
    assert kit.used(gone) == 11 and gone.report().rewards["risky_eviction_penalty"] == 0
    assert gone.report().metrics["recomputed_tokens"] == 0


def test_two_evictions_in_one_window_of_a_recomputed_context_cost_it_once(kit):
    made = kit.scenario(kit.session("a", 10, kit.turn(1, 10)))
    assert kit.play(made, t0=[("evict", "a"), ("evict", "a")]).report().metrics["recomputed_tokens"] == 1_280


def test_a_step_after_the_end_raises_and_says_what_to_do(kit):
    episode = kit.play(kit.scenario(kit.session("a", 5), steps=3))
    assert episode.done and episode.t == 3
    with pytest.raises(ValueError, match="over after 3 windows; start a new Episode"):
        episode.step([Call("keep")])
    assert episode.t == 3
