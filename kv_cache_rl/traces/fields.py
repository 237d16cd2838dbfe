"""Reading one record field by field: the checks every trace format shares."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from kv_cache_rl.core.numbers import unread
from kv_cache_rl.traces.errors import CONVERT, Place, TraceError

LARGEST = 2**63 - 1  # block ids and counts must fit a signed 64-bit column; nothing is ever cut
MOST_TOKENS = 10**9  # of a prompt or an answer: one number must not stand for blocks that no memory holds
LONGEST_S = 1e10  # about 300 years: absolute times pass, times in the wrong unit do not
MISSING = object()
ROWS = 'write one JSON object a line (pandas: to_json(FILE, orient="records", lines=True))'
"""The remedy for columns in one object where records are lines."""
FROM_TABLE = f"{ROWS}; where a column holds lists, read them first: df[NAME] = df[NAME].map(json.loads)"
"""The remedy for a table where records are JSON."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object, or a row of a table, whose values are checked as they are taken.

    Every method raises TraceError with the file, the line and the field (`requests[3].in`) of a bad
    value."""

    record: dict[str, Any]
    place: Place
    prefix: str = ""

    def error(self, name: str, problem: str, remedy: str) -> TraceError:
        """The error for one field of this record."""
        return self.place.error(problem, remedy, field=self.prefix + name)

    def unlike(self, kind: str, name: str, value: Any) -> TraceError:
        """The error for a field that is no number, or no integer."""
        remedy = ROWS if isinstance(value, list | dict) else f"write it as a JSON {kind.split()[1]}"
        return self.error(name, f"expected {kind}, got {shown(value)}", remedy)

    def take(self, name: str, default: Any = MISSING) -> Any:
        """The value as it stands; a field that is missing or null is the default, without one an
        error.
        """
        value = self.record.get(name, default)
        if value is None and default is not MISSING:
            return default
        if value is MISSING:
            known = ", ".join(sorted(map(str, self.record))[:12]) or "none"
            raise self.error(
                name, f"the field is missing (found: {known})", "restore it, or check the format"
            )
        return value

    def whole(self, name: str, *, least: int = 0, most: int = LARGEST, default: Any = MISSING) -> Any:
        """An integer in [least, most]; a boolean, a fraction or a digit string is not one."""
        value = self.take(name, default)
        return value if value is default else check_whole(self, name, value, least, most)

    def tokens(self, name: str, *, default: Any = MISSING) -> Any:
        """The length of a prompt or an answer."""
        return self.whole(name, most=MOST_TOKENS, default=default)

    def number(self, name: str, *, most: float = LARGEST, unit: str = "", default: Any = MISSING) -> Any:
        """A finite number in [0, most], an integer where it is written as one;

        `unit` is for the error.
        """
        value = self.take(name, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.unlike("a number", name, value)
        if not 0 <= value <= most:  # also refuses NaN
            raise self.error(
                name,
                f"got {shown(value)}, must be from 0 to {most:g}{unit}",
                f"correct it, or its unit (--time-unit {CONVERT})",
            )
        return value

    def seconds(self, name: str, *, most: float = LONGEST_S, default: Any = MISSING) -> Any:
        """A finite number of seconds in [0, most], as a float."""
        value = self.number(name, most=most, unit=" s", default=default)
        return value if value is default else float(value)

    def text(self, name: str, *, default: Any = MISSING) -> Any:
        """A string."""
        value = self.take(name, default)
        if value is not default and not isinstance(value, str):
            raise self.error(name, f"expected a string, got {shown(value)}", "write it in double quotes")
        return value

    def flag(self, name: str, *, default: Any = MISSING) -> Any:
        """true or false."""
        value = self.take(name, default)
        if value is not default and not isinstance(value, bool):
            raise self.error(name, f"expected true or false, got {shown(value)}", "write true or false")
        return value

    def items(self, name: str) -> list[Any]:
        """A list, its items unchecked."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self.error(name, f"expected a list, got {shown(value)}", "write it as a JSON list")
        return value

    def texts(self, name: str, *, default: Any = MISSING) -> tuple[str, ...]:
        """A list of strings."""
        if self.take(name, default) is default:
            return default
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
        """The record that is item `at` of the list `name`."""
        if not isinstance(value, dict):
            raise self.error(
                f"{name}[{at}]", f"expected an object, got {shown(value)}", "write it as a JSON object"
            )
        return Fields(value, self.place, f"{self.prefix}{name}[{at}].")


def check_whole(fields: Fields, name: str, value: Any, least: int, most: int) -> int:
    """The value if it is an integer in [least, most], also where it is written as 1506.0."""
    if isinstance(value, float) and value.is_integer():  # false of NaN and infinity
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise fields.unlike("an integer", name, value)
    if not least <= value <= most:
        wide = f" ({value.bit_length()} bits)" if value > LARGEST else ""
        raise fields.error(
            name, f"got {shown(value)}{wide}, must be from {least} to {most}", "correct the value"
        )
    return value


def pair_of(fields: Fields, name: str, value: Any, most: int) -> tuple[int, int]:
    """First id and length of a run of blocks, which is written as two integers."""
    if not isinstance(value, list) or len(value) != 2:
        raise fields.error(
            name, f"expected [first id, length], got {shown(value)}", "write runs as two integers"
        )
    first = check_whole(fields, f"{name}[0]", value[0], 0, most)
    return first, check_whole(fields, f"{name}[1]", value[1], 1, LARGEST)


def json_fields(place: Place, text: str) -> Fields:
    """The JSON object on a line (a comma behind it does no harm), or on several lines from there
    on.

    Raises TraceError if the line is not JSON, is cut off, or is not an object.
    """
    text = text.removesuffix(",") if text.endswith("},") else text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        place = Place(place.path, place.line + error.lineno - 1) if place.line else place
        cut = error.pos >= len(text.rstrip()) or "Unterminated" in error.msg
        problem = "the line is cut off" if cut else "the line is not JSON"
        table = place.line == 1 and not text.startswith(("{", "["))
        raise place.error(
            f"{problem} ({error.msg} at column {error.colno})",
            FROM_TABLE if table else "restore or delete this line",
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested too deep
        raise place.error(
            f"the line cannot be read ({unread(error)})", "restore or delete this line"
        ) from None
    if not isinstance(value, dict):
        raise place.error(f"expected a JSON object, got {shown(value)}", "give one JSON object a line")
    return Fields(value, place)


def shown(value: Any) -> str:
    """The value as an error message quotes it: at most 40 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, float) and math.isinf(value):  # 1e400, or Infinity
        return "a number beyond every float"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
