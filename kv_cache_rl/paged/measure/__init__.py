"""What the real cache costs: figures, quality, memory, speeds, calibration."""
