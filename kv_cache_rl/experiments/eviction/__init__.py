"""Scenario sets with their reference returns, and the landscape over unselected scenarios."""
