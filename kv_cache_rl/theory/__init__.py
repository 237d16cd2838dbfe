"""Queueing theory of the KV cache: functions of rates and lengths, and a controller."""
