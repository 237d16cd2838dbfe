"""Shows the oracle's return on a running server: ``python validation/oracle.py URL``."""

import sys

from kv_cache_rl.adapters.openenv.grade import main

if __name__ == "__main__":
    main([*sys.argv[1:], "--check", "oracle"])
