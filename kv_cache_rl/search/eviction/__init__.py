"""The oracle of the eviction environment: beam search and polishing, exhaustive search on small instances."""
