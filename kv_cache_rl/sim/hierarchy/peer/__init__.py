"""kv-hierarchy-lab's own semantics, to the last bit, and its published results."""
