"""What every single environment does alike: its masks, and how it is drawn."""

from typing import Any

import gymnasium
import numpy as np

from kv_cache_rl.gym import picture
from kv_cache_rl.gym.requests import HUMAN, PIXELS, TEXT, offered


class Face(gymnasium.Env[np.ndarray, np.int64]):
    """An environment with numbered actions, of which a mask says which are not refused.

    Everything belongs to the instance: it can be pickled and deep-copied in the middle of an episode.
    """

    metadata = {"render_modes": [HUMAN, TEXT, PIXELS], "render_fps": 10}  # noqa: RUF012

    _observed: np.ndarray
    """float32"""
    _mask: np.ndarray
    """int8 ``[actions]``"""
    _last: tuple[int, float] | None
    """The latest action and its reward"""

    def _drawn_as(self, mode: Any) -> None:
        """Sets how it is drawn; a mode that is not offered gives a warning, and nothing is drawn."""
        self.render_mode = offered(mode, self.metadata["render_modes"])

    def action_masks(self) -> np.ndarray:
        """Which actions are not refused now, bool: what sb3-contrib's MaskablePPO asks for."""
        return self._mask.astype(bool)

    def render(self) -> str | np.ndarray | None:  # pyrefly: ignore[bad-override]
        """How it stands: text (``ansi``), an image (``rgb_array``), or None."""
        if self.render_mode == PIXELS:
            return picture.image(self._panel())
        return picture.text(self._panel()) if self.render_mode == TEXT else None

    def _print(self) -> None:
        """To the terminal, where that is the mode."""
        if self.render_mode == HUMAN:
            print(picture.text(self._panel()), flush=True)

    def _panel(self) -> picture.Panel | None:
        """What is drawn, None before the first episode."""
        raise NotImplementedError
