"""What an environment looks like: as lines of text, and as an image drawn with NumPy alone."""

from typing import NamedTuple

import numpy as np


class Panel(NamedTuple):
    """What is shown of an environment: a line, bars, a line."""

    heading: str
    gauges: list[tuple[str, float]]
    """Label and share of each bar, at most six"""
    footing: str


BEFORE = "no episode yet; call reset()"
CELLS = 20
"""Characters of a bar in text."""

WIDTH, HEIGHT = 544, 256
BAR = slice(144, 436)
"""Columns of a bar."""
TOP, ROW, THICK = 44, 30, 18
"""Pixels above the first bar, from bar to bar, and of a bar."""
PAPER, INK, TRACK = (255, 255, 255), (33, 37, 41), (225, 229, 234)
LEVELS = ((0.8, (31, 119, 180)), (0.95, (255, 150, 40)), (np.inf, (205, 50, 50)))
"""A bar's colour below a share."""
DOTS = """
25755 65656 34443 65556 74647 74644 34553 55755 72227 11152 55655 44447 57755 65555 25552
65644 25563 65655 34216 72222 55557 55552 55775 55255 55222 71247 75557 26227 71747 71717
55711 74717 74757 71111 75757 75717 00002 00024 02020 51245 02720 00700 00007 11244 12221 42224 02024
"""
GLYPHS: dict[str, str] = dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:%+-_/();",
        DOTS.split(),
        strict=True,
    )
)
"""Capital letters, digits and signs of 3 x 5 dots; each digit is a row, its bits are the dots."""
BLANK = "00000"


def text(panel: Panel | None) -> str:
    """An environment as a few lines."""
    if panel is None:
        return BEFORE
    lines = [panel.heading]
    for label, share in panel.gauges:
        filled = round(CELLS * min(max(share, 0.0), 1.0))
        lines.append(f"{label:<11}{'#' * filled:.<{CELLS}} {100 * share:5.1f} %")
    return "\n".join([*lines, *filter(None, [panel.footing])])


def image(panel: Panel | None) -> np.ndarray:
    """An environment as a picture, uint8 ``[256, 544, 3]``: the lines of `text`, with bars."""
    pixels = np.full((HEIGHT, WIDTH, 3), PAPER, np.uint8)
    if panel is None:
        write(pixels, 12, 12, BEFORE)
        return pixels
    write(pixels, 12, 12, panel.heading)
    for k, (label, share) in enumerate(panel.gauges):
        top = TOP + k * ROW
        write(pixels, top, 12, label, scale=3)
        pixels[top : top + THICK, BAR] = TRACK
        filled = round((BAR.stop - BAR.start) * min(max(share, 0.0), 1.0))
        colour = next(colour for below, colour in LEVELS if share < below)
        pixels[top : top + THICK, BAR.start : BAR.start + filled] = colour
        write(pixels, top, BAR.stop + 8, f"{100 * share:5.1f} %", scale=3)
    write(pixels, TOP + len(panel.gauges) * ROW, 12, panel.footing)
    return pixels


def write(pixels: np.ndarray, top: int, left: int, line: str, scale: int = 2) -> None:
    """Draws a line of text in capitals; what does not fit to the right is cut off."""
    rows = [[int(dots) for dots in GLYPHS.get(sign, BLANK)] for sign in line.upper()]
    if not rows:
        return
    dots = np.array(rows)[:, :, None] >> np.array([2, 1, 0]) & 1
    # A column between letters, then letters side by side.
    spaced = np.pad(dots, ((0, 0), (0, 0), (0, 1))).transpose(1, 0, 2).reshape(5, -1)
    drawn = spaced.repeat(scale, 0).repeat(scale, 1)[:, : max(pixels.shape[1] - left, 0)].astype(bool)
    pixels[top : top + drawn.shape[0], left : left + drawn.shape[1]][drawn] = INK
