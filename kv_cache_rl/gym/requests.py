"""What a caller asks of a batch, checked: an autoreset mode, seeds, actions, which servers to reset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from kv_cache_rl.gym.single import SEEDS, checked_seed
from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.spec import ServingError

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
"""Method of a server that its batch has instead, and the remedy."""


def mode_of(mode: Any) -> AutoresetMode:
    """An autoreset mode, given as itself or by its name or value, such as `SAME_STEP` or `SameStep`.

    Raises:
        ServingError: there is no such mode.
    """
    if isinstance(mode, AutoresetMode):
        return mode
    if not isinstance(mode, str) or mode not in MODES:
        known = ", ".join(repr(one.value) for one in AutoresetMode)
        raise ServingError(
            f"autoreset_mode is {mode!r}; use one of {known}, or a gymnasium.vector.AutoresetMode"
        )
    return MODES[mode]


def seeds_of(seed: Any, count: int) -> list[int | None]:
    """A seed for each server: one number gives seed, seed + 1, ..., which go round at 2**64.

    Raises:
        ServingError: a seed out of range, or a list of another length.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, (list, tuple, np.ndarray)):
        if len(seed) != count:
            raise ServingError(f"{len(seed)} seeds for {count} servers; give one number, or one for each")
        return [checked_seed(one) for one in seed]
    first = checked_seed(seed)
    assert first is not None
    return [(first + k) % SEEDS for k in range(count)]


def checked_mask(options: Mapping[str, Any] | None, count: int) -> np.ndarray | None:
    """Which servers the option `reset_mask` names, bool ``[count]``; None where it is not given.

    Raises:
        ServingError: it is no bool array of that length, or names no server.
    """
    if not isinstance(options, Mapping) or options.get(RESET_MASK) is None:
        return None
    given = options[RESET_MASK]
    try:
        mask = np.asarray(given)
    except ValueError:  # rows of different lengths
        mask = np.asarray(None)
    if mask.dtype != np.bool_ or mask.shape != (count,):
        wanted = f"give a bool array of length {count}, True for the servers to reset"
        raise ServingError(f"reset_mask is {given!r}; {wanted}")
    if not mask.any():
        raise ServingError("reset_mask names no server; set one of it to True, or do not reset")
    return mask


def checked_actions(actions: Any, count: int) -> np.ndarray:
    """An action for each server, int64 ``[count]``.

    Raises:
        ServingError: they are not one whole number from 0 to 17 for each.
    """
    try:
        numbers = np.asarray(actions)
    except ValueError:  # lists of several lengths
        numbers = np.asarray(actions, dtype=object)
    if numbers.shape != (count,) or numbers.dtype.kind not in "iuf":
        raise ServingError(
            f"actions have shape {numbers.shape} and type {numbers.dtype}; "
            f"give {count} whole numbers from 0 to {len(ACTIONS) - 1}"
        )
    # NaN is not below the limit either.
    good = (numbers >= 0) & (numbers < len(ACTIONS)) & (numbers == np.trunc(numbers))
    if not good.all():
        worst = numbers[~good][0].item()
        raise ServingError(f"action is {worst}; give a whole number from 0 to {len(ACTIONS) - 1}")
    return numbers.astype(np.int64, copy=False)


def per_server(values: Any, count: int) -> list[Any]:
    """A value for each server: a list or tuple gives one to each, anything else the same to all.

    Raises:
        ServingError: the list has another length.
    """
    if not isinstance(values, (list, tuple)):
        return [values] * count
    if len(values) != count:
        raise ServingError(
            f"{len(values)} values for {count} servers; give one for all, or a list of {count}"
        )
    return list(values)
