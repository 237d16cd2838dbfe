"""kv-cache-rl: a laboratory for the KV cache of LLM servers: any decision maker, the same rules.

Importing the package pulls in nothing heavy; ask for what you need, e.g. ``from kv_cache_rl.sim.eviction
import Episode``."""

__version__ = "0.1.0"

ENVIRONMENT_VERSION = "2"
"""Version of the eviction environment's rules and scenario format; scores compare only within one version."""
