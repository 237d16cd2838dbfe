"""One cache as a Gymnasium environment: the checkers, its rules, deciders as agents, bad input."""

import ast
import copy
import json
import pickle
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.gym import EVICTION_IDS, EvictionEnv
from kv_cache_rl.search.eviction.rollout import policy_return
from kv_cache_rl.sim.eviction import DECIDERS, Episode, load_scenarios, replay, write_file
from kv_cache_rl.sim.eviction.actions import Verb
from kv_cache_rl.sim.eviction.columns import Counter, Place
from kv_cache_rl.sim.eviction.deciders import MAX_OUT, decide_view, policy_id
from kv_cache_rl.sim.eviction.decisions import STOP, DecisionError, action_of
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.numbers import FIRST_ROW, HeadCell, RowCell, parts
from kv_cache_rl.sim.eviction.observe import new_view, view
from kv_cache_rl.sim.eviction.score import REWARDS, rewards_and_metrics
from kv_cache_rl.sim.eviction.spec import Scenario, ScenarioError
from kv_cache_rl.sim.eviction.state import check
from kv_cache_rl.sim.eviction.text import TYPES


def lawful(env, seed=0, stop=0.3):
    """Plays an episode to its end with allowed actions at random; yields what each step gave."""
    rng = np.random.default_rng(seed)
    over = False
    while not over:
        action = STOP if rng.random() < stop else int(rng.choice(np.flatnonzero(env.action_masks())))
        seen, reward, over, truncated, info = env.step(action)
        assert not truncated
        yield seen, reward, info


def counted(env, counter):
    return int(env.state.columns.counters[counter])


@pytest.mark.parametrize("name", EVICTION_IDS)
def test_both_environment_checkers_accept_it_without_a_warning(name):
    from stable_baselines3.common.env_checker import check_env as check_env_sb3

    env = gymnasium.make(name, render_mode="ansi")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        check_env_sb3(env.unwrapped)


def test_the_three_difficulties_are_registered_by_importing_the_package():
    assert EVICTION_IDS == ("KVEviction-easy-v0", "KVEviction-medium-v0", "KVEviction-hard-v0")
    for name in EVICTION_IDS:
        env = gymnasium.make(name, split="eval").unwrapped
        env.reset(seed=0)
        assert env.playing.id.startswith(f"eviction-eval-{name.split('-')[1]}-")


@pytest.mark.parametrize("difficulty", ["easy", "medium", "hard"])
def test_every_number_lies_in_its_box_and_the_books_balance(difficulty):
    env = EvictionEnv(difficulty)
    for seed in range(3):
        env.reset(seed=seed)
        for seen, _, _ in lawful(env, seed):
            assert env.observation_space.contains(seen)
        check(env.state)


@pytest.mark.parametrize("name", DECIDERS)
def test_a_decider_as_an_agent_earns_the_very_same_return(name):
    """Its calls become actions; what it makes beyond the sixteen that count is left out."""
    env, policy = EvictionEnv("hard", "eval"), policy_id(name)
    rows, head = new_view()
    for seed in (0, 5):
        env.reset(seed=seed)
        over, rewards, info = False, [], {}
        while not over:
            view(*env.state, rows, head)
            out, window = np.zeros((MAX_OUT, 2), np.int64), counted(env, Counter.WINDOW)
            count = decide_view(policy, rows, head, out)
            # Ids that do not exist have no row: such a call is always refused, and changes no return.
            actions = [3 * row + verb - Verb.EVICT for verb, row in out[:count] if verb and row >= 0]
            for action in [*actions, STOP]:
                if counted(env, Counter.WINDOW) > window:
                    break
                _, reward, over, _, info = env.step(action)
                rewards.append(reward)
        total = policy_return(env.playing, name)
        assert info["report"]["total"] == total
        assert sum(rewards) == pytest.approx(total, abs=1e-12) and round(sum(rewards), 6) == total


def test_rewards_come_when_a_window_is_played_and_are_what_the_return_grows_by():
    env = EvictionEnv("medium")
    env.reset(seed=4)
    earned, window, info = 0.0, 0, {}
    for _, reward, info in lawful(env):
        earned += reward
        if info["window"] == window:
            assert reward == 0.0
        else:
            assert earned == pytest.approx(rewards_and_metrics(env.state, 0.0)[1], abs=1e-6)
        window = info["window"]
    replayed, report = replay(env.playing, env.log), info["report"]
    assert round(earned, 6) == replayed.total == report["total"]
    assert report["rewards"] == replayed.rewards and report["metrics"] == replayed.metrics
    assert info["score"] == report["normalized"] == replayed.normalized
    assert info["failures"] == replayed.metrics["total_failures_metric"]
    assert (
        round(sum(REWARDS[name] * value for name, value in report["rewards"].items()), 6) == report["total"]
    )


def test_the_log_of_an_episode_with_refused_calls_is_played_again_to_the_last_number():
    env = EvictionEnv("hard")
    env.reset(seed=8)
    rng, over, info = np.random.default_rng(1), False, {}
    while not over:
        _, _, over, _, info = env.step(int(rng.integers(0, STOP + 1)))
    report = replay(env.playing, env.log)
    assert report.metrics == info["report"]["metrics"] and report.metrics["invalid_calls"] > 10
    assert report.total == info["report"]["total"]


def test_the_mask_is_exactly_what_is_not_refused():
    env = EvictionEnv("hard")
    _, info = env.reset(seed=2)
    rng, tried = np.random.default_rng(0), 0
    for _ in range(8):
        mask = info["action_mask"]
        assert np.array_equal(mask, env.action_masks()) and mask[STOP]
        for action in range(STOP):
            other = copy.deepcopy(env)
            before = other.state.columns.dyn.copy()
            window = counted(other, Counter.WINDOW)
            other.step(action)
            refused = counted(other, Counter.INVALID) - counted(env, Counter.INVALID)
            assert refused == 1 - mask[action], action
            if refused and counted(other, Counter.WINDOW) == window:
                assert np.array_equal(other.state.columns.dyn, before)
            tried += refused
        _, _, over, _, info = env.step(int(rng.choice(np.flatnonzero(mask))) if rng.random() < 0.7 else STOP)
        if over:
            break
    assert tried > 50


def test_sixteen_calls_play_the_window_and_a_stop_alone_is_a_keep():
    env = EvictionEnv("easy")
    _, info = env.reset(seed=0)
    refused = int(np.flatnonzero(info["action_mask"] == 0)[0])
    for made in range(16):
        seen, *_, info = env.step(refused)
        assert info["window"] == (made == 15)
        assert seen[HeadCell.MADE] == np.float32(0 if made == 15 else (made + 1) / 16)
    env.step(STOP)
    assert [len(window) for window in env.log] == [16, 1] and env.log[1] == [["keep"]]
    assert counted(env, Counter.TEXT_ONLY) == 0 and counted(env, Counter.INVALID) == 16


def test_calls_of_a_window_show_at_once_and_rows_stay_where_they_stand():
    env = EvictionEnv("hard")
    seen, info = env.reset(seed=1)
    _, rows = parts(seen)
    mask = info["action_mask"][:STOP].reshape(32, 3)
    first, second = np.flatnonzero(mask[:, 1] & (rows[:, RowCell.BITS] == 1) & (rows[:, RowCell.SIZE] > 0))[
        :2
    ]
    small, *_ = env.step(action_of("compress", first))
    _, now = parts(small)
    assert now[first, RowCell.BITS] == 0.5
    assert now[first, RowCell.SIZE] == pytest.approx(rows[first, RowCell.SIZE] / 2)
    assert small[HeadCell.USED] < seen[HeadCell.USED]
    gone, *_, info = env.step(action_of("evict", second))
    _, last = parts(gone)
    assert not last[second].any() and not info["action_mask"][3 * second : 3 * second + 3].any()
    others = np.delete(np.arange(32), second)
    of_row = [*range(RowCell.KIND, RowCell.SHARERS)]
    assert np.array_equal(last[np.ix_(others, of_row)], now[np.ix_(others, of_row)])


def test_within_a_window_the_numbers_are_those_of_a_view_of_that_moment():
    """Row by row, against the rows of a view taken anew, which has no gaps."""
    env, (rows, head) = EvictionEnv("medium"), new_view()
    env.reset(seed=6)
    compared = 0
    for seen, _, _ in lawful(env, seed=3):
        view(*env.state, rows, head)
        totals, entries = parts(seen)
        assert totals[HeadCell.USED] == pytest.approx(min(head[3] / head[4], 1))
        if seen[
            HeadCell.HIDDEN
        ]:  # more than 32: what comes up in place of a freed entry shows in the next window
            continue
        present = entries[entries[:, RowCell.PRESENT] > 0]
        assert len(present) == head[0]
        for numbers, row in zip(present, rows[: head[0]].tolist(), strict=True):
            kind, _, status, pages, level, place = row[1:7]
            assert numbers[RowCell.KIND + kind] == numbers[RowCell.STATUS + status] == 1
            assert numbers[RowCell.KIND : RowCell.GPU].sum() == 3
            assert bool(numbers[RowCell.GPU]) == (place == Place.GPU) != bool(numbers[RowCell.CPU])
            assert numbers[RowCell.WHOLE] == pytest.approx(min(16 * pages / head[4], 1))
            assert numbers[RowCell.BITS] == 1 / (1 << level)
            assert numbers[RowCell.VALUE] == pytest.approx(row[9] / 100)
            compared += 1
    assert compared > 300


def test_all_that_the_text_of_the_full_view_says_of_an_entry_is_in_the_numbers():
    env = EvictionEnv("hard", "eval")
    seen, _ = env.reset(seed=3)
    shown = Episode(env.playing).observation()
    _, entries = parts(seen)
    for numbers, row in zip(entries, shown["rows"], strict=False):
        _, kind, _, _, _, bits, place, priority, progress, value, idle, uses, age, _, sharers, reload_s = row
        assert numbers[RowCell.KIND + TYPES.index(kind)] == 1
        assert numbers[RowCell.BITS] * 16 == bits and bool(numbers[RowCell.GPU]) == (place == "gpu")
        per_cent = 100 * numbers[[RowCell.PRIORITY, RowCell.PROGRESS, RowCell.VALUE]]
        assert per_cent == pytest.approx([priority, progress, value], abs=1e-3)
        counts = numbers[[RowCell.IDLE, RowCell.USES, RowCell.AGE, RowCell.SHARERS]].astype(float)
        assert 8 * counts / (1 - counts) == pytest.approx([idle, uses, age, sharers], rel=1e-4)
        over = float(numbers[RowCell.RELOAD])
        assert 5 * over / (1 - over) == pytest.approx(reload_s, rel=1e-4)
    first = seen[len(HeadCell) : FIRST_ROW].reshape(6, 2)
    waited = [windows / 5 for _, _, windows in shown["pending_summary"]["first"]]
    assert first[: len(waited), 1] == pytest.approx(waited, abs=0.021)
    assert (
        seen[HeadCell.LEFT] == 1 and seen[HeadCell.HIDDEN] * shown["cache_overview"].get("not_shown", 0) >= 0
    )


def test_a_seed_chooses_the_scenario_and_the_next_ones_follow_from_it():
    env, known = EvictionEnv("easy", "eval"), load_scenarios("easy", "eval")
    assert env.episode_seed is env.playing is None and env.log == []
    ids = []
    for seed in range(len(known)):
        env.reset(seed=seed)
        ids.append(env.playing.id)
    assert sorted(ids) == sorted(one.id for one in known), "the first seeds play every scenario once"
    env.reset(seed=len(known) + 7)
    assert env.playing.id == ids[7]

    def follow():
        env.reset(seed=3)
        return [env.reset() and env.playing.id for _ in range(5)]

    assert follow() == follow() and len(set(follow())) > 1


def test_a_scenario_is_chosen_by_its_id_or_given_for_one_episode_alone():
    env = EvictionEnv("hard")
    known = load_scenarios("hard", "train", 3)[2].id
    env.reset(seed=0, options={"scenario": known})
    assert env.playing.id == known
    own = load_scenarios("easy", "test", 1)[0]
    env.reset(options={"scenario": own})
    assert env.playing is own
    usual = EvictionEnv("hard")
    usual.reset(seed=5)
    env.reset(seed=5)
    assert env.playing.id == usual.playing.id
    env.scenario = own
    env.reset(seed=5)
    assert env.playing is own


def test_generated_scenarios_are_those_of_the_generator_and_have_no_score():
    env = EvictionEnv("medium", source="generated")
    env.reset(seed=2**64 - 1)
    same = generate("medium", 2**64 - 1)
    assert env.playing.sessions == same.sessions and f"train{2**64 - 1}" in env.playing.id
    *_, (_, _, info) = lawful(env)
    assert np.isnan(info["score"]) and "regret" not in info["report"]["metrics"]
    assert info["report"]["total"] == replay(env.playing, env.log).total


def test_no_info_of_an_episode_under_way_names_what_will_come():
    env = EvictionEnv("medium")
    infos = [env.reset(seed=7)[1]] + [info for *_, info in lawful(env)]
    assert all(set(info) == {"action_mask", "window", "failures"} for info in infos[:-1])
    assert set(infos[-1]) == {"action_mask", "window", "failures", "score", "report"}
    assert infos[-1]["window"] == 15


def test_a_copy_and_a_pickle_in_the_middle_go_on_alike_and_leave_the_original_alone():
    env = EvictionEnv("hard")
    env.reset(seed=3)
    for _ in zip(range(20), lawful(env), strict=False):
        pass
    copied, pickled = copy.deepcopy(env), pickle.loads(pickle.dumps(env))
    assert len(pickle.dumps(env)) < 200_000, "the set that it draws from stays where it is"
    before = env.state.live.copy()
    results = [[seen.tobytes() for seen, *_ in lawful(one, seed=5)] for one in (copied, pickled)]
    assert np.array_equal(env.state.live, before)
    assert results[0] == results[1] == [seen.tobytes() for seen, *_ in lawful(env, seed=5)]


def test_the_state_between_windows_is_the_episodes_and_can_be_played_on_by_a_decider():
    env = EvictionEnv("hard", "eval")
    env.reset(seed=1)
    episode = Episode(env.playing)
    for _ in range(5):
        env.step(STOP)
        episode.step([])
        assert np.array_equal(env.state.columns.dyn, episode.state.columns.dyn)


def test_text_and_image_say_where_it_stands_and_what_was_done_last():
    env = EvictionEnv("medium", render_mode="ansi")
    assert env.render() == "no episode yet; call reset()"
    seen, _ = env.reset(seed=1)
    lines = env.render().splitlines()
    assert lines[0] == "medium, window 0 of 15, 0 queued, 0 failed" and len(lines) == 7
    assert f"{100 * float(seen[HeadCell.USED]):5.1f} %" in lines[1]
    env.step(STOP)
    assert "last: stop, reward " in env.render() and "window 1 of 15" in env.render()
    drawn = EvictionEnv("medium", render_mode="rgb_array")
    blank = drawn.render()
    drawn.reset(seed=1)
    assert drawn.render().shape == blank.shape == (256, 544, 3) and (drawn.render() != blank).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"difficulty": "extreme"}, "unknown difficulty 'extreme'; use one of easy, medium, hard"),
        ({"difficulty": ["easy"]}, "unknown difficulty"),
        ({"split": "validation"}, "unknown split 'validation'; .*use one of train, eval, test"),
        (
            {"source": "fresh"},
            "source is 'fresh', and there is no such file; use 'committed', 'generated', or",
        ),
        ({"source": 7}, "source is 7; use 'committed', 'generated', or the path of a file"),
        ({"source": ""}, "source is ''; use"),
        ({"source": "none.jsonl"}, "none.jsonl: cannot be read .*scenarios generate"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(arguments, words):
    with pytest.raises(Refused, match=words):
        EvictionEnv(**arguments)


def test_files_of_ones_own_are_played_and_bad_ones_refused(tmp_path):
    path, known = tmp_path / "mine.jsonl", load_scenarios("all", "test", 6)
    write_file(path, known)
    env = EvictionEnv("hard", source=path)
    env.reset(seed=1)
    assert env.playing.difficulty == "hard" and env.playing in known
    write_file(path, [one for one in known if one.difficulty == "easy"])
    with pytest.raises(ScenarioError, match="holds 2 scenarios, none of them hard; make KVEviction-easy-v0"):
        EvictionEnv("hard", source=str(path))
    path.write_text("")
    with pytest.raises(ScenarioError, match="holds no scenario; make some with"):
        EvictionEnv("hard", source=path)
    path.write_text(json.dumps(known[0].to_json() | {"version": "0"}) + "\n")
    with pytest.raises(ScenarioError, match=r"version '0' is not .*scores compare only within one version"):
        EvictionEnv(known[0].difficulty, source=path)
    with pytest.raises(ScenarioError, match="cannot be read"):
        EvictionEnv("hard", source=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scenario": "eviction-train-hard-x"}, "unknown scenario of the train set, hard.*did you mean"),
        ({"scenario": 7}, "the option scenario is 7; give an id or a Scenario"),
        (5, r"options are 5; give {'scenario'"),
    ],
)
def test_what_is_no_scenario_is_refused_and_changes_nothing(options, words):
    env = EvictionEnv("hard")
    env.reset(seed=3)
    playing = env.playing
    with pytest.raises(Refused, match=words):
        env.reset(seed=4, options=options)
    assert env.playing is playing
    generated = EvictionEnv("hard", source="generated")
    with pytest.raises(
        Refused, match="source='generated' draws scenarios by seed" if options != 5 else words
    ):
        generated.reset(options={"scenario": "eviction-train-hard-x"} if options != 5 else 5)


def test_an_option_of_another_environment_gives_a_warning():
    env = EvictionEnv("easy")
    with pytest.warns(
        UserWarning, match="the option 'settings' is not known here and changes nothing; give"
    ) as said:
        env.reset(seed=0, options={"settings": {"rho": 1}})
    example = ast.literal_eval(str(said[0].message).split("; give ")[1].removesuffix("\x1b[0m"))
    env.reset(options=example)
    assert env.playing.id == example["scenario"]


@pytest.mark.parametrize("action", [-1, 97, 2.5, None, float("nan"), "evict", "3", [3], [1, [2]], 3j])
def test_an_action_that_is_none_of_the_97_is_an_error_and_changes_nothing(action):
    env = EvictionEnv("easy")
    env.reset(seed=0)
    before = env.state.live.copy()
    with pytest.raises(DecisionError, match=r"action is .*; give a whole number from 0 to 96, which stops"):
        env.step(action)
    assert np.array_equal(env.state.live, before)


@pytest.mark.parametrize("action", [np.int64(96), np.array(96), 96.0, np.float32(96)], ids=repr)
def test_a_whole_number_of_any_kind_is_an_action(action):
    env = EvictionEnv("easy")
    env.reset(seed=0)
    assert env.step(action)[4]["window"] == 1


def test_steps_outside_an_episode_and_bad_seeds_say_what_to_do():
    env = EvictionEnv("easy")
    with pytest.raises(DecisionError, match=r"no episode is under way; call reset\(\) first"):
        env.step(STOP)
    for seed in (-1, 2**64, 1.5, "7"):
        with pytest.raises(DecisionError, match=r"seed is .*; give a whole number from 0 to 2\*\*64 - 1"):
            env.reset(seed=seed)
    env.reset(seed=0)
    for _ in range(15):
        *_, terminated, _, info = env.step(STOP)
    assert terminated and info["action_mask"].sum() == 1
    with pytest.raises(DecisionError, match="no episode is under way"):
        env.step(STOP)


def test_a_scenario_of_more_windows_and_entries_than_usual_is_played():
    usual = load_scenarios("hard", "test", 1)[0]
    sessions = usual.sessions + tuple(
        replace(s, seq_id=f"x{k}", place="cpu" if s.place == "gpu" and not _runs(s) else s.place)
        for k, s in enumerate(usual.sessions)
        if not _runs(s)
    )
    longer = replace(
        usual, steps=25, sessions=sessions, cpu_pages=10 * usual.cpu_pages, best_log=(), best=0.0, floor=0.0
    )
    Scenario.from_json(longer.to_json())
    env = EvictionEnv("hard")
    env.reset(options={"scenario": longer})
    *_, (_, _, info) = lawful(env)
    assert info["window"] == 25 and replay(longer, env.log).total == info["report"]["total"]


def _runs(session):
    return bool(session.tokens and session.turns and session.turns[0].arrive < 0)
