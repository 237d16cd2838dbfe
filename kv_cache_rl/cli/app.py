"""The command tree."""

from typing import Annotated

import typer

from kv_cache_rl import ENVIRONMENT_VERSION, __version__
from kv_cache_rl.cli import eviction, hierarchy, paged, serving, stability
from kv_cache_rl.cli.failures import CommandGroup
from kv_cache_rl.cli.tree import register

app = typer.Typer(
    name="kv-cache-rl",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A KV cache under pressure, decided by anyone, measured with the same rulers.",
    epilog="Start with: kv-cache-rl eval",
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kv-cache-rl {__version__} (environment version {ENVIRONMENT_VERSION})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=show_version, is_eager=True, help="Print the versions and exit."),
    ] = False,
) -> None:
    """A KV cache under pressure, decided by anyone, measured with the same rulers."""


WORLDS = {
    "eviction": eviction.app,
    "hierarchy": hierarchy.app,
    "serving": serving.app,
    "stability": stability.app,
    "paged": paged.app,
}
register(app, WORLDS, "Worlds")
register(app, eviction.COMMANDS, "Short forms: `kv-cache-rl eval` is `kv-cache-rl eviction eval`")
