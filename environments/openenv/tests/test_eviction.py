"""An eviction episode through OpenEnv is the episode of the one environment."""

import json
import random
import re
import subprocess
import sys

import pytest
from kv_cache_eviction_openenv import KvCacheEvictionAction
from kv_cache_eviction_openenv.server.environment import KvCacheEvictionEnvironment

from kv_cache_rl.adapters.http.load import main_command
from kv_cache_rl.adapters.openenv.tasks import EVICTION
from kv_cache_rl.adapters.openenv.words import in_words, read_words
from kv_cache_rl.adapters.wire import MOST_CALLS
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import DECIDERS, SYSTEM_PROMPTS, Episode, load_scenarios, replay
from kv_cache_rl.sim.eviction.scenarios import committed

TASK = "eviction-eval-hard-0003-v2"
SCENARIO = committed(TASK)[TASK]


def played(decide, view: str = "brief"):
    """(environment, observations) of an episode of TASK under a decider of observations."""
    environment = KvCacheEvictionEnvironment()
    seen = [environment.reset(task=TASK, view=view)]
    while not seen[-1].done:
        calls = in_words(decide(seen[-1].view))
        seen.append(environment.step(KvCacheEvictionAction(calls=calls)))
    return environment, seen


def guessing(number: int):
    """Calls that a careless player writes, readable and not."""
    draws = random.Random(number)

    def decide(view):
        ids = [row.split()[0] for row in view["rows"]] + ["zz", "s7"]
        verbs = ("evict", "compress", "swap_to_cpu", "keep", "drop")
        return read_words([f"{draws.choice(verbs)} {draws.choice(ids)}" for _ in range(draws.randrange(20))])

    return decide


@pytest.mark.parametrize("number", range(4))
def test_the_score_is_what_replay_gives_for_the_same_calls(number):
    _, seen = played(guessing(number))
    end = seen[-1]
    assert [one.reward for one in seen[1:-1]] == [0.0] * 14 and seen[0].reward is None
    report = replay(SCENARIO, end.metadata["log"])
    assert end.reward == report.normalized == end.metadata["report"]["normalized"]
    assert end.metadata["report"]["rewards"] == report.rewards


def test_the_score_is_what_the_command_replay_prints():
    _, seen = played(DECIDERS["lru"](), "full")
    command = [*main_command(), "replay", TASK, "--policy", "lru", "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert seen[-1].reward == told["normalized"] and seen[-1].metadata["report"]["total"] == told["reward"]


@pytest.mark.parametrize("view", ["brief", "full"])
def test_what_is_seen_is_the_worlds_own_view(view):
    environment, seen = played(DECIDERS["learned"](), view)
    episode = Episode(SCENARIO, view)
    assert seen[0].rules.startswith(SYSTEM_PROMPTS[view]) and not any(one.rules for one in seen[1:])
    for one in seen[:-1]:
        assert one.view == episode.observation() and one.window == episode.t + 1
        episode.step(list(DECIDERS["learned"]()(one.view)))
    assert seen[-1].view == {} and seen[-1].window == 15 and environment.state.step_count == 15


def test_calls_may_be_a_text_or_a_list_and_what_cannot_be_read_is_refused_in_words():
    calls = read_words("evict a, compress b;swap_to_cpu c\nkeep\n , evict")
    assert [call.verb for call in calls] == ["evict", "compress", "swap_to_cpu", "keep", "?"]
    assert read_words(["evict a", "compress b"]) == read_words("evict a,compress b")
    assert [call.verb for call in read_words("")] == ["keep"] == [call.verb for call in read_words([])]
    environment = KvCacheEvictionEnvironment()
    environment.reset(task=TASK)
    said = environment.step(KvCacheEvictionAction(calls="I would evict the largest, evict zz")).results
    assert said[0].startswith("refused: unknown tool 'I'; use one of keep, evict")
    assert said[1].startswith("evict zz: refused: no entry 'zz'")


def test_of_too_many_calls_those_that_count_are_read():
    calls = read_words(["evict a"] * (MOST_CALLS + 1))
    assert len(calls) == 17 and calls[-1].error == "49 more calls were not read; a window takes 16"
    assert len(read_words("x" * 60_000)) == 1 and len(read_words("x," * 30_000)) == 17


def test_a_seed_picks_a_task_and_every_third_is_hard():
    environment = KvCacheEvictionEnvironment()
    environment.reset(seed=602)
    assert environment.state.index == 2 and "-hard-" in environment.state.task
    ids = EVICTION.ids("eval")
    assert [one.split("-")[2] for one in ids[:6]] == ["easy", "medium", "hard"] * 2
    assert list(ids) == [one.id for one in load_scenarios(split="eval")]
    assert [EVICTION.named(one).index for one in ids[:9]] == list(range(9))


def test_a_step_before_a_reset_and_after_the_end_is_refused_with_the_remedy():
    environment = KvCacheEvictionEnvironment()
    with pytest.raises(Refused, match="no episode has begun in this session; send a reset"):
        environment.step(KvCacheEvictionAction(calls="keep"))
    environment, _ = played(DECIDERS["keep"]())
    with pytest.raises(Refused, match="over after 15 windows; send a reset"):
        environment.step(KvCacheEvictionAction(calls="keep"))


def test_a_person_can_play_by_choices_alone():
    environment = KvCacheEvictionEnvironment()
    seen = environment.reset(task=TASK)
    while not seen.done:
        choices = environment.web_actions({})
        assert choices[0] == ("keep", {"calls": "keep"}) or choices[0][0].startswith("keep (")
        assert len({label for label, _ in choices}) == len(choices)
        oracle = next(action for label, action in choices if label.endswith("oracle)"))
        drawn = environment.render_web({})
        assert 'sandbox=""' in drawn and "window" in drawn
        seen = environment.step(KvCacheEvictionAction(**oracle))
    assert seen.reward == 1.0 and environment.render_web({}).count("&lt;svg") >= 6


def test_the_oracle_is_no_choice_once_the_episode_has_left_its_log():
    environment = KvCacheEvictionEnvironment()
    environment.reset(task=TASK)
    environment.step(KvCacheEvictionAction(calls="evict zz"))
    assert not any("oracle" in label for label, _ in environment.web_actions({}))


def test_what_is_drawn_holds_nothing_that_runs():
    environment = KvCacheEvictionEnvironment()
    environment.reset(task=TASK)
    environment.step(
        KvCacheEvictionAction(calls=["evict <script>alert(1)</script>", "<img/onerror=alert(2)> x"])
    )
    drawn = environment.render_web({})
    assert re.findall(r"<(\w+)", drawn) == ["iframe"] and "&lt;script&gt;alert" not in drawn


def test_the_package_needs_neither_torch_nor_gymnasium():
    code = "import sys, kv_cache_eviction_openenv.server.environment as here\n"
    code += "print('torch' in sys.modules, 'gymnasium' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]
