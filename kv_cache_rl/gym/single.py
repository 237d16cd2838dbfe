"""One server as a Gymnasium environment."""

import operator
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from kv_cache_rl.gym.face import Face
from kv_cache_rl.gym.picture import Panel
from kv_cache_rl.gym.requests import World, checked_seed, next_seed, options_of
from kv_cache_rl.gym.spaces import Choice
from kv_cache_rl.sim.serving.actions import ACTIONS, checked
from kv_cache_rl.sim.serving.dynamics import act, new_state
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH, SIGNED, look, new_view
from kv_cache_rl.sim.serving.score import report
from kv_cache_rl.sim.serving.spec import Scenario, ServingError, task
from kv_cache_rl.sim.serving.state import State

WORLD = World(
    "server", ServingError, len(ACTIONS), Scenario, "sim.serving.spec.Scenario, such as task('hard')"
)
GAUGES = (
    ("GPU", "gpu_utilization_pct"),
    ("CPU", "cpu_utilization_pct"),
    ("queue Free", "free_queue_pressure"),
    ("queue VIP", "vip_queue_pressure"),
    ("wait Free", "free_max_wait_time_pct"),
    ("wait VIP", "vip_max_wait_time_pct"),
)
"""Label → the number of the view that it shows."""
FACES = {"plain": len(OBSERVATION), "rich": len(RICH)}
"""How many of the observed numbers each face shows."""
EXAMPLE = "{'settings': {'rho': 0.9}}"


class ServingEnv(Face):
    """A server under load; every step is one decision, and up to `actions_per_tick` of them share a tick.

    Observation: Box of 20 numbers, or of 24 with ``observation="rich"`` (`sim.serving.observe` names them).
    Action: Discrete(18) (`sim.serving.actions.ACTIONS`). `action_masks()` (bool) and ``info["action_mask"]``
    (int8) say which have a target; one without is refused, costs what doing nothing costs and uses up a
    decision. Terminated: the server crashed or collapsed. Truncated: the episode's time is over. The last
    info also has ``score``, ``crashed`` and ``report``. Rendered as text (``ansi``), as an image
    (``rgb_array``, uint8 ``[256, 544, 3]``), or to the terminal at each step (``human``).
    """

    def __init__(
        self,
        task: str = "medium",
        observation: str = "plain",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        """A server of a task, with settings of your own (fields of `sim.serving.spec.Scenario`).

        A render mode that is not offered gives a warning, and nothing is drawn.

        Raises:
            ServingError: an unknown task, face or setting, or a value out of range.
        """
        self.scenario = scenario_of(task, settings)
        self.task, self.settings, self.observation = task, settings, observation
        self._drawn_as(render_mode)
        self.observation_space = observation_space(observation)
        self.action_space = Choice(len(ACTIONS))
        self.state: State | None = None
        self._shown = FACES[observation]
        self._observed, self._mask = new_view()
        self._last = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The empty server at second 0, whatever was going on before.

        Args:
            seed: of the traffic, 0 to 2**64 - 1; without one the next of a stream that the last seed began.
            options: ``{"settings": {...}}`` changes settings for this one episode; others give a warning.

        Raises:
            ServingError: a seed out of range, or unknown settings.
        """
        super().reset(seed=checked_seed(seed, WORLD))
        changes = changes_of(options)
        scenario = scenario_of(self.task, self.settings | changes) if changes else self.scenario
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
        number = checked(action)
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
        self._print()
        return self._observed[: self._shown].copy(), reward, terminated, truncated, info

    def _begun(self) -> tuple[np.ndarray, dict[str, Any]]:
        assert self.state is not None
        look(*self.state.buffers, self._observed, self._mask)
        self._print()
        return self._observed[: self._shown].copy(), {"action_mask": self._mask.copy()}

    def _panel(self) -> Panel | None:
        if self.state is None:
            return None
        ended = f", {self.state.crashed}" if self.state.crashed else ""
        heading = f"{self.state.scenario.task}, seed {self.state.seed}, {self.state.seconds:.2f} s{ended}"
        gauges = [(label, float(self._observed[RICH.index(name)])) for label, name in GAUGES]
        last = "" if self._last is None else f"last: {ACTIONS[self._last[0]]}, reward {self._last[1]:+.4f}"
        return Panel(heading, gauges, last)


def scenario_of(name: str, settings: dict[str, Any]) -> Scenario:
    """The task with these settings."""
    return task(name, **settings)


def changes_of(options: Any, *known: str) -> dict[str, Any]:
    """The settings that options change for one episode; others than these and the `known` give a warning.

    Raises:
        ServingError: the options are no mapping, or their settings are not given by name.
    """
    changes = options_of(options, ("settings", *known), EXAMPLE, WORLD).get("settings", {})
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise ServingError(f"the option settings is {changes!r}; give settings by name, e.g. {EXAMPLE}")
    return dict(changes)


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


def final_info(state: State) -> dict[str, Any]:
    """What the info of an episode's last step says beyond the mask, without the seed (it fits no int64)."""
    result = report(state)
    shown = {name: value for name, value in result.to_json().items() if name != "seed"}
    return {"score": result.score, "crashed": state.crashed, "report": shown}
