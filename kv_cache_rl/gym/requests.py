"""What a caller asks of an environment or a batch, checked: seeds, modes, actions, what to reset."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from kv_cache_rl.core.errors import Refused

HUMAN, TEXT, PIXELS = "human", "ansi", "rgb_array"
"""Modes of rendering: printed to the terminal at each step, given as text, given as an image."""
SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class World:
    """What is said of one world's environments where a request cannot be met."""

    noun: str
    """What one environment is, such as a server."""
    error: type[Refused]
    actions: int
    scenario: type
    make: str
    """How a scenario is made, as an example."""

    @property
    def numbers(self) -> str:
        return f"from 0 to {self.actions - 1}"


RESET_MASK = "reset_mask"
MODES = {word: mode for mode in AutoresetMode for word in (mode.name, mode.value)}
"""Name and value of every mode, which are the words it may be given as."""
OF_THE_BATCH = {
    "reset": "reset the batch, some of it with options={'reset_mask': mask}",
    "resume": "give the batch's resume a state for each",
    "step": "step the batch",
    "close": "close the batch",
    "set_wrapper_attr": "use set_attr",
}
"""Method of an environment that its batch has instead, and the remedy."""


def warn(text: str) -> None:
    """Warns as Gymnasium does."""
    gymnasium.logger.warn("%s", text, stacklevel=4)


def offered(mode: Any, modes: list[str]) -> str | None:
    """The render mode, or None where it is not one of these, with a warning: tools ask for one by default."""
    if mode is None or mode in modes:
        return mode
    warn(f"render_mode is {mode!r}, which is not offered: nothing is drawn; use one of {', '.join(modes)}")
    return None


def options_of(options: Any, known: tuple[str, ...], example: str, world: World) -> Mapping[str, Any]:
    """The options of a reset; those that are not `known` give a warning.

    Wrappers and tools pass on what is meant for another environment.

    Raises:
        Refused: they are no mapping.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise world.error(f"options are {options!r}; give {example}, or None")
    for unknown in [key for key in options if key not in known]:
        warn(f"the option {unknown!r} is not known here and changes nothing; give {example}")
    return options


def checked_seed(seed: Any, world: World) -> int | None:
    """The seed as Python's own integer, or None.

    Raises:
        Refused: it is no integer from 0 to 2**64 - 1.
    """
    try:
        number = None if seed is None else operator.index(seed)
    except TypeError:
        number = -1
    if number is not None and not 0 <= number < SEEDS:
        raise world.error(f"seed is {seed!r}; give a whole number from 0 to 2**64 - 1")
    return number


def next_seed(stream: np.random.Generator) -> int:
    """Seed of the next episode of an environment that is reset without one."""
    return int(stream.integers(0, 1 << 63))


def mode_of(mode: Any, world: World) -> AutoresetMode:
    """An autoreset mode, given as itself or by its name or value, such as `SAME_STEP` or `SameStep`.

    Raises:
        Refused: there is no such mode.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in MODES:
        known = ", ".join(repr(one.value) for one in AutoresetMode)
        raise world.error(
            f"autoreset_mode is {mode!r}; use one of {known}, or a gymnasium.vector.AutoresetMode"
        )
    return MODES[mode]


def seeds_of(seed: Any, count: int, world: World) -> list[int | None]:
    """A seed for each environment: one number gives seed, seed + 1, ..., which go round at 2**64.

    Raises:
        Refused: a seed out of range, or a list of another length.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, (list, tuple, np.ndarray)):
        if len(seed) != count:
            have = f"{len(seed)} seeds for {count} {world.noun}s"
            raise world.error(f"{have}; give one number, or one for each")
        return [checked_seed(one, world) for one in seed]
    first = checked_seed(seed, world)
    assert first is not None
    return [(first + k) % SEEDS for k in range(count)]


def checked_mask(options: Mapping[str, Any] | None, count: int, world: World) -> np.ndarray | None:
    """Which environments the option `reset_mask` names, bool ``[count]``; None where it is not given.

    Raises:
        Refused: it is no bool array of that length, or names none.
    """
    if not isinstance(options, Mapping) or options.get(RESET_MASK) is None:
        return None
    given = options[RESET_MASK]
    try:
        mask = np.asarray(given)
    except ValueError:  # rows of different lengths
        mask = np.asarray(None)
    if mask.dtype != np.bool_ or mask.shape != (count,):
        wanted = f"give a bool array of length {count}, True for the {world.noun}s to reset"
        raise world.error(f"reset_mask is {given!r}; {wanted}")
    if not mask.any():
        raise world.error(f"reset_mask names no {world.noun}; set one of it to True, or do not reset")
    return mask


def checked_actions(actions: Any, count: int, world: World) -> np.ndarray:
    """An action for each environment, int64 ``[count]``.

    Raises:
        Refused: they are not one whole number in range for each.
    """
    try:
        numbers = np.asarray(actions)
    except ValueError:  # lists of several lengths
        numbers = np.asarray(actions, dtype=object)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iuf":
        raise world.error(
            f"actions have shape {numbers.shape} and type {numbers.dtype}; "
            f"give {count} whole numbers {world.numbers}"
        )
    # NaN is not below the limit either.
    good = (numbers >= 0) & (numbers < world.actions)
    if numbers.dtype.kind == "f":
        good &= numbers == np.trunc(numbers)
    if not good.all():
        worst = numbers[~good][0].item()
        raise world.error(f"action is {worst}; give a whole number {world.numbers}")
    return numbers.astype(np.int64, copy=False)


def per_environment(values: Any, count: int, world: World) -> list[Any]:
    """A value for each environment: a list or tuple gives one to each, anything else the same to all.

    Raises:
        Refused: the list has another length.
    """
    if not isinstance(values, (list, tuple)):
        return [values] * count
    if len(values) != count:
        raise world.error(
            f"{len(values)} values for {count} {world.noun}s; give one for all, or a list of {count}"
        )
    return list(values)
