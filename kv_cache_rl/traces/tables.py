"""Rows of tables of comma-separated values, as they are after a round through pandas, R or Excel.

Names of columns are compared without case, spaces, dots and underscores. Cells may be separated by
commas, semicolons, tabs or bars; numbers may be 1506.0 or 5e-06, and 5,5 where cells are not
separated by commas."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

from kv_cache_rl.traces.errors import Place
from kv_cache_rl.traces.fields import LARGEST, MISSING, Fields, shown
from kv_cache_rl.traces.lines import Line
from kv_cache_rl.traces.reading import Reading

SEPARATORS = ",;\t|"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[1-9]\d{0,2}(\.000)+")
"""A whole number with three zeros behind a point, which in much of the world separates thousands."""
STAMP = re.compile(
    r"(?:(?P<year>\d{4})[-/](?P<month>\d\d?)[-/](?P<day>\d\d?)"
    r"|(?P<us_month>\d\d?)/(?P<us_day>\d\d?)/(?P<us_year>\d{4}))"
    r"[ T]+(?P<hour>\d\d?):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<half>[AaPp])[Mm])?(?: ?(?:(?P<sign>[+-])(?P<off_h>\d\d):?(?P<off_m>\d\d)?|Z|UTC))?"
)
EXCEL_1970 = 25_569
"""1 January 1970 in Excel's days, which begin on 30 December 1899."""
LOOKED_AT = 1_000
"""Rows that are looked at, at most, for how a table writes its moments."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NOTHING = ("", "nan", "none", "null", "na", "n/a", "<na>")
"""What stands in a cell that holds nothing."""


def cells_of(place: Place, text: str, separator: str = ",") -> list[str]:
    """The cells of one line."""
    try:
        return [cell.strip() for cell in next(csv.reader([text], delimiter=separator, strict=True))]
    except csv.Error as error:
        raise place.error(f"the row cannot be read ({error})", "restore or delete this line") from None


def separator_of(text: str) -> str:
    """What separates the cells of a header: of the usual characters the one that stands in it most
    often.
    """
    return max(SEPARATORS, key=text.count)


def no_header(text: str) -> bool:
    """Whether a line before a table is a comment, or what Excel says about separators."""
    return text.startswith(("#", "sep="))


def column_key(name: str) -> str:
    """A column's name as it is compared."""
    return re.sub(r"[\s._#]+", "", name).lower()


def header_keys(place: Place, text: str) -> set[str]:
    """The columns that a header names, as they are compared."""
    return {column_key(cell) for cell in cells_of(place, text, separator_of(text))}


@dataclass(slots=True)
class Clock:
    """How a table writes its moments, as far as its cells tell."""

    excel_days: bool = False
    """Numbers are days as Excel counts them."""
    first_slashed: str = ""
    """The first date with slashes and the year behind."""
    month_first: bool = False
    """One of those has a day over 12, and so the month before it."""

    def saw(self, match: re.Match) -> None:
        """Takes in a moment that was read."""
        if match["us_month"]:
            self.first_slashed = self.first_slashed or match[0].split()[0]
            self.month_first = self.month_first or int(match["us_day"]) > 12

    @property
    def notes(self) -> list[str]:
        """What was assumed, in sentences."""
        found = []
        if self.first_slashed and not self.month_first:
            found.append(
                f"dates such as {self.first_slashed} are read as month/day/year, and no date of the file "
                "tells: if the day is first, write them as 2023-11-16"
            )
        if self.excel_days:
            found.append(
                "its times are read as days, as Excel counts them: give --time-unit s if they are not"
            )
        return found


def clock_of(rows: Iterator[Row], name: str, reading: Reading) -> tuple[Clock, Iterator[Row]]:
    """The clock of a table, told from the first of its moments that is no whole number, and its rows."""
    held: list[Row] = []
    for row in rows:
        held.append(row)
        value = decimal_of(row.cell(name, ""))
        days = value is not None and _excel_day(value) and reading.time_unit is None
        if not days or value != int(value) or len(held) > LOOKED_AT:
            return Clock(excel_days=days and value != int(value)), chain(held, rows)
    return Clock(), iter(held)


class Row(Fields):
    """A row of a table: its columns by the names a format gives them, its cells read as the tables
    above write them. Every method raises TraceError with the file, the line and the column of a bad
    cell."""

    def cell(self, name: str, default: Any = None) -> Any:
        """The text of a cell; the default where the column is missing or the cell holds nothing."""
        text = self.record.get(name, "")
        return default if text.lower() in NOTHING else text

    def real(self, name: str, *, default: Any = None) -> Any:
        """A finite number of any sign; the default where there is none."""
        text = self.cell(name, None)
        if text is None:
            return default
        value = decimal_of(text.replace(",", ".") if text.count(",") == 1 else text)
        if value is None:
            raise self.error(name, f"expected a number, got {shown(text)}", "correct the cell")
        return value

    def number_or_none(self, name: str) -> float | None:
        """A number;

        None where the cell holds none, whatever else it holds: for columns that nothing depends on.
        """
        text = self.cell(name, "")
        value = decimal_of(text)
        return None if value is None else float(value)

    def whole(self, name: str, *, least: int = 0, most: int = LARGEST, default: Any = MISSING) -> Any:
        """An integer in [least, most]."""
        text = self.cell(name, "")
        if not text and default is not MISSING:
            return default
        value = decimal_of(text)
        if THOUSANDS.fullmatch(text):
            problem = f"{shown(text)} may be {text.split('.')[0]} or {text.replace('.', '')}"
            raise self.error(name, problem, "write whole numbers without a point")
        if value is None or not least <= value <= most or value != int(value):
            problem = f"expected a whole number from {least} to {most}, got {shown(text)}"
            raise self.error(name, problem, "correct the cell")
        return int(value)

    def seconds_in(self, name: str, reading: Reading) -> float:
        """A time that is not negative, in seconds."""
        value = self.real(name)
        if value is None or value < 0 or value > LARGEST:
            text = self.cell(name, "")
            raise self.error(name, f"expected seconds, not negative, got {shown(text)}", "correct the cell")
        return reading.seconds(float(value), "s")

    def nanoseconds(self, name: str, reading: Reading, clock: Clock | None = None) -> int:
        """A moment since 1970 (UTC): a date and time, or a number in a unit that its size tells.

        Dates with slashes are month/day/year, as Excel writes them in the United States, where most
        of these tables come from, and year/month/day.

        Args:
            clock: how the table writes its moments; it learns from this one."""
        text, clock = self.cell(name, ""), clock or Clock()
        value = decimal_of(text)
        if value is not None and clock.excel_days and _excel_day(value):
            return int((value - EXCEL_1970) * 86_400 * 10**9)
        if value is not None and 0 <= value < Decimal(2) ** 63:
            unit = reading.time_unit or next(unit for unit, most in EPOCH_UNITS.items() if value < most)
            return int(value * NANOSECONDS[unit])
        match = STAMP.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            moment = _moment(match)
        except ValueError:
            remedy = "write it as 2023-11-16 18:17:03.9799600"
            if match is not None and match["us_month"] and 12 < int(match["us_month"]) < 32:
                remedy = f"dates are read as month/day/year, is its day first? {remedy}"
            raise self.error(name, f"expected a date and time, got {shown(text)}", remedy) from None
        if reading.time_unit is not None:
            raise self.error(name, f"{shown(text)} is a date, which has no unit", "leave out --time-unit")
        clock.saw(match)
        return moment


def decimal_of(text: str) -> Decimal | None:
    """The number that a text writes, one nearer to 0 than every float as the float nearest to 0; None
    where it writes none, or one beyond every float: no exponent is worth more digits than these.
    """
    if not (match := NUMBER.fullmatch(text)) or not math.isfinite(float(text)):
        return None
    if float(text) or not any(map(int, re.findall(r"\d", match[1]))):
        return Decimal(text) if float(text) else Decimal(0)
    return Decimal(math.copysign(math.ulp(0.0), float(text)))


NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
EPOCH_UNITS = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 2**63}
"""Unit → what a number since 1970 in it stays below (for seconds: the year 5138)."""


def _excel_day(value: Decimal) -> bool:
    """Whether a number can be a moment as Excel counts days: of the years 1954 to 2119."""
    return 20_000 <= value < 80_000


def _moment(match: re.Match) -> int:
    part = match.groupdict()
    year, month, day = (int(part[name] or part[f"us_{name}"]) for name in ("year", "month", "day"))
    hour = int(part["hour"])
    if part["half"]:
        hour = hour % 12 + (12 if part["half"] in "Pp" else 0)
    moment = datetime(year, month, day, hour, int(part["minute"]), int(part["second"] or 0), tzinfo=UTC)
    offset = int(part["off_h"] or 0) * 3600 + int(part["off_m"] or 0) * 60
    seconds = (moment - EPOCH) // timedelta(seconds=1) - (offset if part["sign"] == "+" else -offset)
    return seconds * 10**9 + int((part["fraction"] or "").ljust(9, "0"))


def rows(lines: Iterable[Line], needed: tuple[str, ...], also: tuple[str, ...] = ()) -> Iterator[Row]:
    """The rows of a table under its header, by the names in `needed` and `also` (other columns are
    dropped).

    Raises:
        TraceError: a needed column is missing, a column stands twice, a row has more or fewer cells,
            or there are no rows.
    """
    names: list[str | None] = []
    separator, found = ",", 0
    wanted = {column_key(name): name for name in (*needed, *also)}
    place = Place("")
    for place, text in lines:
        if not names:
            separator = separator_of(text)
            names = [wanted.get(column_key(cell)) for cell in cells_of(place, text, separator)]
            if no_header(text) and not set(needed) <= set(names):
                names = []
                continue
            if missing := [name for name in needed if name not in names]:
                raise place.error(
                    "the column is missing from the header", f"expected {', '.join(needed)}", missing[0]
                )
            if twice := [name for name in names if name and names.count(name) > 1]:
                raise place.error("the column stands twice in the header", "rename one of them", twice[0])
            continue
        cells = cells_of(place, text, separator)
        if not any(cells):  # Excel writes the empty rows below a table
            continue
        if len(cells) != len(names):
            problem = f"{len(cells)} cells under {len(names)} columns (cut off?)"
            raise place.error(problem, "restore or delete this line")
        found += 1
        yield Row({name: cell for name, cell in zip(names, cells, strict=True) if name}, place)
    if not found:
        raise Place(place.path).error("the table has a header and no rows", "give at least one request")
