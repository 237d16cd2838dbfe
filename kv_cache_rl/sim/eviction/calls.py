"""Tool calls: their definitions for chat models, reading them, and saying what became of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kv_cache_rl.sim.eviction.actions import Outcome, Verb
from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

VERBS = {"keep": Verb.KEEP, "evict": Verb.EVICT, "compress": Verb.COMPRESS, "swap_to_cpu": Verb.SWAP}
NAMES: dict[int, str] = {number: verb for verb, number in VERBS.items()}
NO_ENTRY = "no-entry"
"""In place of the id of an entry that is not there; ids of entries are shorter."""


@dataclass(frozen=True, slots=True)
class Call:
    """One tool call; `error` is set when it could not even be read."""

    verb: str
    seq_id: str = ""
    error: str = ""

    def to_log(self) -> list[str]:
        if self.error:
            return ["?", self.error]
        return [self.verb] if self.verb == "keep" else [self.verb, self.seq_id]

    @staticmethod
    def from_log(words) -> "Call":
        """Reads a logged call back; anything unreadable becomes a call with an error."""
        if isinstance(words, list | tuple) and all(isinstance(word, str) for word in words):
            if len(words) == 2 and words[0] == "?":
                return Call("?", error=words[1] or "no reason was logged")
            if list(words) == ["keep"]:
                return KEEP
            if len(words) == 2 and words[0] in VERBS and words[0] != "keep":
                return Call(words[0], words[1])
        return Call("?", error=f"logged call {str(words)[:80]} is not [verb, seq_id]")


KEEP = Call("keep")


def _tool(name: str, description: str, with_id: bool) -> dict:
    properties = {"seq_id": {"type": "string"}} if with_id else {}
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


TOOLS: list[dict] = [
    _tool("evict", "Drop it. Running: back to the queue. Needed later: recomputed.", True),
    _tool(
        "compress",
        "Half the memory, to 8, then 4 bits; no decoding now. Wrong answers: rare, but at 4 some for code, "
        "many for reason.",
        True,
    ),
    _tool("swap_to_cpu", "Over the shared link; back when needed, if there is room.", True),
    _tool("keep", "Change nothing.", False),
]
"""Short: every call of a brief view pays for them."""


def parse_call(name: str, arguments: str | dict | None) -> Call:
    """Reads a tool call as a chat model wrote it.

    Never raises: what cannot be read is a call with an `error`.
    """
    if not isinstance(name, str) or name not in VERBS:
        return Call("?", error=f"unknown tool {str(name)[:40]!r}; use one of {', '.join(VERBS)}")
    if name == "keep":
        return KEEP
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return Call("?", error=f'{name}: the arguments are not JSON; send {{"seq_id": "..."}}')
    if not isinstance(arguments, dict):
        return Call("?", error=f'{name}: the arguments must be an object like {{"seq_id": "..."}}')
    seq_id = arguments.get("seq_id")
    if not isinstance(seq_id, str) or not seq_id:
        return Call("?", error=f"{name}: seq_id must be a string, the id of a row")
    if extra := sorted(map(str, set(arguments) - {"seq_id"})):
        return Call("?", error=f"{name}: unknown argument {extra[0][:40]!r}; send seq_id only")
    if len(seq_id) > 64 or not seq_id.isprintable():
        return Call(
            "?",
            error=f"{name}: seq_id {seq_id[:20]!r}... is no id of this cache; choose one from the rows",
        )
    return Call(name, seq_id)


# One answer for ids that never were, are gone or are yet to come: the difference would tell the future.
_NOWHERE = "no entry {name!r} in the cache now; choose from {ids}"
_REASONS: dict[int, str] = {
    Outcome.UNKNOWN: _NOWHERE,
    Outcome.ABSENT: _NOWHERE,
    Outcome.AT_LOWEST: "{name} is at 4 bits already, the lowest precision; evict or swap it instead",
    Outcome.IS_ON_CPU: "{name} is on the CPU and takes no GPU pages; evict it to free CPU pages",
    Outcome.CPU_FULL: "the CPU pool has {cpu_free:g} pages free, {name} needs {pages:g}; "
    "compress it or evict something there",
    Outcome.LINK_BUSY: "the link is taken for this window; swap {name} in the next one",
    Outcome.SHARED_ONLY: "{name} holds only shared prefix pages, which are neither compressed nor moved; "
    "evict it instead",
    Outcome.TOO_MANY: f"only the first {MAX_CALLS_PER_STEP} calls of a window count",
}


_BRIEF_REASONS = _REASONS | {
    Outcome.CPU_FULL: "the CPU pool has no room for {name}; compress it or evict something there",
}
"""The brief view counts in thousandths of the budget, not in pages."""


def result_text(call: Call, code: int, pages: float, cpu_free: float, done: str, view: str = "full") -> str:
    """What a tool message says: the effect, or the reason for the refusal and the remedy."""
    if code == Outcome.OK:
        return done if view == "full" else "ok"
    if code == Outcome.NOT_READ:
        unknown = f"unknown tool {str(call.verb)[:40]!r}; use one of {', '.join(VERBS)}"
        return f"refused: {call.error or unknown}"
    reasons, ids = (_REASONS, "visible_seq_ids") if view == "full" else (_BRIEF_REASONS, "rows")
    return "refused: " + reasons[code].format(name=call.seq_id, pages=pages, cpu_free=cpu_free, ids=ids)


def named_calls(names: Sequence[str], calls: Iterable[Sequence[int]]) -> list[list[str]]:
    """Packed calls (verb and slot) as one window of an action log; no call at all is an explicit
    keep.

    Args:
        names: ids by slot (`state.slot_names`); a slot below 0 is no entry.
    """
    made = [
        Call(NAMES[verb], names[slot] if slot >= 0 else NO_ENTRY) for verb, slot in calls if verb != Verb.KEEP
    ]
    return [call.to_log() for call in made] or [KEEP.to_log()]
