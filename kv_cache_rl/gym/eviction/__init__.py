"""The eviction environment with Gymnasium's faces: `KVEviction-{easy,medium,hard}-v0`, single or a batch.

A window is several decisions: one call at a time, then `STOP` (`kv_cache_rl.sim.eviction.decisions`). What is
seen is the full view as numbers (`kv_cache_rl.sim.eviction.numbers`). Reading order: `sources`, `single`,
`seats`, `vector`."""
