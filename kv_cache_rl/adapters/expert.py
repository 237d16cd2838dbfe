"""Expert dialogues for fine-tuning: an action log as the chat messages of the episode it plays.

With history `full` an episode is one sample, with `window` each window is one: system prompt, the one user
message and the answer."""

import json
from collections.abc import Callable, Iterable, Sequence

from kv_cache_rl.adapters.dialogue import arguments_of, tool_call
from kv_cache_rl.sim.eviction import (
    SYSTEM_PROMPTS,
    TOOLS,
    Call,
    Episode,
    Scenario,
    tool_messages,
    window_message,
)


def tool_calls(calls: Sequence[Call], step: int, as_text: bool = False) -> list[dict]:
    """The calls of one assistant message. Arguments are objects, as chat templates take them, or with
    `as_text` JSON text, as a server takes them. Ids have the nine letters and digits that Mistral's templates
    ask for."""
    made = [
        tool_call(f"call{step:02}{index:03}", call.verb, arguments_of(call))
        for index, call in enumerate(calls)
    ]
    for call in made if not as_text else ():
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return made


def opening(view: str, content: str) -> list[dict]:
    """The system prompt of a view and the first user message."""
    return [{"role": "system", "content": SYSTEM_PROMPTS[view]}, {"role": "user", "content": content}]


def answer(calls: Sequence[Call], step: int, as_text: bool) -> dict:
    """The assistant message of a window."""
    return {"role": "assistant", "content": "", "tool_calls": tool_calls(calls, step, as_text)}


def said(episode: Episode, logged: Iterable[Sequence[str]]) -> list[Call]:
    """Logged calls by the ids that the episode shows; without those that could not be read."""
    calls = [Call.from_log(words) for words in logged]
    return [episode.named(call, shown=True) for call in calls if not call.error] or [Call("keep")]


def expert_dialogue(
    scenario: Scenario, log: Iterable[Iterable[Sequence[str]]], as_text: bool = False, view: str = "full"
) -> list[dict]:
    """The messages of the episode as a chat model sees and writes them, from the system prompt on.

    Calls that could not be read are left out, and a step without calls becomes an explicit keep.
    """
    episode = Episode(scenario, view)
    messages = opening(view, episode.prompt())
    for step, logged in enumerate(log):
        calls = said(episode, logged)
        messages.append(answer(calls, step, as_text))
        texts = episode.step(calls)
        if episode.done:
            break
        asked = messages[-1]["tool_calls"]
        for call, content in zip(asked, tool_messages(texts, episode.prompt()), strict=True):
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    return messages


def expert_windows(
    scenario: Scenario,
    log: Iterable[Iterable[Sequence[str]]],
    as_text: bool = False,
    view: str = "brief",
    label: Callable[[dict], Sequence[Call]] | None = None,
) -> list[list[dict]]:
    """The messages of every window, as a chat model without history sees and answers it.

    Args:
        label: answers each observation instead of the log, which decides all the same what comes next.
    """
    episode, samples = Episode(scenario, view), []
    content = episode.prompt()
    for step, logged in enumerate(log):
        calls = said(episode, logged)
        told = calls if label is None else list(label(episode.observation())) or [Call("keep")]
        samples.append([*opening(view, content), answer(told, step, as_text)])
        texts = episode.step(calls)
        if episode.done:
            break
        content = window_message(calls, texts, episode.prompt())
    return samples


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
        **_facts(scenario, expert),
        "reward": reward,
        "normalized": normalized,
        "messages": expert_dialogue(scenario, log, as_text, view),
        "tools": json.dumps(TOOLS),
    }


def window_row(scenario: Scenario, expert: str, window: int, messages: list[dict], **facts: object) -> dict:
    """One training example of one window, counted from 1; `facts` are columns of its own."""
    row = {**_facts(scenario, expert), **facts, "window": window}
    return row | {"messages": messages, "tools": json.dumps(TOOLS)}


def _facts(scenario: Scenario, expert: str) -> dict:
    return {"scenario_id": scenario.id, "difficulty": scenario.difficulty, "expert": expert}
