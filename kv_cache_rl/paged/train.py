"""`python -m kv_cache_rl.paged.train` trains the small model; the code is `paged.training.train`."""

from kv_cache_rl.paged.training.train import main

if __name__ == "__main__":
    main()
