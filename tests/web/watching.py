"""Waiting for what a page shows."""

import time

ASKED = "(() => {{ try {{ return [!!({}), ''] }} catch (error) {{ return [false, ` (${{error}})`] }} }})()"


def until(page, expression: str, seconds: float = 60.0) -> None:
    """Waits until an expression holds; the page's policy forbids the browser to be asked in one call.

    What is asked of an element that is not drawn yet, or that is just drawn anew, does not hold yet.
    """
    ends = time.monotonic() + seconds
    while True:
        holds, why = page.evaluate(ASKED.format(expression))
        if holds:
            return
        assert time.monotonic() < ends, f"after {seconds:g} s this does not hold: {expression}{why}"
        time.sleep(0.02)
