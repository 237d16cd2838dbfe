"""The command tree."""

from typing import Annotated

import typer

from kv_cache_rl import ENVIRONMENT_VERSION, __version__
from kv_cache_rl.cli import eviction, models, serve
from kv_cache_rl.cli.failures import CommandGroup
from kv_cache_rl.cli.tree import register, wing

app = typer.Typer(
    name="kv-cache-rl",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A laboratory for the KV cache of LLM servers: any decision maker, the same rules.",
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
    """A laboratory for the KV cache of LLM servers: any decision maker, the same rules."""


WORLDS = {
    "eviction": "The eviction environment: policies and chat models on one server's cache, scored.",
    "hierarchy": "Replay traces through memory tiers: policies, bounds, curves, sweeps.",
    "serving": "Run a server under load: agents, tasks, scores, speeds, training.",
    "stability": "Whether a service can hold its load: queueing theory of the KV cache.",
    "paged": "Paged attention on real tensors: demo, bench, generate, show, calibrate.",
}
ENGINES = {
    "engine": "A real vLLM beside the lab: recorded, compared request by request.",
}
FILES = {
    "traces": "Look into trace files of any format, and convert them. Formats: Claude Code sessions, "
    "Mooncake and its kin, Qwen-Bailian, Azure, BurstGPT, vidur, RAGPulse, TraceLab, ShareGPT, "
    "libCacheSim; docs/formats.md has their fields.",
}
for panel, groups in (("Worlds", WORLDS), ("Real engines", ENGINES), ("Files", FILES)):
    register(app, {name: wing(name, text) for name, text in groups.items()}, panel)
register(app, {"models": models.run_models}, "Files")
register(app, {"serve": serve.run_serve}, "Server")
register(app, eviction.COMMANDS, "Short forms: `kv-cache-rl eval` is `kv-cache-rl eviction eval`")
