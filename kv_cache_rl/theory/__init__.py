"""Queueing theory of the KV cache: pure functions of rates and lengths, and a controller that estimates both."""
