"""Every command of the tree and every option of it, as click sees them."""

from collections.abc import Iterator

import click
import typer

from kv_cache_rl.cli import app


def commands(
    command: click.Command | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(path, command) of every command that is no group."""
    found = command or typer.main.get_command(app)
    for name, child in getattr(found, "commands", {}).items():
        yield from commands(child, (*path, name))
    if not hasattr(found, "commands"):
        yield path, found


def options() -> Iterator[tuple[str, click.Option]]:
    """(command, option) of every option of every command, the short forms of the eviction group left out."""
    long = {path[1:] for path, _ in commands() if path[0] == "eviction"}
    for path, command in commands():
        if path not in long:
            for parameter in command.params:
                if parameter.param_type_name == "option":
                    yield " ".join(path), parameter
