"""One record, read field by field: the checks that all trace formats share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.traces.errors import Place, TraceError

LARGEST = 2**63 - 1  # block ids and counts must fit a signed 64-bit column; no value is ever cut
LONGEST_S = 1e10  # about 300 years: absolute times pass, times in a wrong unit do not
MISSING = object()


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object or a row of a table; each value is checked when it is taken.

    Raises:
        TraceError: every method, for a bad value, with the file, the line and the field
            (`requests[3].in`).
    """

    record: dict[str, Any]
    place: Place
    prefix: str = ""

    def error(self, name: str, problem: str, remedy: str) -> TraceError:
        """The error for one field of this record."""
        return self.place.error(problem, remedy, field=self.prefix + name)

    def take(self, name: str, default: Any = MISSING) -> Any:
        """The value, unchecked. Without a default, a missing field is an error."""
        value = self.record.get(name, default)
        if value is MISSING:
            known = ", ".join(sorted(map(str, self.record))[:12]) or "none"
            raise self.error(
                name, f"the field is missing (found: {known})", "restore it, or check the format"
            )
        return value

    def whole(self, name: str, *, least: int = 0, most: int = LARGEST, default: Any = MISSING) -> Any:
        """An integer in [least, most]. A boolean, a fraction or a string of digits is none."""
        value = self.take(name, default)
        return value if value is default else check_whole(self, name, value, least, most)

    def seconds(self, name: str, *, most: float = LONGEST_S, default: Any = MISSING) -> Any:
        """A finite number of seconds in [0, most], as a float."""
        value = self.take(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(name, f"expected a number, got {shown(value)}", "write it as a JSON number")
        if not 0 <= value <= most:  # also refuses NaN
            raise self.error(
                name, f"got {shown(value)}, must be from 0 to {most:g} s", "correct it, or its unit"
            )
        return float(value)

    def text(self, name: str, *, default: Any = MISSING) -> Any:
        """A string."""
        value = self.take(name, default)
        if value is not default and not isinstance(value, str):
            raise self.error(name, f"expected a string, got {shown(value)}", "write it in double quotes")
        return value

    def flag(self, name: str) -> bool:
        """true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self.error(name, f"expected true or false, got {shown(value)}", "write true or false")
        return value

    def items(self, name: str) -> list[Any]:
        """A list; its items are not checked."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.error(name, f"expected a list, got {shown(value)}", "write it as a JSON list")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self.items(name)
        for at, value in enumerate(values):
            if not isinstance(value, str):
                raise self.error(
                    f"{name}[{at}]", f"expected a string, got {shown(value)}", "write it in double quotes"
                )
        return tuple(values)

    def wholes(self, name: str, *, most: int = LARGEST) -> tuple[int, ...]:
        """A list of integers in [0, most]."""
        return tuple(
            check_whole(self, f"{name}[{at}]", value, 0, most) for at, value in enumerate(self.items(name))
        )

    def inner(self, name: str, at: int, value: Any) -> Fields:
        """The record at item `at` of the list `name`."""
        if not isinstance(value, dict):
            raise self.error(
                f"{name}[{at}]", f"expected an object, got {shown(value)}", "write it as a JSON object"
            )
        return Fields(value, self.place, f"{self.prefix}{name}[{at}].")


def check_whole(fields: Fields, name: str, value: Any, least: int, most: int) -> int:
    """The value if it is an integer in [least, most], else TraceError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise fields.error(name, f"expected an integer, got {shown(value)}", "write it as a JSON integer")
    if not least <= value <= most:
        wide = f" ({value.bit_length()} bits)" if value > LARGEST else ""
        raise fields.error(
            name, f"got {shown(value)}{wide}, must be from {least} to {most}", "correct the value"
        )
    return value


def json_fields(place: Place, text: str) -> Fields:
    """The JSON object on a line.

    Raises:
        TraceError: the line is not JSON, is cut off, or holds no object.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or "Unterminated" in error.msg
        problem = "the line is cut off" if cut else "the line is not JSON"
        raise place.error(
            f"{problem} ({error.msg} at column {error.colno})", "restore or delete this line"
        ) from None
    except (ValueError, RecursionError) as error:  # thousands of digits, or too deep brackets
        raise place.error(f"the line cannot be read ({error})", "restore or delete this line") from None
    if not isinstance(value, dict):
        raise place.error(f"expected a JSON object, got {shown(value)}", "give one JSON object a line")
    return Fields(value, place)


def shown(value: Any) -> str:
    """The value as an error message quotes it: at most 40 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
