"""What a table of scores does not say: models that never acted, episodes cut short, reasons of failures."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING

from kv_cache_rl.adapters.refusals import BROKE_OFF, DAMAGED, UNREAD, meaning_of
from kv_cache_rl.cli.chat_options import PARSERS

if TYPE_CHECKING:
    from kv_cache_rl.reports.eviction.outcome import Outcome
    from kv_cache_rl.sim.eviction import Scenario

MOSTLY = 0.5
"""The share of replies without a call, or of refused calls, from which on it is said."""
MOST_NOTES = 3
TEMPLATES = {"single calls": "one call a turn", "alternating": "no results of tools"}
"""Kind of a refusal (`adapters.refusals`) → what the model's chat template takes."""


def findings(
    config: Mapping, outcomes: Sequence["Outcome"], scenarios: Mapping[str, "Scenario"]
) -> list[str]:
    """Sentences about the models of a run that play on a server of their own."""
    hosted = [target["model"] for target in config["targets"] if target.get("base_url")]
    found = []
    for model in hosted:
        mine = [outcome for outcome in outcomes if outcome.model == model and outcome.error is None]
        said = [no_calls(mine), refused_calls(mine, scenarios), *cut_short(mine)]
        found += [f"{model}: {sentence}" for sentence in said if sentence]
    return found


def total(outcomes: Sequence["Outcome"], name: str) -> int:
    return round(sum((outcome.metrics or {}).get(name, 0.0) for outcome in outcomes))


def no_calls(mine: Sequence["Outcome"]) -> str:
    """Whether most replies held no tool call, with the beginning of the first."""
    replies, silent = sum(outcome.model_calls for outcome in mine), total(mine, "text_only_steps")
    if not replies or silent < MOSTLY * replies:
        return ""
    first = next((outcome.first_reply for outcome in mine if outcome.first_reply), "")
    quoted = f"; the first begins with {first.splitlines()[0]!r}" if first else ""
    sentence = f"{silent} of {replies} replies held no tool call{quoted}"
    if silent < replies or ended_early(mine) >= MOSTLY * silent:
        return f"{sentence}. A reply without a call counts as keep"
    return f"{sentence}: {PARSERS} The score is that of keep"


def ended_early(mine: Sequence["Outcome"]) -> int:
    """How many replies ended at a limit of tokens or in a filter: the notes say so, with the reason."""
    told = [re.match(r"(\d+) of \d+ replies .*finish_reason", note) for one in mine for note in one.notes]
    return sum(int(match[1]) for match in told if match)


def refused_calls(mine: Sequence["Outcome"], scenarios: Mapping[str, "Scenario"]) -> str:
    """Whether most calls could not be used, with the reason that came most often."""
    made = round(sum(map(_calls, mine)))
    refused = total(mine, "invalid_calls")
    if not made or refused < MOSTLY * made:
        return ""
    alike: dict[str, list[str]] = {}
    for one in mine:
        for text in _reasons(one, scenarios[one.scenario_id]):
            alike.setdefault(re.sub(r"'[^']*'|\b\w*\d[\w.,]*", "#", text), []).append(text)  # without ids
    why = f", most often: {max(alike.values(), key=len)[0]}" if alike else ""
    return f"{refused} of {made} calls were refused{why}"


def _reasons(outcome: "Outcome", scenario: "Scenario") -> Iterator[str]:
    """Why each refused call of a rollout was, those that were not read included."""
    from kv_cache_rl.reports.eviction.outcome import unread_of
    from kv_cache_rl.sim.eviction import MAX_CALLS_PER_STEP, reason_of, replay

    report = replay(scenario, outcome.log, cut_short=True)
    for window in report.timeline:
        for call in window["calls"]:
            if not call["ok"]:
                yield reason_of(call["text"]).removeprefix("refused: ")
    late = f"only the first {MAX_CALLS_PER_STEP} calls of a window count"
    yield from repeat(late, unread_of(outcome, report))


def _calls(outcome: "Outcome") -> float:
    """Calls that a rollout made, those that no log holds included."""
    told = outcome.metrics or {}
    return told.get("calls_per_step", 0.0) * (len(outcome.log) + told.get("unplayed_steps", 0.0))


def cut_short(mine: Sequence["Outcome"]) -> list[str]:
    """Notes on episodes that were cut short, equal ones together whatever their numbers."""
    alike: dict[str, list[str]] = {}
    for outcome in mine:
        for note in outcome.notes:
            alike.setdefault(re.sub(r"\d+", "#", note)[:60], []).append(note)
    return [
        f"in {len(notes)} of {len(mine)} rollouts {notes[0]}" for notes in list(alike.values())[:MOST_NOTES]
    ]


def hint(target: Mapping, error: str) -> str:
    """What to look at after a failure, told by the error."""
    from kv_cache_rl.sim.eviction import CONTEXT_TOKENS

    url, key, name = target["base_url"], target["api_key_var"], target["model"]
    status = match[1] if (match := re.search(r"upstream (\d{3})", error)) else ""
    if status == "401":
        return f"{url} does not take the key in {key}; export the right one, or name another --api-key-var"
    if status in ("404", "405"):
        return (
            f"{url} answers, but knows no such address or no model {name!r}; --base-url usually ends in /v1, "
            f"and {url}/models lists the names"
        )
    if status.startswith("3"):
        do = "a log-in page or a proxy may stand there; look it up in the server's own documents"
        if "give --base-url http" in error:
            do = "give the address that the error names as --base-url"
        return f"{url} is not where the server answers; {do}"
    kind = meaning_of(int(status) if status else None, error)
    view, history = target.get("view", "full"), target.get("history", "full")
    context = f"{CONTEXT_TOKENS[view, history]:,} tokens for view {view} and history {history}"
    if kind == "limited":
        return (
            f"one prompt is larger than what the account may send to {url} in a minute; raise its limit of "
            f"tokens, or evaluate a model with a higher one (a server holds {context})"
        )
    if status == "413" and "context" not in error:
        return (
            f"the first prompt is larger than {url}, or a proxy before it, takes; raise its limit on the "
            "bytes of a request (nginx: client_max_body_size), or the context of its model"
        )
    if kind == "overflow":
        return (
            f"the first prompt alone does not fit the model's context; serve {context} (vLLM: "
            "--max-model-len, llama.cpp: -c per slot, Ollama: num_ctx)"
        )
    if kind == "spent":
        return f"the account of the key in {key} is spent; add credit, or name another --api-key-var"
    if kind in TEMPLATES and history != "window":
        return f"the template of the model takes {TEMPLATES[kind]}; evaluate it with --history window"
    if kind == "busy" or "patience" in error:
        return f"{url} is busy or the account's limit is reached; lower --max-concurrent or raise --patience"
    if "timed out" in error:
        return f"{url} is slow; raise --timeout, or lower --max-concurrent to the slots that it has"
    if status.startswith("4"):
        return f"{url} refuses the request; its words above say why"
    if status.startswith("5") or BROKE_OFF in error:
        return f"{url} answers, but fails; its log says why"
    if any(words in error for words in UNREAD):
        return f"{url} answers, but in no form that is read; its words above say why"
    if any(words in error for words in DAMAGED):
        return (
            f"{url} answers, but what comes is damaged; see the log of the server, and of a proxy before it"
        )
    return f"does {url} answer, serve {name!r}, and take the key in {key}?"


def failures(config: Mapping, outcomes: Sequence["Outcome"]) -> list[str]:
    """The first failed rollouts, and a hint for each model of which none ended well."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    said = [f"failed: {outcome.model} on {outcome.scenario_id}: {outcome.error}" for outcome in failed[:5]]
    for target in config["targets"]:
        mine = [outcome for outcome in outcomes if outcome.model == target["model"]]
        if target.get("base_url") and mine and all(outcome.error is not None for outcome in mine):
            said.append(
                f"every rollout of {target['model']} failed; {hint(target, str(mine[0].error or ''))}"
            )
    return said
