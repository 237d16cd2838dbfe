"""One cache under pressure as a Gymnasium environment."""

import operator
from typing import Any

import gymnasium
import numpy as np

from kv_cache_rl.gym.eviction.sources import Start, source_of
from kv_cache_rl.gym.face import Face
from kv_cache_rl.gym.picture import Panel
from kv_cache_rl.gym.requests import World, checked_seed, next_seed, options_of
from kv_cache_rl.gym.spaces import Choice
from kv_cache_rl.jit import njit
from kv_cache_rl.sim.eviction.columns import Counter
from kv_cache_rl.sim.eviction.decisions import (
    ACTIONS,
    STOP,
    VERBS,
    DecisionError,
    calls_made,
    checked,
    decide,
    room_of,
    seat_size,
    sit,
)
from kv_cache_rl.sim.eviction.dynamics import new_state
from kv_cache_rl.sim.eviction.log import ActionLog
from kv_cache_rl.sim.eviction.numbers import NUMBERS, HeadCell
from kv_cache_rl.sim.eviction.score import scored
from kv_cache_rl.sim.eviction.spec import Scenario
from kv_cache_rl.sim.eviction.state import State, slot_names

WORLD = World("cache", DecisionError, ACTIONS, Scenario, "sim.eviction.Scenario, such as load_scenarios()[0]")
GAUGES = (
    ("GPU budget", HeadCell.USED),
    ("CPU pool", HeadCell.CPU_USED),
    ("above 95 %", HeadCell.ABOVE),
    ("first need", HeadCell.NEED_FIRST),
    ("first wait", HeadCell.WAIT_FIRST),
    ("calls", HeadCell.MADE),
)
"""Label → the number of the view that it shows."""


class EvictionEnv(Face):
    """A cache under pressure: 15 windows, in each of which one decision after the other frees memory.

    Observation: Box of 988 numbers in [-1, 1], the full view (`sim.eviction.numbers`; `parts` cuts them
    into totals and 32 entries). Action: Discrete(97), ``3 row + verb`` (evict, compress, swap_to_cpu) or
    `STOP`, which plays the window; so do 16 calls. `action_masks()` (bool) and ``info["action_mask"]`` (int8)
    say which are not refused; one that is refused counts as a call and changes nothing. Reward: by how much
    the weighted return has grown, when a window is played; rewards sum to the return of the episode. It ends
    terminated.

    Every info also has ``window`` and ``failures``. The last has ``score`` (0 floor, 1 best known; NaN
    without these) and ``report``: scenario, total, rewards and metrics. Rendered as text (``ansi``), as an
    image (``rgb_array``, uint8 ``[256, 544, 3]``), or to the terminal at each step (``human``).
    """

    def __init__(
        self,
        difficulty: str = "medium",
        split: str = "train",
        source: Any = "committed",
        render_mode: str | None = None,
    ) -> None:
        """Scenarios of one difficulty, of which the seed of an episode chooses one.

        A render mode that is not offered gives a warning, and nothing is drawn.

        Args:
            split: ``train``, ``eval`` or ``test``, of the committed sets or of the generator.
            source: ``committed``, ``generated`` (fresh and unselected ones, without floor and best return),
                or the path of a file of yours.

        Raises:
            ScenarioError: an unknown difficulty or split, or a file that cannot be used.
            DecisionError: an unknown source.
        """
        self.difficulty, self.split, self.source = difficulty, split, source
        self._source = source_of(difficulty, split, source)
        self._drawn_as(render_mode)
        self.scenario: Scenario | None = None
        """What every episode plays from its next reset on, in place of what its seed chooses."""
        self.observation_space = observation_space()
        self.action_space = Choice(ACTIONS)
        self.playing: Scenario | None = None
        """Scenario of the episode under way. Not in any info before its end: it tells all that will come."""
        self.episode_seed: int | None = None
        """Seed of the episode under way; not in any info either."""
        self.state: State | None = None
        self._seat = np.zeros(0, np.int64)
        self._observed, self._mask = np.zeros(NUMBERS, np.float32), np.zeros(ACTIONS, np.int8)
        self._earned = np.zeros(1)
        self._last = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """A scenario before its first window.

        Args:
            seed: chooses the scenario, 0 to 2**64 - 1; without one the next of a stream that the last seed
                began.
            options: ``{"scenario": ...}`` plays a scenario with this id, or a `Scenario`, in this one
                episode; other options give a warning.

        Raises:
            DecisionError: a seed out of range, or options that are no mapping.
            ScenarioError: there is no scenario with this id.
        """
        super().reset(seed=checked_seed(seed, WORLD))
        asked = start_asked(self._source, options)
        self.episode_seed = next_seed(self.np_random) if seed is None else operator.index(seed)
        self.playing, first = start(self._source, self.episode_seed, self.scenario, asked)
        self.state, self._last = first.copy(), None
        self._seat = np.zeros(seat_size(self.playing.steps), np.int64)
        self._earned[0] = 0.0
        show(*self.state, self._seat, self._observed, self._mask)
        self._print()
        return self._observed.copy(), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision.

        Raises:
            DecisionError: no episode is under way, or the action is none of the 97.
        """
        number = checked(action)
        if self.state is None or self.playing is None or self._windows() >= self.playing.steps:
            raise DecisionError("no episode is under way; call reset() first")
        reward = take(*self.state, self._seat, self._observed, self._mask, self._earned, number)
        info, over = self._info(), self._windows() >= self.playing.steps
        if over:
            said, settled = final_info(self.playing, self.state, float(self._earned[0]))
            info, reward = info | said, reward + settled
        self._last = number, reward
        self._print()
        return self._observed.copy(), reward, over, False, info

    @property
    def log(self) -> ActionLog:
        """The calls of the windows played: what `sim.eviction.replay` plays again."""
        if self.playing is None:
            return []
        return calls_made(self._seat, slot_names(self.playing), self.playing.steps, self._windows())

    def _windows(self) -> int:
        """Windows played."""
        assert self.state is not None
        return int(self.state.columns.counters[Counter.WINDOW])

    def _info(self) -> dict[str, Any]:
        assert self.state is not None
        counters = self.state.columns.counters
        window, failures = int(counters[Counter.WINDOW]), int(counters[Counter.FAILURES])
        return {"action_mask": self._mask.copy(), "window": window, "failures": failures}

    def _panel(self) -> Panel | None:
        if self.playing is None or self.state is None:
            return None
        counters = self.state.columns.counters
        heading = f"{self.playing.difficulty}, window {counters[Counter.WINDOW]} of {self.playing.steps}"
        heading += f", {counters[Counter.QUEUE]} queued, {counters[Counter.FAILURES]} failed"
        gauges = [(label, float(self._observed[cell])) for label, cell in GAUGES]
        last = "" if self._last is None else f"last: {words_of(self._last[0])}, reward {self._last[1]:+.4f}"
        return Panel(heading, gauges, last)


def words_of(action: int) -> str:
    """An action in words.

    >>> words_of(7), words_of(96)
    ('compress row 2', 'stop')
    """
    row, verb = divmod(action, len(VERBS))
    return "stop" if action == STOP else f"{tuple(VERBS)[verb]} row {row}"


def observation_space() -> gymnasium.spaces.Box:
    """The box that the numbers lie in."""
    lowest = np.zeros(NUMBERS, np.float32)
    lowest[HeadCell.GROWTH] = -1.0
    return gymnasium.spaces.Box(lowest, np.ones(NUMBERS, np.float32), dtype=np.float32)


def start_asked(source: Any, options: Any, *known: str) -> Start | None:
    """The scenario that options name, and its first moment; None where they name none.

    Raises:
        DecisionError: the options are no mapping, or the scenario is neither an id nor a `Scenario`.
        ScenarioError: there is no scenario with this id.
    """
    example = f"{{'scenario': {source.example}}}"
    named = options_of(options, ("scenario", *known), example, WORLD).get("scenario")
    if named is None:
        return None
    if isinstance(named, Scenario):
        return named, new_state(named)
    if not isinstance(named, str):
        raise DecisionError(f"the option scenario is {named!r}; give an id or a Scenario, e.g. {example}")
    return source.find(named)


def start(source: Any, seed: int, scenario: Scenario | None, asked: Start | None) -> Start:
    """What an episode begins with: what was asked for, else the fixed scenario, else what its seed draws."""
    if asked is not None:
        return asked
    return source.draw(seed) if scenario is None else (scenario, new_state(scenario))


def final_info(scenario: Scenario, state: State, earned: float) -> tuple[dict[str, Any], float]:
    """What the last info of an episode says beyond the others, and what the last reward lacks.

    The reported total sums rewards that are rounded to six digits; `earned` is the sum before rounding.
    """
    rewards, total, score, metrics = scored(state, scenario)
    if not scenario.referenced:
        del metrics["regret"]
    report = {"scenario": scenario.id, "total": total, "normalized": score}
    return {"score": score, "report": report | {"rewards": rewards, "metrics": metrics}}, total - earned


@njit
def show(scn, live, seat, observed, mask):
    """`sit` for one episode."""
    sit(scn, live, seat, observed, mask, room_of(scn))


@njit
def take(scn, live, seat, observed, mask, earned, action):
    """`decide` for one episode."""
    return decide(scn, live, seat, observed, mask, earned, action, room_of(scn))
