"""The command line: ``kv-cache-rl``. One module per command group; each imports what it needs when it runs.

Exit codes: 0 it worked; 1 it finished, but a rollout or a check failed; 2 bad usage or bad input; 130
interrupted."""

from kv_cache_rl.cli.root import app

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the console script."""
    app()
