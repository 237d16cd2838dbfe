"""A small language model learns the eviction environment: taught by an expert, then by reward.

data      decisions of the expert, one window an example
sft       the model learns to answer as the expert does
play      the model plays whole episodes, all of them one batch per window
rl        a policy gradient on the normalised score
serve     an OpenAI-compatible endpoint, which `kv-cache-rl eval` asks
"""
