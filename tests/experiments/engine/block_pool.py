"""vLLM's block pool in plain Python, as its source says: a queue of free blocks, hashes, a reference count.

Source: vLLM 0.32, v1/core: block_pool.py, kv_cache_manager.py and single_type_kv_cache_manager.py.
"""

from collections import OrderedDict

from kv_cache_rl.experiments.engine.folder import Recorded


class BlockPool:
    """Blocks by number; block 0 is the null block and is never given away."""

    def __init__(self, blocks):
        self.free = OrderedDict((block, None) for block in range(1, blocks))
        self.content, self.copies, self.references = {}, {}, dict.fromkeys(range(blocks), 0)

    def find(self, path, most):
        """The leading blocks of a path that are cached, at most so many."""
        found = []
        for content in path[:most]:
            if not self.copies.get(content):
                break
            found.append(next(iter(self.copies[content])))
        return found

    def touch(self, blocks):
        for block in blocks:
            if self.references[block] == 0:
                del self.free[block]
            self.references[block] += 1

    def take(self, count):
        taken = [self.free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self.references[block] = 1
            content = self.content.pop(block, None)
            if content is not None:
                del self.copies[content][block]
        return taken

    def cache(self, block, content):
        self.content[block] = content
        self.copies.setdefault(content, {})[block] = None

    def let_go(self, blocks):
        blank = []
        for block in reversed(blocks):
            self.references[block] -= 1
            if self.references[block] == 0:
                if block in self.content:
                    self.free[block] = None
                else:
                    blank.append(block)
        for block in reversed(blank):
            self.free[block] = None
            self.free.move_to_end(block, last=False)

    def held(self):
        return {content for content, copies in self.copies.items() if copies}


def one_at_a_time(requests, blocks, size):
    """(blocks found by each request, blocks held at the end); requests are Asked or Recorded."""
    pool, found = BlockPool(blocks), []
    for one in requests:
        path = one.blocks
        mine = pool.find(path, (one.prompt - 1) // size)
        found.append(len(mine))
        pool.touch(mine)
        tokens = one.prompt + one.generated - 1
        mine += pool.take(-(-tokens // size) - len(mine))
        for at in range(found[-1], tokens // size):
            pool.cache(mine[at], path[at])
        pool.let_go(mine)
    return found, pool.held()


def recorded(plan, found):
    """The lines that a recording of a plan would have."""
    return [
        Recorded(
            request=one.number,
            time_s=one.time_s,
            sequence=one.sequence,
            prompt=one.prompt,
            generated=one.generated,
            blocks=tuple((block, 1) for block in one.blocks),
            found=hits,
            preempted=0,
            arrived_s=0.0,
            started_s=0.0,
            done_s=0.0,
            steps=(one.number, one.number),
        )
        for one, hits in zip(plan.requests, found, strict=True)
    ]
