"""Agents evaluated on the serving tasks, and the telemetry of one episode."""
