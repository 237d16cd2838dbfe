"""Bounds and miss-ratio curves, exact and sampled."""
