"""Traces as columns: page accesses and prefix-tree requests, read, numbered and written."""
