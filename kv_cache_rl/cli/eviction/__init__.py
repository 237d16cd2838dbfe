"""``eviction``: the eviction environment's commands."""
