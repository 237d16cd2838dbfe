"""Measurements of the real cache: figures, checks, quality, memory, speeds, calibration."""
