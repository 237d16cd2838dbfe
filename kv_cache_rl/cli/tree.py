"""How commands become groups: name → function or group, registered in one place."""

from collections.abc import Callable, Mapping

import typer

Commands = Mapping[str, Callable[..., None] | typer.Typer]


def register(app: typer.Typer, commands: Commands, panel: str | None = None) -> typer.Typer:
    """The app with these commands and groups; a function's docstring is its help, with an example in it."""
    for name, found in commands.items():
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(found)
    return app


def group(help: str, commands: Commands) -> typer.Typer:
    """A group of commands, which shows its help when no command is named."""
    return register(typer.Typer(no_args_is_help=True, help=help), commands)
