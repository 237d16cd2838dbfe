"""vLLM's rules: a server that schedules itself, step by step.

    step:
        requests that are due join the end of the queue
        for each running request, the one first admitted first, while the step has tokens left:
            new = what it has yet to compute, within the step's tokens (and `long_prefill`, if not alone)
            while fewer blocks are free than it needs for these:
                the last running request loses its blocks and waits before all others
            if it lost its own: computes nothing, and neither do those behind it
            takes the blocks, which are found from now on
        if none was preempted, while tokens are left and fewer than `most_running` run, the head of the queue:
            hits = its leading blocks that are there, so that at least its last token is computed
            stops unless free >= blocks of all its tokens - hits (+ hits that are free, + `watermark`)
            runs behind all others: holds the hits and takes blocks for its first tokens
        each request that has computed all its tokens gets one more
        those with the last token of their output are over, and let their blocks go, one after the other

Rows, ledger, queue and the list of those in service are the world's own (`columns`, `lists`, `core.pool`,
`actions.requeue`), with steps in place of microseconds. What `dynamics.tick` does otherwise:

* An agent admits there. Here the scheduler does, and a step has no decision.
* A row takes the blocks of its whole prompt at admission there, here those of a step's tokens.
* A cache there belongs to a user and goes as a whole. Here blocks are shared (`shared_blocks`).
* The tick behind a prefill gives the first token there, here the step that ends it does.

Agents were trained and measured by that tick to the byte, so it is not bent to these rules.

Source: vLLM 0.32, v1/core/sched/scheduler.py (`schedule`, `_preempt_request`, `update_from_output`) and
v1/core/kv_cache_manager.py (`allocate_slots`), with `async_scheduling=False`, one kind of attention over all
tokens, and no speculative decoding.
"""

from kv_cache_rl.jit import uncounted
from kv_cache_rl.sim.compiled import blocks_for, free
from kv_cache_rl.sim.serving.actions import requeue
from kv_cache_rl.sim.serving.columns import (
    ACTIVE,
    FINISHED,
    FREE,
    FUTURE,
    GPU,
    GPU_POOL,
    NOWHERE,
    QUEUED,
    columns_of,
)
from kv_cache_rl.sim.serving.lists import push, remove
from kv_cache_rl.sim.serving.shared_blocks import free_among, grow, hits, hold, release, store
from kv_cache_rl.sim.views import record

RULES = record(
    "most_running",  # requests that run at once
    "prefix_caching",  # 1: requests find what others computed
    "long_prefill",  # tokens of a prompt that a step computes at most beside other requests, 0: any
    "watermark",  # blocks that stay free where a request is admitted beside others
    "whole_prompt",  # 1: a request is admitted only if all its tokens so far find room
)

COUNTS = ("step", "running", "waiting", "free", "preempted")
"""What is counted after a step: requests in service and in the queue, free blocks, preemptions so far."""


@uncounted
def queue_due(c, after):
    """Queues the requests whose step has come and whose predecessor, if they wait for one, is over."""
    for row in range(c.book.arrived, c.settings.requests):
        r = c.rows[row]
        if c.requests[row].arrival > c.book.clock_us:
            break
        if r.status == FUTURE and (after[row] < 0 or c.rows[after[row]].status == FINISHED):
            r.status, r.since = QUEUED, c.book.clock_us
            push(c, c.book.queues[FREE], row)
    while c.book.arrived < c.settings.requests and c.rows[c.book.arrived].status != FUTURE:
        c.book.arrived += 1


@uncounted
def uncomputed(c, row):
    """Tokens of a request, the output so far included, that have yet to be computed."""
    return c.requests[row].prompt + c.rows[row].made - c.rows[row].tokens


@uncounted
def preempt_last(c, b):
    """The request admitted last loses its blocks and waits before all others; its row."""
    c.book.serving -= 1
    row = c.running[c.book.serving]
    requeue(c, row)
    release(c, b, row)
    c.rows[row].tokens, c.rows[row].where = 0, NOWHERE
    c.terms.forced_preemption += 1
    return row


@uncounted
def compute(c, b, rules, row, new, need):
    """A request takes `need` blocks and computes `new` tokens in this step."""
    r = c.rows[row]
    grow(c, b, row, need)
    r.tokens += new
    if rules.prefix_caching:
        store(b, row, r.tokens // c.settings.block_tokens)


@uncounted
def run_running(c, b, rules, most, budget):
    """The running requests compute in the order of their admission; the tokens that are left."""
    i = 0
    while i < c.book.serving and budget > 0:
        row = c.running[i]
        new = min(uncomputed(c, row), most, budget)
        need = blocks_for(c.rows[row].tokens + new, c.settings.block_tokens) - c.rows[row].blocks
        while free(c.book.pools, GPU_POOL) < need:
            if preempt_last(c, b) == row:
                return budget
        compute(c, b, rules, row, new, need)
        budget -= new
        i += 1
    return budget


@uncounted
def admit_waiting(c, b, rules, most, budget):
    """Requests from the head of the queue compute too, as long as they find room."""
    size = c.settings.block_tokens
    while budget > 0 and c.book.queues[FREE].first >= 0 and c.book.serving < rules.most_running:
        row = c.book.queues[FREE].first
        r, total = c.rows[row], uncomputed(c, c.book.queues[FREE].first)
        found = hits(b, row, (total - 1) // size) if rules.prefix_caching else 0
        new = min(total - found * size, most, budget)
        need = blocks_for(found * size + new, size) - found
        room = free(c.book.pools, GPU_POOL) - free_among(b, row, found)
        if c.book.serving > 0:
            room -= rules.watermark
        if need > room or (rules.whole_prompt and blocks_for(total, size) - found > room):
            return
        remove(c, c.book.queues[FREE], row)
        r.waited += c.book.clock_us - r.since
        r.status, r.where, r.since = ACTIVE, GPU, c.book.clock_us
        c.running[c.book.serving] = row
        c.book.serving += 1
        hold(c, b, row, found)
        r.tokens = found * size
        if r.found < 0:
            r.found, r.first = r.tokens, c.book.clock_us
        compute(c, b, rules, row, new, need)
        budget -= new


@uncounted
def settle(c, b):
    """Requests that computed all their tokens get one more, and are over with their last."""
    kept = 0
    for i in range(c.book.serving):
        row = c.running[i]
        r = c.rows[row]
        if uncomputed(c, row) == 0:
            r.made += 1
            if r.made == c.requests[row].output:
                release(c, b, row)
                r.status, r.where, r.tokens, r.ended = FINISHED, NOWHERE, 0, c.book.clock_us
                continue
        c.running[kept] = row
        kept += 1
    c.book.serving = kept


@uncounted
def step(c, b, rules):
    """One step of the engine, for requests that run or wait."""
    budget, before = c.settings.token_budget, c.terms.forced_preemption
    most = budget
    if rules.long_prefill > 0 and c.book.serving + c.book.queues[FREE].count > 1:
        most = rules.long_prefill
    budget = run_running(c, b, rules, most, budget)
    if c.terms.forced_preemption == before:
        admit_waiting(c, b, rules, most, budget)
    settle(c, b)


@uncounted
def advance(fixed, live, b, rules, after, until, counts):
    """Steps a server up to step `until`, or until `counts` is full or all requests are over.

    Steps in which nothing runs or waits are left out.

    Args:
        counts: int64 [n, 5], filled by `COUNTS`.

    Returns:
        How many rows of `counts` were filled.
    """
    c, n = columns_of(fixed, live), 0
    while n < len(counts):
        queue_due(c, after)
        if c.book.serving + c.book.queues[FREE].count == 0:
            if c.book.arrived == c.settings.requests:
                return n
            c.book.clock_us = max(c.requests[c.book.arrived].arrival, c.book.clock_us)
            queue_due(c, after)
        if c.book.clock_us >= until:
            return n
        step(c, b, rules[0])
        counts[n, 0], counts[n, 1] = c.book.clock_us, c.book.serving
        counts[n, 2], counts[n, 3] = c.book.queues[FREE].count, free(c.book.pools, GPU_POOL)
        counts[n, 4] = c.terms.forced_preemption
        c.book.clock_us += 1
        c.book.ticks += 1
        n += 1
    return n
