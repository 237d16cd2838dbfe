"""The system prompt: the task, the rules and what is rewarded; no strategy."""

_ROWS = {
    "full": """Each row is one cache entry. Types: system (shared prompt), context and tool (history of a session: waiting for its user, \
or for a tool), gen (being generated), think and ephemeral (dead, never read again). pages are 128 tokens at 16 bits; \
bits 8 and 4 take half and a quarter. value: 0 worst to evict, 100 safest. idle, age: windows. reload_s: seconds to recompute.""",
    "brief": """Each row is one cache entry: id, type, class, state (cpu: it lies in the CPU pool). Types: system (shared prompt), context and \
tool (history of a session: waiting for its user, or for a tool), gen (being generated), think and ephemeral (dead, never read \
again). Then m memory, in thousandths of the budget as everything here; b bits below 16, 8 and 4 take half and a quarter; \
v value: 0 worst to evict, 100 safest; i idle windows; r tenths of a second to recompute; p priority. A letter that is missing \
is 0. queue: who waits, what it needs, and tenths of a window (w) it has waited.""",
}

SYSTEM_PROMPTS = {
    view: f"""You run the KV cache of an LLM inference server for 15 windows. Before each window you get a JSON observation \
and answer with tool calls; all calls of one message act in that window, at most 16 count.

{rows}

Tools: evict drops an entry's own pages (shared prefix pages go with their last user); a running request goes back to the \
queue and loses its work; what is asked for later is recomputed on the shared prefill lane. compress halves the pages, down to \
4 bits; the entry does not decode in that window, and lower precision may make an answer wrong: rarely at 8 bits; at 4 bits \
rarely for chat and extract, sometimes for code, often for reason. swap_to_cpu moves pages over a shared link into a finite \
CPU pool; they come back over the link when needed and if there is room. keep changes nothing. An invalid call changes nothing.

In a window: your calls, decoding, completions, arrivals, then admission, first come first served, of whoever fits into the \
budget. Sessions return whether or not you served them before. A request fails when it has waited more than 5 windows in total \
(queued, on the CPU, or for recomputation), when it was decoded at too low a precision, when memory overflows the budget, or \
when it still waits at the end. Nothing is freed unless you free it.

Rewarded: few failures (most), tokens of completed requests, memory peaks below 80 % of the budget (less below 95 %), keeping \
what is worth keeping, little swap-in delay, and no eviction of system prompts, important contexts or nearly finished work."""
    for view, rows in _ROWS.items()
}
"""By view."""
SYSTEM_PROMPT = SYSTEM_PROMPTS["full"]
