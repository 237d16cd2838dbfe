"""Which model's cache: geometry from a Hugging Face config.json, and a catalogue of models with sources.

config.json → fields (typed, each remembered) → layers (what each keeps) → groups → ModelGeometry
"""
