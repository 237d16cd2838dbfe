"""Expert dialogues for fine-tuning: an action log as the chat messages of the episode it plays."""

import json
from collections.abc import Iterable, Sequence

from kv_cache_rl.adapters.dialogue import tool_call
from kv_cache_rl.sim.eviction import SYSTEM_PROMPTS, TOOLS, Call, Episode, Scenario, tool_messages


def tool_calls(calls: Sequence[Call], step: int, as_text: bool = False) -> list[dict]:
    """The calls of one assistant message. Arguments are objects, as chat templates take them, or with
    `as_text` JSON text, as a server takes them."""
    made = [tool_call(f"call_{step}_{index}", call.verb, call) for index, call in enumerate(calls)]
    for call in made if not as_text else ():
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return made


def expert_dialogue(
    scenario: Scenario, log: Iterable[Iterable[Sequence[str]]], as_text: bool = False, view: str = "full"
) -> list[dict]:
    """The messages of the episode as a chat model sees and writes them, from the system prompt on.

    Calls that could not be read are left out, and a step without calls becomes an explicit keep.
    """
    episode = Episode(scenario, view)
    system = {"role": "system", "content": SYSTEM_PROMPTS[view]}
    messages = [system, {"role": "user", "content": episode.prompt()}]
    for step, logged in enumerate(log):
        calls = [Call.from_log(words) for words in logged]
        calls = [episode.named(call, shown=True) for call in calls if not call.error] or [Call("keep")]
        asked = tool_calls(calls, step, as_text)
        messages.append({"role": "assistant", "content": "", "tool_calls": asked})
        texts = episode.step(calls)
        if episode.done:
            break
        for call, content in zip(asked, tool_messages(texts, episode.prompt()), strict=True):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return messages


def expert_row(
    scenario: Scenario,
    expert: str,
    log: Sequence,
    reward: float,
    normalized: float,
    as_text: bool = False,
    view: str = "full",
) -> dict:
    """One training example; `tools` is JSON text, as trainers read it too."""
    return {
        "scenario_id": scenario.id,
        "difficulty": scenario.difficulty,
        "expert": expert,
        "reward": reward,
        "normalized": normalized,
        "messages": expert_dialogue(scenario, log, as_text, view),
        "tools": json.dumps(TOOLS),
    }
