"""The eviction environment as a class of TRL's: ``GRPOTrainer(environment_factory=EvictionEnvironment)``.

TRL is not imported: it asks for a class without arguments, a `reset` that gets a row of the dataset, and
public methods with types and Google docstrings, which become tools. `rows` makes the dataset.

Other than the chat endpoint, a trainer of TRL ends a rollout at the first reply without a readable call;
`get_reward` then plays the windows that are left as `keep`, so that stopping early wins nothing."""

from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.sim.eviction import SYSTEM_PROMPTS, Call, Episode, load_scenarios
from kv_cache_rl.sim.eviction.calls import KEEP
from kv_cache_rl.sim.eviction.messages import result_lines
from kv_cache_rl.sim.eviction.scenarios import committed

ACT = (
    "Answer each observation with one call of act: the ids to evict, to compress and to swap to the CPU; "
    "empty lists keep everything."
)
MOST_SHOWN = 60
"""Characters of a wrong argument that an answer repeats."""


class EvictionEnvironment:
    """One episode in the brief view; a reward once, at its end: the normalised score.

    Instances are used again, so `reset` clears everything.
    """

    def __init__(self) -> None:
        self._episode: Episode | None = None

    def reset(self, scenario_id: str | None = "", **row: Any) -> str:
        """Begins the episode of a row; what it returns stands at the end of the prompt.

        Args:
            scenario_id: of a committed set. A row of another dataset that was mixed in has none.
            row: the other columns of the dataset, which say nothing here.

        Raises:
            Refused: no committed scenario has this id.
        """
        found = (committed(scenario_id) or {}).get(scenario_id) if isinstance(scenario_id, str) else None
        if found is None:
            raise Refused(
                f"the row has no scenario_id of a committed scenario ({scenario_id!r:.60}); make the dataset "
                "with kv_cache_rl.adapters.trl.rows"
            )
        self._episode = Episode(found, "brief")
        return self._episode.prompt()

    def act(self, evict: list[str], compress: list[str], swap_to_cpu: list[str]) -> str:
        """Decides one window of the KV cache, and gives the next observation. Empty lists keep everything.

        Args:
            evict: Ids of entries to drop. Running: back to the queue. Needed later: recomputed.
            compress: Ids of entries to halve: to 8, then 4 bits. Wrong answers are rare at 8 bits.
            swap_to_cpu: Ids of entries to move over the shared link; they come back when needed.

        Returns:
            What became of each call, and the next observation.
        """
        episode = self._begun()
        if episode.done:
            return "The episode is over."
        calls = [
            call
            for verb, ids in (("evict", evict), ("compress", compress), ("swap_to_cpu", swap_to_cpu))
            for call in _calls(verb, ids)
        ]
        texts = episode.step(calls or [KEEP])
        lines = result_lines(calls, texts[: len(calls)])
        return "\n".join([*lines, "The episode is over." if episode.done else episode.prompt()])

    def get_reward(self) -> float:
        """The normalised score: 0 at the floor, 1 at the best known. What was not played counts as keep."""
        episode = self._begun()
        while not episode.done:
            episode.step([KEEP])
        return episode.report().normalized

    def _begun(self) -> Episode:
        if self._episode is None:
            raise Refused("the episode has not begun; call reset with a row of kv_cache_rl.adapters.trl.rows")
        return self._episode


def _calls(verb: str, ids: object) -> list[Call]:
    """The calls of one list; what is no list of ids becomes one call that is refused with a reason."""
    if not isinstance(ids, list | tuple):
        return [Call("?", error=f"{verb}: {str(ids)[:MOST_SHOWN]!r} is no list of ids; send [] for none")]
    return [
        Call(verb, one)
        if isinstance(one, str) and one.isprintable() and 0 < len(one) <= MOST_SHOWN
        else Call("?", error=f"{verb}: {str(one)[:MOST_SHOWN]!r} is no id; send ids of rows as strings")
        for one in ids
    ]


def rows(
    split: str = "train", difficulty: str = "all", num_examples: int = -1, seed: int = 42
) -> list[dict[str, Any]]:
    """The rows of a dataset: ``datasets.Dataset.from_list(rows())``.

    Each has a `prompt` (system and user message), to which `reset` adds the first observation, and the
    `scenario_id` that it takes.

    Raises:
        Refused: as `load_scenarios`.
    """
    prompt = [
        {"role": "system", "content": f"{SYSTEM_PROMPTS['brief']}\n\n{ACT}"},
        {"role": "user", "content": "The cache now:\n"},
    ]
    chosen = load_scenarios(split=split, difficulty=difficulty, num_examples=num_examples, seed=seed)
    return [{"prompt": prompt, "scenario_id": one.id, "difficulty": one.difficulty} for one in chosen]
