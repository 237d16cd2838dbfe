"""Sweeps over workloads, tiers and policies.

Reading order: `sources`, `settings`, `cells`, `definition`, `sweep`; then `ablation`, `heldout`.
"""
