"""Inline SVG, piece by piece: scales, axes, marks.

Colours come from the style sheet, so it fits light and dark.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape


def number(value: float) -> str:
    """A coordinate with at most one decimal, to keep the page small."""
    return f"{value:.1f}".removesuffix(".0")


def tag(name: str, body: str = "", **attributes: object) -> str:
    """An element; ``klass`` becomes class, underscores become hyphens, floats are shortened."""
    parts = []
    for key, value in attributes.items():
        text = number(value) if isinstance(value, float) else escape(str(value), quote=True)
        parts.append(f' {"class" if key == "klass" else key.replace("_", "-")}="{text}"')
    return f"<{name}{''.join(parts)}>{body}</{name}>" if body else f"<{name}{''.join(parts)}/>"


def hint(text: str) -> str:
    """What the pointer shows over a mark."""
    return f"<title>{escape(text)}</title>" if text else ""


def label(x: float, y: float, text: str, klass: str = "tick", anchor: str = "middle") -> str:
    return tag("text", escape(text), x=x, y=y, klass=klass, text_anchor=anchor)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round values that lie in [low, high].

    >>> nice_ticks(0, 10)
    [0, 2.5, 5.0, 7.5, 10.0]
    """
    span = high - low
    if span <= 0:
        return [low]
    magnitude = 1.0
    while magnitude * 10 <= span / count:
        magnitude *= 10
    while magnitude > span / count:
        magnitude /= 10
    step = next(
        magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= span / count * 0.99
    )
    first = int(low / step) - 1
    ticks = (index * step for index in range(first, first + 4 * count + 8))
    return [round(tick, 10) if tick else 0 for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]


@dataclass(frozen=True, slots=True)
class Frame:
    """The plotting area of a chart over windows 1..steps: pixel box and value range."""

    width: float
    height: float
    low: float
    high: float
    steps: int
    left: float = 46
    right: float = 10
    top: float = 8
    bottom: float = 30

    def x(self, step: float) -> float:
        """The middle of a window's column, windows counted from 0."""
        return self.left + (step + 0.5) * self.column

    @property
    def column(self) -> float:
        return (self.width - self.left - self.right) / self.steps

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return self.top + (1 - share) * (self.height - self.top - self.bottom)

    def axes(self, unit: str, form: str = "{:g}", ticks: Sequence[float] | None = None) -> str:
        """Grid lines with values on the left, window numbers below, and what the values are."""
        parts = []
        for tick in nice_ticks(self.low, self.high) if ticks is None else ticks:
            y = self.y(tick)
            parts.append(tag("line", x1=self.left, x2=self.width - self.right, y1=y, y2=y, klass="grid"))
            parts.append(label(self.left - 6, y + 3.5, form.format(tick), anchor="end"))
        parts.append(self.windows())
        middle = (self.top + self.height - self.bottom) / 2
        turn = f"rotate(-90 11 {number(middle)})"
        parts.append(
            tag("text", escape(unit), x=11, y=middle, klass="unit", text_anchor="middle", transform=turn)
        )
        return "".join(parts)

    def windows(self) -> str:
        """Window numbers under the plot."""
        y = self.height - self.bottom + 14
        ticks = (label(self.x(step), y, str(step + 1)) for step in range(self.steps))
        title = label((self.left + self.width - self.right) / 2, self.height - 3, "window", "unit")
        return "".join(ticks) + title

    def bar(
        self, step: int, base: float, value: float, klass: str, title: str = "", inset: float = 0.14
    ) -> str:
        """A column from base to base + value."""
        top, bottom = self.y(base + value), self.y(base)
        x, width = self.x(step) - self.column * (0.5 - inset), self.column * (1 - 2 * inset)
        return tag("rect", hint(title), x=x, y=top, width=width, height=max(bottom - top, 0.0), klass=klass)

    def line(self, values: Sequence[float], klass: str) -> str:
        points = " ".join(
            f"{number(self.x(step))},{number(self.y(value))}" for step, value in enumerate(values)
        )
        return tag("polyline", points=points, klass=klass)

    def levels(self, values: Sequence[float], klass: str) -> list[str]:
        """A short rule across each window's column: a count has no slope."""
        half = self.column * 0.44
        return [
            tag(
                "line",
                x1=self.x(step) - half,
                x2=self.x(step) + half,
                y1=self.y(value),
                y2=self.y(value),
                klass=klass,
            )
            for step, value in enumerate(values)
        ]

    def dot(self, step: int, value: float, klass: str, title: str = "", radius: float = 3) -> str:
        return tag("circle", hint(title), cx=self.x(step), cy=self.y(value), r=radius, klass=klass)

    def level(self, value: float, klass: str, text: str = "") -> str:
        """A horizontal line across the plot with its name at the right end."""
        y = self.y(value)
        line = tag("line", x1=self.left, x2=self.width - self.right, y1=y, y2=y, klass=klass)
        return line + (label(self.width - self.right - 2, y - 3, text, "level", "end") if text else "")


def svg(frame: Frame, body: Iterable[str], title: str) -> str:
    """The drawing, scaled to the width of its place, with a name for screen readers."""
    box = f"0 0 {number(frame.width)} {number(frame.height)}"
    return tag("svg", "".join(body), viewBox=box, role="img", aria_label=title)


def scrolling(content: str) -> str:
    """Content that may be wider than the screen, in a box that scrolls sideways and shows that it does."""
    return f'<div class="scroll"><div>{content}</div></div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Swatches (style class, name) in one line."""
    items = "".join(f'<span><i class="swatch {klass}"></i>{escape(name)}</span>' for klass, name in entries)
    return f'<div class="legend">{items}</div>'
