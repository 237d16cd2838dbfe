"""``--policy llm``: a chat model plays servers, and what it did, read and cost is told.

Without ``--model`` a heuristic of the world is served on this machine and asked as any model is.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kv_cache_rl.amounts import counted
from kv_cache_rl.cli.chat_options import (
    DEFAULT_KEY_VAR,
    PARSERS,
    given,
    hosted_target,
    prices_of,
    refuse_without_model,
)
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.serving.play import LLM
from kv_cache_rl.extras import need
from kv_cache_rl.files import whole_text

if TYPE_CHECKING:
    from kv_cache_rl.adapters.chat import ChatModel
    from kv_cache_rl.agents.chat import Ask, ChatAgent
    from kv_cache_rl.sim.serving.spec import Scenario
    from kv_cache_rl.sim.serving.state import State

TICKS = 200
"""Nominal ticks of an episode where nothing else is asked for: every decision is a call."""
EMBEDDED, MAX_CONCURRENT, TIMEOUT, MAX_RETRIES, PATIENCE = "lru", 8, 60, 2, 60
MOSTLY = 0.5
"""The share of unusable replies from which on it is said."""


@dataclass(frozen=True, slots=True)
class Target:
    """The model that plays, and how it is asked."""

    model: str
    base_url: str | None
    """None: a heuristic of this package, served here."""
    key: str
    sampling: Mapping[str, float]
    patience: Mapping[str, float]
    prices: Mapping[str, float]

    @property
    def label(self) -> str:
        """The model as a reader of the table knows it."""
        return self.model if self.base_url else f"{self.model}, embedded"

    def identity(self) -> str:
        """What its episodes depend on beside the code."""
        return json.dumps([self.model, self.base_url, dict(self.sampling)])


def target_of(
    names: Sequence[str],
    model: str | None,
    base_url: str | None,
    api_key_var: str | None,
    sampling: Mapping[str, float | None],
    patience: Mapping[str, float | None],
    prices: Sequence[float | None],
    max_concurrent: int | None = None,
) -> Target | None:
    """The model behind `llm`; None where it is not among the names.

    Raises:
        BadInput: options of a model without `llm`, or that do not fit together.
        MissingExtra: what asks a model is not installed.
    """
    priced, waits, drawn = prices_of(*prices), given(**patience), given(**sampling)
    if LLM not in names:
        said = {"--model": model, "--base-url": base_url, "--api-key-var": api_key_var}
        said |= {"--price-in": priced, "--timeout": waits, "--max-tokens": drawn}
        said |= {"--max-concurrent": max_concurrent}
        if asked_for := next((name for name, value in said.items() if value), None):
            raise BadInput(
                f"{asked_for} and its like are for a chat model; add --policy {LLM}, or leave it out"
            )
        return None
    need(f"--policy {LLM}", "openai", "fastapi", "uvicorn")
    if model is None:
        refuse_without_model(base_url, api_key_var, drawn)
        return Target(EMBEDDED, None, "", drawn, waits, priced)
    if not model.strip() or whole_text(model) != model:
        raise BadInput("--model is empty or not UTF-8; name the model as its server lists it")
    hosted = hosted_target(model, base_url, api_key_var or DEFAULT_KEY_VAR)
    key = os.environ.get(hosted["api_key_var"], "")
    return Target(model, hosted["base_url"], key, drawn, waits, priced)


@contextmanager
def asking(target: Target) -> Iterator["ChatModel"]:
    """The model, ready to be asked while the block lasts."""
    from kv_cache_rl.adapters.chat import ChatModel
    from kv_cache_rl.adapters.endpoint import serving
    from kv_cache_rl.adapters.patience import Patience

    usual = {"timeout": TIMEOUT, "max_retries": MAX_RETRIES, "seconds": PATIENCE}
    limits = Patience(**{**usual, **target.patience})  # pyrefly: ignore[bad-argument-type]
    with ExitStack() as stack:
        embedded = target.base_url is None
        url = stack.enter_context(serving(target.model, world="serving")) if embedded else target.base_url
        model = ChatModel(target.model, str(url), target.key, dict(target.sampling), limits)
        yield stack.enter_context(model)


@contextmanager
def playing(target: Target) -> Iterator["ChatAgent"]:
    """The model as an agent, while the block lasts."""
    from kv_cache_rl.agents.chat import ChatAgent

    with asking(target) as model:
        agent = ChatAgent(model.ask)
        agent.reset()
        yield agent


def bounded(target: Target | None, ticks: int | None) -> int | None:
    """The length of episodes: what was asked for, or so few ticks that a model's calls can be paid."""
    if target is None or ticks is not None:
        return ticks
    told = f"every decision of {LLM} is a call: episodes have {TICKS} ticks; give --ticks for more"
    typer.echo(told, err=True)
    return TICKS


def evaluated(
    target: Target | None,
    scenarios: Sequence["Scenario"],
    seeds: Sequence[int],
    folder: Path,
    max_concurrent: int | None,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """The rows of the model's episodes, so many at once; none without a model."""
    if target is None:
        return []
    from kv_cache_rl.experiments.serving.evaluate import evaluate
    from kv_cache_rl.experiments.workers import on_threads

    most = max_concurrent or MAX_CONCURRENT
    with asking(target) as model:
        rows = evaluate(
            *([LLM], scenarios, seeds, player(model.ask, target), folder),
            progress=progress,
            identity=lambda name: target.identity(),
            spread=lambda work, items, keep, _: on_threads(work, items, keep, most),
        )
    # A row may be an earlier evaluation's, made without prices or at others.
    return [row | {"chat": priced(row["chat"], target)} if row.get("chat") else row for row in rows]


def said(rows: Sequence[Mapping[str, Any]], target: Target | None) -> list[str]:
    """`sentences` on the rows of an evaluation."""
    chats = [row["chat"] for row in rows if row.get("chat")]
    return sentences(chats, target) if target and chats else []


def player(ask: "Ask", target: Target) -> Callable[..., tuple["State", dict[str, Any]]]:
    """Plays one episode: (name, scenario, seed) -> its end, and what its row says of the model."""

    def play(name: str, scenario: "Scenario", seed: int) -> tuple["State", dict[str, Any]]:
        from kv_cache_rl.adapters.playing import asked
        from kv_cache_rl.agents.chat import ChatAgent
        from kv_cache_rl.experiments.serving.evaluate import PROVISIONAL
        from kv_cache_rl.search.serving.rollout import steps
        from kv_cache_rl.sim.serving.dynamics import new_state

        state, agent = new_state(scenario, seed), ChatAgent(ask)
        agent.reset(seed)
        for _ in steps(state, asked(agent)):
            pass
        told = facts(agent.counts.to_json(), target)
        return state, {"chat": told} | ({PROVISIONAL: True} if agent.counts.gone else {})

    return play


def facts(counts: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The counts of an episode under the model's name."""
    return {"model": target.model, "base_url": target.base_url, **counts}


def priced(told: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """What is told of an episode, with the price of its tokens; None without prices."""
    from kv_cache_rl.reports.eviction.usage import cost

    money = cost(told["read"], told["cached"], told["written"], target.prices) if target.prices else None
    return {**told, "cost": money}


def sentences(chats: Sequence[Mapping[str, Any]], target: Target) -> list[str]:
    """What a reader of the scores has to know of the model's episodes: their cost, and whether it played."""
    from kv_cache_rl.agents.chat import FAILURES

    def total(name: str) -> Any:
        return sum(one[name] for one in chats)

    calls, used, lost, failures = map(total, ("calls", "used", "lost", "parse_failures"))
    kinds = [f"{total(kind)} {kind.replace('_', ' ')}" for kind in FAILURES if total(kind)]
    split = f" ({', '.join(kinds)})" if kinds else ""
    money = f", {total('cost'):,.4f} in the currency of the prices" if target.prices else ""
    told = [
        f"{LLM} ({target.label}): {counted(calls, 'call')} in {counted(len(chats), 'episode')}, {used} used, "
        f"{total('no_target')} of them without a target, {failures} parse failures{split}, {lost} lost; "
        f"{total('read'):,} tokens read, {total('cached'):,} of them cached, {total('written'):,} "
        f"written{money}"
    ]
    first = next((one["first_failure"] for one in chats if one["first_failure"]), "")
    loss = next((one["first_loss"] for one in chats if one["first_loss"]), "")
    if calls and lost == calls:
        told.append(f"{target.label} NEVER ANSWERED: {loss}. The score is that of doing nothing")
    elif calls and not used:
        asks = PARSERS if total("no_call") == failures else "is the model able to call tools?"
        told.append(
            f"{target.label} NEVER CALLED THE TOOL: {first}; {asks} The score is that of doing nothing"
        )
    elif failures >= MOSTLY * max(calls, 1):
        told.append(f"{target.label}: {failures} of {calls} replies decided nothing, the first for {first}")
    elif lost:
        told.append(f"{target.label}: {lost} of {calls} calls were lost, the first for {loss}")
    if gone := total("gone"):
        told.append(
            f"in {gone} of {counted(len(chats), 'episode')} the server was given up after calls lost in a "
            "row, and the rest was played without it; those are played anew the next time"
        )
    return told
