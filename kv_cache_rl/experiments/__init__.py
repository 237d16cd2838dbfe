"""What is measured with the worlds: scenario sets, sweeps, comparisons, validations; workers and the journal
serve them all.
"""
