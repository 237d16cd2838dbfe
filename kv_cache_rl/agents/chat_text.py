"""The serving world as a chat model reads it, and the one tool by which it decides."""

import json
import re
from collections.abc import Sequence

import numpy as np

from kv_cache_rl.sim.serving.actions import ACTIONS
from kv_cache_rl.sim.serving.observe import OBSERVATION, RICH

MOST_REPEAT = 100
"""Ticks for which a call may hold its action."""

SYSTEM_PROMPT = f"""You run the memory of an LLM server. The GPU holds the KV cache of running requests, \
which grows by a token a tick, and the idle caches of users who may return. Users are Free or VIP.
Each turn shows the server in per cent. Answer with one call of act. Only actions listed as possible work.
Serve as many tokens as you can and keep waits short: admit what fits, VIP first; if a request waits that \
does not fit, evict idle caches, oldest first; if nothing is possible or needed, do nothing, which lets time \
pass. Up to four other actions fit in a tick. Rejecting, preempting and swapping cost.
Actions: {", ".join(f"{number} {name}" for number, name in enumerate(ACTIONS))}."""

TOOL = {
    "type": "function",
    "function": {
        "name": "act",
        "description": "Take an action, once in each of the next `repeat` ticks where it is possible.",
        "parameters": {
            "type": "object",
            "properties": {
                "action": {"type": "integer", "minimum": 0, "maximum": len(ACTIONS) - 1},
                "repeat": {"type": "integer", "minimum": 1, "maximum": MOST_REPEAT, "default": 1},
            },
            "required": ["action"],
            "additionalProperties": False,
        },
    },
}

LINES = (
    (
        "gpu",
        (
            ("used", "gpu_utilization_pct"),
            ("trend", "memory_pressure_trend"),
            ("largest active", "yield_preempt_active"),
        ),
    ),
    ("cpu", (("used", "cpu_utilization_pct"),)),
    *(
        (
            f"{who} queue",
            (("filled", f"{who}_queue_pressure"), ("longest wait of its limit", f"{who}_max_wait_time_pct")),
        )
        for who in ("free", "vip")
    ),
    *(
        (
            f"{who} idle caches",
            tuple(
                (f"{what} {how}", f"{who}_{what}_{field}")
                for what in ("size", "age")
                for how, field in (("max", "max"), ("mean", "mean"), ("sd", "std_dev"))
            ),
        )
        for who in ("free", "vip")
    ),
    (
        "load",
        (
            ("link", "link_occupancy"),
            ("arrivals", "forecast_arrival_rate"),
            ("rho", "rho"),
            ("margin", "stability_margin"),
        ),
    ),
)
"""Line → what its numbers are called and the fields of the view; the last is for the rich view alone."""
POSSIBLE = "possible"
_SHOWN = tuple(field for _, parts in LINES for _, field in parts)
_NUMBER = re.compile(r"[-+]?\d+\.\d\d\b")


def state_text(view: np.ndarray, mask: np.ndarray) -> str:
    """The view, 20 or 24 numbers, and what can be done, in about 200 tokens."""
    percents = dict(zip(RICH, np.asarray(view, float) * 100, strict=False))
    lines = LINES if len(view) > len(OBSERVATION) else LINES[:-1]
    told = [
        f"{line}: {', '.join(f'{name} {percents[field]:.2f}' for name, field in parts)}"
        for line, parts in lines
    ]
    can = ", ".join(f"{number} {ACTIONS[number]}" for number in np.flatnonzero(mask))
    return "\n".join([*told, f"{POSSIBLE}: {can}"])


def read_state(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The view and the mask that a text shows: what `state_text` wrote, to a hundredth of a per cent.

    Raises:
        ValueError: it shows no state.
    """
    shown, sign, can = text.rpartition(f"\n{POSSIBLE}: ")
    numbers = [float(number) / 100 for number in _NUMBER.findall(shown)]
    if not sign or len(numbers) not in (len(OBSERVATION), len(RICH)):
        raise ValueError(f"the text holds {len(numbers)} numbers of a server; send what the environment gave")
    found = dict(zip(_SHOWN, numbers, strict=False))
    mask = np.zeros(len(ACTIONS), np.int8)
    mask[[number for number in map(int, re.findall(r"\b(\d+) [a-z]", can)) if number < len(mask)]] = 1
    return np.array([found.get(name, 0.0) for name in RICH], np.float32), mask


class Unread(Exception):
    """A call that decides nothing: `kind` says how it is counted, the text why."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def read_calls(calls: Sequence[tuple[str, str]]) -> tuple[int, int]:
    """Action and repeat of the first call of a reply; (name, arguments as JSON text) each.

    Names of actions are read as their numbers, and numbers in quotes as numbers.

    Raises:
        Unread: there is none, or it is not what the tool takes.
    """
    if not calls:
        raise Unread("no_call", "no call of act")
    name, text = calls[0]
    if not re.search(r"(^|\W)act$", name):
        raise Unread("unknown_tool", f"the tool {name[:40]!r}; there is act alone")
    try:
        given = json.loads(text or "{}")
        # Some servers write the arguments as text within the text.
        given = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Unread("unreadable", f"arguments {text[:60]!r}, which are no JSON object")
    action, repeat = given.get("action"), given.get("repeat")
    number = ACTIONS.index(action) if action in ACTIONS else whole(action)
    if number is None or not 0 <= number < len(ACTIONS):
        raise Unread("unknown_action", f"action {str(action)[:40]!r}; there are 0 to {len(ACTIONS) - 1}")
    times = 1 if repeat is None else whole(repeat)
    if times is None or not 1 <= times <= MOST_REPEAT:
        raise Unread("repeat_out_of_range", f"repeat {str(repeat)[:40]!r}; give 1 to {MOST_REPEAT}")
    return number, times


def whole(value: object) -> int | None:
    """A whole number, 3.0 and "3" too; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value and abs(value) < 1e9 and value == int(value) else None
