"""The server of the eviction environment."""
