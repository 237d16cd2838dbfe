"""How the tasks are known to Gymnasium."""

from typing import Any

from gymnasium.envs.registration import VectorizeMode

OURS = (None, VectorizeMode.VECTOR_ENTRY_POINT, VectorizeMode.VECTOR_ENTRY_POINT.value)
"""What `make_vec` is asked for where the compiled batch is meant."""


class Settings(dict):
    """Settings of a registered environment, which take in the `vector_kwargs` of `gymnasium.make_vec`.

    Gymnasium gives these to its own vector environments, for which they hold the autoreset mode, and refuses
    them beside a batch such as ours: there they have to be given as settings. `make_vec` pops both from this
    dict before it looks at them, so the same call works for all three.
    """

    mode: Any = None

    def pop(self, name: str, *default: Any) -> Any:
        value = super().pop(name, *default)
        if name == "vectorization_mode":
            self.mode = value
        if name == "vector_kwargs" and self.mode in OURS and isinstance(value, dict):
            self.update(value)
            return {}
        return value
