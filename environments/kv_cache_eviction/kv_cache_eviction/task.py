"""One scenario as a task: hooks that run it through any harness, rewards, metrics and checks."""

import copy
import json
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, Self

import verifiers.v1 as vf

from kv_cache_eviction.dialogue import answers, decided, left_out, played
from kv_cache_eviction.notes import cut_replies, notes_on
from kv_cache_eviction.served import CONTEXT_OVERFLOW, refuse_empty
from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.sim.eviction import (
    MAX_CALLS_PER_STEP,
    REWARDS,
    Episode,
    Report,
    Scenario,
    counting,
    replay,
)

OWN_LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens")
ONLY_HERE = (
    "history 'window' is played by the package's own harness alone, for others send the whole dialogue; take "
    "history 'full', or leave out --env.agent.harness.id and --env.id"
)
TRUNCATING = (None, CONTEXT_OVERFLOW, *OWN_LIMITS)
"""Stop conditions under which the steps that were not played count as `keep`: limits that the user set, the
model's context, and none at all (an untouched task). Any other one makes an unfinished episode a failure."""


class EpisodeCutShort(RuntimeError):
    """The episode ended before its last step for a reason that says nothing about the model."""


class EvictionData(vf.TaskData):
    """Every trace holds its complete scenario, so that an old run can be scored without any file."""

    scenario: dict[str, Any]
    max_calls_per_step: int = MAX_CALLS_PER_STEP
    reward_profile: str = "original"
    view: str = "full"
    history: str = "full"


class EvictionTask(vf.Task[EvictionData, vf.State, vf.TaskConfig]):
    """A scenario, scored with the original's rewards and weights."""

    def __new__(cls, data: EvictionData | None = None, config: vf.TaskConfig | None = None) -> Self:
        """Replay knows only the taskset's declared type; the row names the profile of the run."""
        normalized = cls is EvictionTask and data is not None and data.reward_profile == "normalized"
        chosen: Any = NormalizedTask if normalized else cls
        return super().__new__(chosen)

    @property
    def key(self) -> str:
        return self.data.scenario["id"]

    @cached_property
    def scenario(self) -> Scenario:
        return Scenario.from_json(self.data.scenario)

    def played(self, messages: Iterable[vf.AssistantMessage]) -> Episode:
        """The episode after these messages, as the model saw it."""
        return played(self.scenario, messages, self.data.max_calls_per_step, self.data.view)

    # What any harness but the package's own needs: its tools are stubs, the answers are put in
    # at the model boundary.

    @vf.intercept
    def put_in_answers(self, request: vf.Request, trace: vf.Trace) -> vf.Request | None:
        """The request with its last message, a stub's result, replaced by the episode's answer."""
        call = pending_call(request)
        if call is None:
            return None
        if self.data.history != "full":
            raise ValueError(ONLY_HERE)
        *before, last = trace.assistant_messages
        episode = self.played(before)
        texts = answers(episode, decided(last, self.data.max_calls_per_step))
        request.messages[-1] = request.messages[-1].model_copy(update={"content": texts[call]})
        return request

    @vf.stop
    def episode_over(self, request: vf.Request, trace: vf.Trace) -> bool:
        """Refuses the model call after the last one. It waits for the last of several results, and
        looks at the request and not at the trace, so that what the last calls did is recorded."""
        call = pending_call(request)
        return (
            trace.num_turns >= self.scenario.steps
            and call == len(trace.assistant_messages[-1].tool_calls or []) - 1
        )

    @vf.intercept
    def refuse_empty_reply(self, response: vf.Response) -> None:
        """A reply with nothing in it is the server's failure, not a decision; harnesses retry it
        like any other 502.

        Raises:
            ProviderError: raised as such, since verifiers would record any other exception as an
                error of the task.
        """
        refuse_empty(response)

    def played_in_process(self) -> Self:
        """The same task without the two request hooks, for the harness that plays the episode
        itself: verifiers would run them once per tool call over a copy of the whole dialogue."""
        clone = copy.copy(self)
        for hook in ("put_in_answers", "episode_over"):
            setattr(clone, hook, None)
        return clone

    def reply_to_text(self, trace: vf.Trace) -> str | None:
        """The user message that follows a text-only reply. None after the last step, and where the
        latest reply does hold calls, which its harness left unanswered."""
        *before, last = trace.assistant_messages
        episode = self.played(before)
        if episode.done or last.tool_calls:
            return None
        return next(iter(answers(episode, [])), None)

    # What was decided, and how it is scored.

    async def finalize(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        """Writes what was decided, and a diagnosis in words, into `trace.info`; the scores come
        from there alone.

        Raises:
            EpisodeCutShort: the run stopped early, for a reason that is not a limit the user set.
        """
        steps = self.scenario.steps
        if trace.num_turns < steps and trace.stop_condition not in TRUNCATING:
            raise EpisodeCutShort(
                f"the episode stopped ({trace.stop_condition}) after {trace.num_turns} of {steps} model "
                "calls, so it has no score; raise the time limit or repair the server, "
                "then repeat it with --resume"
            )
        trace.info["environment_version"] = ENVIRONMENT_VERSION
        trace.info["actions"] = self.played(trace.assistant_messages).log
        if unread := left_out(trace.assistant_messages):
            trace.info["calls_not_read"] = unread
        trace.info["diagnosis"] = self.report(trace).notes
        if notes := notes_on(trace, self.data, self.scenario.steps):
            trace.info["notes"] = notes

    def metrics(self, trace: vf.Trace) -> dict[str, float]:
        """The simulator's metrics, the calls that no action log holds, and how whole the dialogue was."""
        found = dict(self.report(trace).metrics)
        found["unplayed_steps"] = float(max(0, self.scenario.steps - trace.num_turns))
        found["cut_replies"] = float(cut_replies(trace))
        return found

    def report(self, trace: vf.Trace) -> Report:
        unread = trace.info.get("calls_not_read", 0)
        return scored(self.scenario, json.dumps(trace.info["actions"]), unread)

    @vf.reward(weight=0.0)
    async def normalized_score(self, trace: vf.Trace) -> float:
        return self.report(trace).normalized

    @vf.metric
    async def episode_metrics(self, trace: vf.Trace) -> dict[str, float]:
        return self.metrics(trace)

    async def validate(self, runtime: vf.Runtime) -> bool:
        """Whether the scenario's best-known actions still reach its best-known return."""
        return replay(self.scenario, self.scenario.best_log).total == self.scenario.best


class NormalizedTask(EvictionTask):
    """The same with one reward: 0 is the best fixed rule on the scenario, 1 the best known."""

    @vf.reward(weight=1.0)
    async def normalized_score(self, trace: vf.Trace) -> float:
        return self.report(trace).normalized


def decided_by_dialogue(trace: vf.Trace) -> bool:
    """Whether the log of a saved rollout is what its messages decided."""
    data = EvictionData.model_validate(trace.task.data.model_dump())
    scenario, most = Scenario.from_json(data.scenario), data.max_calls_per_step
    episode = played(scenario, trace.assistant_messages, most, data.view)
    return trace.info.get("actions") == episode.log


@lru_cache(maxsize=8)
def scored(scenario: Scenario, actions: str, unread: int) -> Report:
    """The report of a JSON action log and of the calls that it does not hold; cached, as verifiers asks for
    each reward of a run in turn.

    Windows that were not played count as keep: `finalize` has said whether an episode may end early.
    """
    return counting(replay(scenario, json.loads(actions), cut_short=True), scenario, unread)


def reward_term(name: str, weight: float) -> Callable:
    async def term(self: EvictionTask, trace: vf.Trace) -> float:
        return self.report(trace).rewards[name]

    term.__name__ = term.__qualname__ = name
    return vf.reward(weight=weight)(term)


for _name, _weight in REWARDS.items():
    setattr(EvictionTask, _name, reward_term(_name, _weight))
    setattr(
        NormalizedTask, _name, None
    )  # verifiers drops a decorated method that a subclass overrides undecorated


def pending_call(request: vf.Request) -> int | None:
    """The call of the latest assistant message with whose result the request ends; else None.

    Verifiers also asks about calls that have not run yet, with an empty result: those are None too.
    """
    last = request.messages[-1]
    if not isinstance(last, vf.ToolMessage) or not last.content:
        return None
    made = next(
        (m.tool_calls or [] for m in reversed(request.messages) if isinstance(m, vf.AssistantMessage)), []
    )
    ids = [call.id for call in made]
    return ids.index(last.tool_call_id) if last.tool_call_id in ids else None


PROFILES = {"original": EvictionTask, "normalized": NormalizedTask}
