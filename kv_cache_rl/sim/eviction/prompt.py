"""The system prompts: the task, the rules and what is rewarded; no strategy."""

from kv_cache_rl.sim.eviction.spec import MAX_CALLS_PER_STEP

_FULL = """You run the KV cache of an LLM inference server for 15 windows. Before each window you get a JSON observation \
and answer with tool calls; all calls of one message act in that window, at most {most} count.

Each row is one cache entry. Types: system (shared prompt), context and tool (history of a session: waiting for its user, \
or for a tool), gen (being generated), think and ephemeral (dead, never read again). pages are 128 tokens at 16 bits; \
bits 8 and 4 take half and a quarter. value: 0 worst to evict, 100 safest. idle, age: windows. reload_s: seconds to recompute.

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
_BRIEF = """You run an LLM server's KV cache for 15 windows. In each you see JSON and make up to {most} calls.

Memory is in thousandths of the GPU budget; link: per window. rows: id, type, class, state (cpu: in the CPU pool), m memory, \
b bits below 16, v value (100: safest to evict), i idle windows, r seconds to recompute, p priority; missing is 0. \
context, tool: history of a waiting session; gen: being generated; think, ephemeral: dead. queue: who waits, w tenths of a window.

In a window: your calls, decoding, completions, arrivals, admission of what fits, in order. Sessions return, served or not. \
A request fails after more than 5 windows of waiting (queue, CPU, recomputing), by low precision or overflow, or unserved \
at the end. Only you free memory.

Rewarded: few failures (most), tokens of completed requests, peaks below 800 (less below 950), keeping what is worth it, \
little swap-in delay, no eviction of important or nearly finished work."""


def system_prompt(view: str, most: int = MAX_CALLS_PER_STEP) -> str:
    """The prompt of a view for messages of which `most` calls count."""
    return {"full": _FULL, "brief": _BRIEF}[view].format(most=most)


SYSTEM_PROMPTS = {view: system_prompt(view) for view in ("full", "brief")}
"""By view. The brief one leaves what the tools do to their descriptions."""
SYSTEM_PROMPT = SYSTEM_PROMPTS["full"]
CONTEXT_TOKENS = {
    ("full", "full"): 40_960,
    ("full", "window"): 4_096,
    ("brief", "full"): 16_384,
    ("brief", "window"): 2_048,
}
"""Tokens of context that a model is served with, by view and history: what an episode (full) or a window needs
with SmolLM2's tokenizer (results/eviction/tokens.json), and room for what the model thinks."""
