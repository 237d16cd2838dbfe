"""Examples: one window each, answered by the expert, whatever played up to it.

    for each episode of a generated training scenario:
        draw what plays it: the expert, the expert with calls left out, or another decider
        play it, and draw some of its windows; the expert answers each

An expert's own way alone would never show the states that a student's mistakes lead to."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from kv_cache_rl import ENVIRONMENT_VERSION
from kv_cache_rl.adapters.expert import answer, opening, window_row
from kv_cache_rl.core.errors import Refused
from kv_cache_rl.files import naming, write_whole
from kv_cache_rl.sim.eviction import DIFFICULTIES, Call, Episode, Scenario, decider, window_message
from kv_cache_rl.sim.eviction.calls import KEEP
from kv_cache_rl.sim.eviction.generate import generate
from kv_cache_rl.sim.eviction.text import to_text
from training.wording import observed, words

EXPERT = "learned"
WINDOWS = 5
"""Windows that are drawn from an episode: neighbours are alike."""
OTHERS = ("lru", "gdsf", "lfu", "stability", "weigh_value", "compress_int8", "keep")
SHARES = (0.5, 0.25, 0.25)
"""Of episodes: the expert's, the expert's with calls left out, other deciders'."""
_LEFT_OUT = (0.2, 0.6)
_OF_ROWS = ("rows", "rest")
_FRESH = 20_000
"""Index from which on generated scenarios are in no committed set."""

Player = Callable[[dict], Sequence[Call]]


class DataError(Refused):
    """A file of examples that cannot be used; says what to do."""


def scenarios(seed: int, first: int = 0) -> Iterator[Scenario]:
    """Fresh training scenarios without end, the tiers in turn."""
    index = first
    while True:
        for tier in DIFFICULTIES:
            yield generate(tier, seed, "train", _FRESH + index)
        index += 1


def drawn_player(rng: np.random.Generator) -> tuple[str, Player]:
    """Something that plays an episode, and its name."""
    expert, way = decider(EXPERT), rng.choice(3, p=SHARES)
    if way == 0:
        return EXPERT, expert
    if way == 1:
        share = rng.uniform(*_LEFT_OUT)
        return f"{EXPERT}, {share:.2f} left out", lambda seen: [
            call for call in expert(seen) if rng.random() >= share
        ]
    # Mixed with the expert: another decider alone soon leaves the states that are worth learning.
    name = str(rng.choice(OTHERS))
    other = decider(name)
    return name, lambda seen: (other if rng.random() < 0.5 else expert)(seen)


def example(scenario: Scenario, window: int, content: str, observation: dict, player: str) -> dict:
    """A row as `kv-cache-rl export-sft --history window` writes it."""
    calls = list(decider(EXPERT)(observation))
    messages = [*opening("brief", content), answer(calls or [KEEP], window, as_text=False)]
    row = window_row(scenario, EXPERT, window + 1, messages, player=player)
    return row | {"environment_version": ENVIRONMENT_VERSION}


def answer_of(row: dict) -> tuple[list[str], dict]:
    """The words that the model should write in an example, and the observation that they are about."""
    *asked, said = row["messages"]
    seen = observed(asked)
    if seen is None:
        raise DataError("an example ends with no observation of the brief view; make examples anew")
    named = [call["function"] for call in said["tool_calls"]]
    return words([Call(one["name"], one["arguments"].get("seq_id", "")) for one in named], seen), seen


def under_another_head(row: dict, donor: dict) -> dict:
    """The rows of an example under the head of another one, answered by the expert.

    What must be freed changes, and what could be does not: so it shows how the head decides.
    """
    seen, other = observed(row["messages"][:-1]), observed(donor["messages"][:-1])
    if seen is None or other is None:
        raise DataError("an example ends with no observation of the brief view; make examples anew")
    changed = {key: seen[key] if key in _OF_ROWS else value for key, value in other.items()}
    calls = list(decider(EXPERT)(changed)) or [KEEP]
    said = answer(calls, row["window"] - 1, as_text=False)
    return row | {"messages": [*opening("brief", to_text(changed)), said]}


def from_episode(scenario: Scenario, player: Player, name: str, rng: np.random.Generator) -> list[dict]:
    """The examples of an episode that `player` plays."""
    episode, rows = Episode(scenario, "brief"), []
    wanted = set(rng.choice(scenario.steps, min(WINDOWS, scenario.steps), replace=False).tolist())
    content = episode.prompt()
    while not episode.done:
        seen = episode.observation()
        if episode.t in wanted:
            rows.append(example(scenario, episode.t, content, seen, name))
        calls = list(player(seen)) or [KEEP]
        texts = episode.step(calls)
        if not episode.done:
            content = window_message(calls, texts, episode.prompt())
    return rows


def make(count: int, seed: int) -> Iterator[dict]:
    """So many examples, the same for the same seed."""
    rng, made = np.random.default_rng(seed), 0
    for scenario in scenarios(seed):
        name, player = drawn_player(rng)
        for row in from_episode(scenario, player, name, rng):
            if made == count:
                return
            made += 1
            yield row


def write(path: Path, rows: Sequence[dict]) -> None:
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def load(paths: Sequence[Path]) -> list[dict]:
    """The examples of all files.

    Raises:
        DataError: a file holds none, or examples of another environment version.
    """
    rows: list[dict] = []
    for path in paths:
        with naming(path):
            lines = path.read_text(encoding="utf-8").splitlines()
        try:
            found = [json.loads(text) for text in lines if text]
            versions = {row["environment_version"] for row in found}
            for row in found:
                answer_of(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no file of examples ({type(error).__name__}: {error!s:.80}); "
                f"make one: python -m training data --out {path}"
            ) from None
        if versions != {ENVIRONMENT_VERSION}:
            raise DataError(
                f"{path} has examples of environment version "
                f"{', '.join(map(str, sorted(versions))) or 'none'}, this is {ENVIRONMENT_VERSION}; make new "
                f"ones: python -m training data --out {path}"
            )
        rows += found
    return rows
