"""What an episode costs in tokens, by view and history, as a tokenizer counts it.

observation   the compact JSON of one window
call          all that one model call reads: system prompt, tools, dialogue or window
context       what a server must hold at most: the longest call with its answer
read          what the calls of an episode read together, which is billed where no prefix is cached
written       the answers of an episode
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

from kv_cache_rl.adapters.chatml import TURN, turns
from kv_cache_rl.adapters.dialogue import observation_texts
from kv_cache_rl.adapters.expert import expert_dialogue, expert_windows
from kv_cache_rl.sim.eviction import TOOLS, Scenario

Count = Callable[[str], int]
PARTS = ("observation", "call", "context", "read", "written")


def token_counts(logs: Sequence[tuple[Scenario, list]], view: str, history: str, count: Count) -> dict:
    """Mean and maximum of each part over the calls or episodes of played scenarios.

    Args:
        logs: scenarios with the action log of the play that is counted.
        count: tokens of a text.
    """
    found: dict[str, list[int]] = {part: [] for part in PARTS}
    for scenario, log in logs:
        calls, answers = _calls(scenario, log, view, history, count, found["observation"])
        found["call"] += calls
        found["context"].append(max(call + wrote for call, wrote in zip(calls, answers, strict=True)))
        found["read"].append(sum(calls))
        found["written"].append(sum(answers))
    return {part: {"mean": sum(each) / len(each), "max": max(each)} for part, each in found.items()}


def _calls(
    scenario: Scenario, log: list, view: str, history: str, count: Count, observations: list[int]
) -> tuple[list[int], list[int]]:
    """Tokens that each model call of an episode reads, and those that it writes."""
    if history == "full":
        samples = [expert_dialogue(scenario, log, view=view)]
    else:
        samples = expert_windows(scenario, log, view=view)
    calls, answers, turn = [], [], count(TURN)
    for messages in samples:
        observations += map(count, observation_texts(messages))
        # A turn of the assistant begins with what stands before every answer of a model.
        sizes = [count(text) for text in turns(messages, TOOLS)]
        before = [0, *accumulate(sizes)]
        # system, user, answer, results, answer, results, ...
        calls += [before[k] + turn for k in range(2, len(sizes), 2)]
        answers += [sizes[k] - turn for k in range(2, len(sizes), 2)]
    return calls, answers
