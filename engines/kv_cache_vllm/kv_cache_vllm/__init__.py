"""A real vLLM beside the hierarchy lab of kv-cache-rl. `record` drives one with a trace."""
