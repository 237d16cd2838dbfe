"""How commands become groups: name → function or group, registered in one place."""

import math
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import bounded, literal, sparing_inputs
from kv_cache_rl.cli.trace_options import with_reading

Commands = Mapping[str, Callable[..., None] | typer.Typer]


def register(app: typer.Typer, commands: Commands, panel: str | None = None) -> typer.Typer:
    """The app with these commands and groups; a function's docstring is its help, with an example in it."""
    for name, found in commands.items():
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name, rich_help_panel=panel)
        else:
            app.command(name, cls=_Strict, help=literal(found.__doc__ or ""), rich_help_panel=panel)(
                bounded(with_reading(sparing_inputs(found)))
            )
    return app


def group(help: str, commands: Commands) -> typer.Typer:
    """A group of commands, which shows its help when no command is named."""
    return register(typer.Typer(no_args_is_help=True, help=help), commands)


def wing(name: str, help: str) -> typer.Typer:
    """The group of the commands in `kv_cache_rl.cli.NAME`, which is imported once one of them is wanted."""
    kind = type(f"Wing_{name}", (_Wing,), {"module": f"kv_cache_rl.cli.{name}"})
    return typer.Typer(no_args_is_help=True, help=help, cls=kind)


APART = (
    ("--split", ("--trace",), "a trace has no sets"),
    ("--json", ("--markdown",), "they are two forms of one table"),
    ("--json", ("--delay",), "JSON comes at once"),
    (
        "--committed",
        ("--difficulty", "--num-examples", "--seed"),
        "the sets of the release have their own sizes and seeds",
    ),
    ("--peer", ("--part", "--trace", "--accesses"), "what is compared with a peer has accesses of its own"),
)
"""An option, those of which one says nothing beside it, and why."""
IN_JSON = ("--time-line", "--by-sequence", "--action-log")
"""Options that add to the JSON object, and to nothing else."""


class _Strict(TyperCommand):
    """A command that refuses a number that is none, and what would be dropped: a second value of an option
    that takes one, and an option beside another that leaves it nothing to say, or without the one that it
    adds to. What is measured would not be what was asked for.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(given)
        for one in order:
            single = isinstance(one, TyperOption) and not (one.multiple or one.is_flag)
            if single and (times := order.count(one)) > 1:
                ctx.fail(f"{one.opts[0]} is given {times} times, and one value of it counts; give it once")
            value = ctx.params.get(one.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise BadInput(f"{one.opts[0]} is {value}; give a number, or leave it out")
        said = {name for one in order for name in one.opts}
        for first, others, why in APART:
            second = next((name for name in others if name in said), None)
            if first in said and second:
                ctx.fail(f"{first} and {second} are both given, but {why}; leave out one of them")
        for name in IN_JSON:
            if name in said and "--json" not in said:
                ctx.fail(f"{name} adds to the JSON object alone; add --json, or leave it out")
        return rest


class _Wing(TyperGroup):
    """A group that finds its commands, `COMMANDS` of its module, when they are asked for."""

    module: str
    _found: MutableMapping[str, Any] | None = None

    @property
    def commands(self) -> MutableMapping[str, Any]:  # pyrefly: ignore[bad-override]
        if self._found is None:
            app = register(typer.Typer(), import_module(self.module).COMMANDS)
            self._found = typer.main.get_group(app).commands
        return self._found

    @commands.setter
    def commands(self, none_yet: MutableMapping[str, Any]) -> None:
        """The base class sets the commands that the group was made with: none."""
