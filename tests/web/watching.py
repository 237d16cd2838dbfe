"""Waiting for what a page shows."""

import time


def until(page, expression: str, seconds: float = 60.0) -> None:
    """Waits until an expression holds; the page's policy forbids the browser to be asked in one call."""
    ends = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < ends, f"after {seconds:g} s this does not hold: {expression}"
        time.sleep(0.02)
