"""What the queues do, each a compiled function ``(queue, ...)`` of a queue's index in `QUEUE_IDS`."""

from kv_cache_rl.jit import folded
from kv_cache_rl.sim.hierarchy.queues import QUEUES

accessed = folded(tuple(queue.accessed for queue in QUEUES.values()))
announced = folded(tuple(queue.announced for queue in QUEUES.values()))
entered = folded(tuple(queue.entered for queue in QUEUES.values()))
used = folded(tuple(queue.used for queue in QUEUES.values()))
left = folded(tuple(queue.left for queue in QUEUES.values()))
victim = folded(tuple(queue.victim for queue in QUEUES.values()))
