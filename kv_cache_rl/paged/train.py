"""`python -m kv_cache_rl.paged.train` trains the small model (`paged.training.train`)."""

from kv_cache_rl.paged.training.train import main

if __name__ == "__main__":
    main()
