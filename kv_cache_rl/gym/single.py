"""One server as a Gymnasium environment."""

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.dynamics import act, new_state
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH, SIGNED, look, new_view
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.spec import Scenario, ServingError, task
from kv_cache_rl.sim.serving.state import State

FACES = {"plain": len(OBSERVATION), "rich": len(RICH)}
"""How many of the observed numbers each face shows."""
SEEDS = 1 << 64
EXAMPLE = "{'settings': {'rho': 0.9}}"


class ServingEnv(gymnasium.Env[np.ndarray, np.int64]):
    """A server under load; every step is one decision, and up to `actions_per_tick` of them share a tick.

    Observation: Box of 20 numbers, or of 24 with ``observation="rich"`` (`sim.serving.observe` names them).
    Action: Discrete(18) (`sim.serving.actions.ACTIONS`). `action_masks()` (bool) and ``info["action_mask"]``
    (int8) say which have a target; one without is refused, costs what doing nothing costs and uses up a
    decision. Terminated: the server crashed or collapsed. Truncated: the episode's time is over. The last
    info also has ``score``, ``crashed`` and ``report``.

    Everything belongs to this instance: it can be pickled and deep-copied in the middle of an episode.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: str = "medium",
        observation: str = "plain",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        """A server of a task, with settings of your own (fields of `sim.serving.spec.Scenario`).

        Raises:
            ServingError: an unknown task, face, render mode or setting, or a value out of range.
        """
        self.scenario = scenario_of(task, settings)
        self.task, self.settings, self.observation = task, settings, observation
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ServingError(f"render_mode is {render_mode!r}; use 'ansi' or None")
        self.render_mode = render_mode
        self.observation_space = observation_space(observation)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self.state: State | None = None
        self._shown = FACES[observation]
        self._observed, self._mask = new_view()
        self._last: tuple[int, float] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The empty server at second 0, whatever was going on before.

        Args:
            seed: of the traffic, 0 to 2**64 - 1; without one the next of a stream that the last seed began.
            options: ``{"settings": {...}}`` changes settings for this one episode.

        Raises:
            ServingError: a seed out of range, or unknown options or settings.
        """
        super().reset(seed=checked_seed(seed))
        scenario = with_options(self.scenario, self.task, self.settings, options)
        episode = next_seed(self.np_random) if seed is None else operator.index(seed)
        self.state, self._last = new_state(scenario, episode), None
        return self._begun()

    def resume(self, state: State) -> tuple[np.ndarray, dict[str, Any]]:
        """Goes on from a copy of a server in the middle of an episode, with that server's settings."""
        self.state, self._last = state.copy(), None
        return self._begun()

    @property
    def episode_seed(self) -> int | None:
        """Seed of the traffic of this episode, None before the first.

        Not in any info: it determines all that will arrive.
        """
        return None if self.state is None else self.state.seed

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One decision.

        Raises:
            ServingError: no episode is under way, or the action is none of the 18.
        """
        try:
            number = operator.index(action)
        except TypeError:
            number = -1
        if not 0 <= number < len(ACTIONS):
            raise ServingError(f"action is {action!r}; give a whole number from 0 to 17")
        if self.state is None or self.state.done:
            raise ServingError("no episode is under way; call reset() first")
        reward = act(*self.state.buffers, self._observed, self._mask, number)
        info: dict[str, Any] = {"action_mask": self._mask.copy()}
        self._last = number, reward
        terminated = truncated = False
        if self.state.done:
            terminated = bool(self.state.crashed)
            truncated = not terminated
            info |= final_info(self.state)
        return self._observed[: self._shown].copy(), reward, terminated, truncated, info

    def _begun(self) -> tuple[np.ndarray, dict[str, Any]]:
        assert self.state is not None
        look(*self.state.buffers, self._observed, self._mask)
        return self._observed[: self._shown].copy(), {"action_mask": self._mask.copy()}

    def action_masks(self) -> np.ndarray:
        """Which actions have a target now, bool ``[18]``: what sb3-contrib's MaskablePPO asks for."""
        return self._mask.astype(bool)

    def render(self) -> str | None:
        """The state of the server as text (mode ``ansi``)."""
        return picture(self.state, self._observed, self._last) if self.render_mode == "ansi" else None


def scenario_of(name: str, settings: dict[str, Any]) -> Scenario:
    """The task with these settings."""
    return task(name, **settings)


def with_options(
    scenario: Scenario, name: str, settings: dict[str, Any], options: dict[str, Any] | None
) -> Scenario:
    """The scenario of one episode. Raises ServingError on options other than ``settings``."""
    if options is not None and not isinstance(options, Mapping):
        raise ServingError(f"options are {options!r}; give {EXAMPLE}, or None")
    if not options:
        return scenario
    unknown = [key for key in options if key != "settings"]
    if unknown:
        raise ServingError(f"unknown option {unknown[0]!r}; the only one is 'settings', e.g. {EXAMPLE}")
    changes = options["settings"]
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise ServingError(f"the option settings is {changes!r}; give settings by name, e.g. {EXAMPLE}")
    return scenario_of(name, settings | dict(changes))


def observation_space(face: str) -> gymnasium.spaces.Box:
    """The box that a face's numbers lie in.

    Raises:
        ServingError: there is no such face.
    """
    if not isinstance(face, str) or face not in FACES:
        raise ServingError(f"unknown observation {face!r}; use 'plain' (20 numbers) or 'rich' (24)")
    shown = FACES[face]
    lowest = np.zeros(len(RICH), np.float32)
    lowest[[RICH.index(name) for name in SIGNED]] = -1.0
    return gymnasium.spaces.Box(lowest[:shown], np.ones(shown, np.float32), dtype=np.float32)


def checked_seed(seed: Any) -> int | None:
    """The seed as Python's own integer, or None.

    Raises:
        ServingError: it is no integer from 0 to 2**64 - 1.
    """
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if number is not None and not 0 <= number < SEEDS:
        raise ServingError(f"seed is {seed!r}; give a whole number from 0 to 2**64 - 1")
    return number


def next_seed(stream: np.random.Generator) -> int:
    """Seed of the next episode of an environment that is reset without one."""
    return int(stream.integers(0, 1 << 63))


def final_info(state: State) -> dict[str, Any]:
    """What the info of an episode's last step says beyond the mask, without the seed (it fits no int64)."""
    result = report(state)
    shown = {name: value for name, value in result.to_json().items() if name != "seed"}
    return {"score": result.score, "crashed": state.crashed, "report": shown}


def picture(state: State | None, observed: np.ndarray, last: tuple[int, float] | None) -> str:
    """The state of a server as a few lines of text."""
    if state is None:
        return "no episode yet; call reset()"
    named = {name: float(value) for name, value in zip(RICH, observed, strict=True)}
    lines = [
        f"{state.scenario.task}, seed {state.seed}, {state.seconds:.2f} s"
        + (f", {state.crashed}" if state.crashed else "")
    ]
    for label, name in (
        ("GPU", "gpu_utilization_pct"),
        ("CPU", "cpu_utilization_pct"),
        ("queue Free", "free_queue_pressure"),
        ("queue VIP", "vip_queue_pressure"),
        ("wait Free", "free_max_wait_time_pct"),
        ("wait VIP", "vip_max_wait_time_pct"),
    ):
        filled = round(20 * min(max(named[name], 0.0), 1.0))
        lines.append(f"{label:<11}{'#' * filled:.<20} {100 * named[name]:5.1f} %")
    if last is not None:
        lines.append(f"last: {ACTIONS[last[0]]}, reward {last[1]:+.4f}")
    return "\n".join(lines)
