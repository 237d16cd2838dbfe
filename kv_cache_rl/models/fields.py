"""The fields of a model's configuration: of the kind they should be, and remembered once they were read."""

import re
from collections.abc import Mapping
from typing import Any

from kv_cache_rl.core.errors import Refused
from kv_cache_rl.core.numbers import shown

LARGEST = 2**24
"""No model has more of anything."""


class ModelError(Refused):
    """A model whose cache the lab cannot count; says which field of which file, and what to do."""


class Config:
    """A configuration, or a part of one, with its place in words."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where
        self._read: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether a field is there, and neither null nor an empty list."""
        self._read.add(name)
        return self.values.get(name) not in (None, [])

    def whole(self, name: str, *others: str, default: int | None = None, low: int = 1) -> int:
        """A whole number, under the first of these names that is there.

        Raises:
            ModelError: none is there and there is no default, or it is no number from `low` on.
        """
        for spelling in (name, *others):
            if self.has(spelling):
                value = self.values[spelling]
                if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= LARGEST:
                    raise self.wrong(spelling, f"a whole number from {low} to {LARGEST:,}")
                return value
        if default is None:
            raise self.missing(name)
        return default

    def text(self, name: str) -> str:
        """A text; "" where there is none."""
        return self._of(name, str, "a text") or ""

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self._of(name, bool, "true or false")
        return default if value is None else value

    def part(self, name: str) -> "Config":
        """An object inside; an empty one where there is none."""
        return Config(self._of(name, dict, "an object") or {}, f"{self.where}: {name}")

    def sequence(self, name: str, kind: type, what: str) -> list[Any]:
        """A list of values of a kind.

        Raises:
            ModelError: it is not there, or holds something else.
        """
        found = self._of(name, list, f"a list of {what}")
        if found is None:
            raise self.missing(name)
        if not all(isinstance(one, kind) for one in found):
            raise self.wrong(name, f"a list of {what}")
        return found

    def per_layer(self, name: str, kind: type, what: str, layers: int) -> list[Any]:
        """A list with an entry for each layer; what follows those is of layers that only draft.

        Raises:
            ModelError: it is shorter.
        """
        found = self.sequence(name, kind, what)
        if len(found) < layers:
            raise ModelError(
                f"{self.where}: {name} has {len(found)} entries for {layers} layers; "
                "correct it, or num_hidden_layers"
            )
        return found[:layers]

    def missing(self, name: str) -> ModelError:
        """The error for a field that is not there."""
        return ModelError(
            f"{self.where} has no {name!r}; add it as the model's maker publishes it, or give another model"
        )

    def wrong(self, name: str, wanted: str) -> ModelError:
        """The error for a field with a value that it cannot have."""
        value = shown(self.values[name])
        return ModelError(f"{self.where}: {name} is {value}, expected {wanted}; correct it")

    def note(self, *names: str) -> None:
        """Marks these fields as read."""
        self._read.update(names)

    def settle(self, *prefixes: str) -> None:
        """Marks the fields that begin so as read: a rule that knows them needs no more of them."""
        self._read.update(name for name in self.values if name.startswith(prefixes))

    def unread(self, pattern: re.Pattern) -> list[str]:
        """The fields that say something and that nothing has read, of those whose names fit a pattern."""
        return [
            name
            for name, value in self.values.items()
            if name not in self._read and pattern.search(name) and value not in (None, False, [], {}, 0, "")
        ]

    def _of(self, name: str, kind: type, wanted: str) -> Any:
        if not self.has(name):
            return None
        if not isinstance(self.values[name], kind):
            raise self.wrong(name, wanted)
        return self.values[name]
