"""What a KV cache is: geometry, precision, links, blocks and the pool ledger.

Depends on nothing else in the project.
"""
