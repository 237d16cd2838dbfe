"""The command line: ``kv-cache-rl``. One module per command group; each imports what it needs when it runs.

Exit codes: 0 it worked; 1 it finished, but a rollout or a check failed; 2 bad usage or bad input; 130
interrupted; 143 terminated."""

import sys
from io import TextIOWrapper

from kv_cache_rl.cli.exits import INTERRUPTED
from kv_cache_rl.lazy import lazy


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a character that it cannot hold costs no result
            stream.reconfigure(errors="replace")
    try:
        from kv_cache_rl.cli.root import app

        app()
    except KeyboardInterrupt:  # while the commands were imported
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


__all__, __getattr__ = lazy(__name__, {"root": ("app",)})
