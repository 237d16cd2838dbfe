"""``paged show``: block tables as a picture, from prefill to swap in."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kv_cache_rl.cli import options
from kv_cache_rl.cli.failures import BadInput
from kv_cache_rl.cli.options import AsJson, picture
from kv_cache_rl.cli.paged.options import BlockTokens, Model, Seed, Tokens, load_model, probe, prompt_ids
from kv_cache_rl.cli.terminal import console, print_json

if TYPE_CHECKING:
    from kv_cache_rl.paged.model import Decoder
    from kv_cache_rl.paged.tour import Stage

PROMPT = "anna walks to the "
MOST_BLOCKS = 12
"""Blocks of a sequence that a picture can show."""


def plain(stage: "Stage", decoder: "Decoder") -> dict[str, Any]:
    """A stage as plain values, with the text in every block."""
    data = asdict(stage.seen)
    for row in data["rows"]:
        row["filled"] = [len(ids) for ids in row["tokens"]]
        row["text"] = [decoder.tokenizer.decode(ids) for ids in row["tokens"]]
    return {"title": stage.title, "note": stage.note, **data}


def run_show(
    prompt: Annotated[str, typer.Argument(help="The text that three samples go on from.")] = PROMPT,
    tokens: Tokens = 6,
    block_tokens: BlockTokens = 4,
    plot: Annotated[Path | None, options.plot("Draw the block tables of every stage")] = None,
    model: Model = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Show which physical blocks hold which tokens: prefill, fork, copy on write, swap, release.

    A row is a sequence's block table: bN is block N of the pool, hN a row of the host pool.

    In a block, a dot is a blank and a line an empty slot. Bold blocks stand in several tables.

    Example: kv-cache-rl paged show "the number of the gate is " --tokens 8 --plot tables.svg
    """
    picture(plot)
    if plot is not None:
        probe(plot)
    decoder = load_model(model)
    ids = prompt_ids(decoder, prompt)
    needed = -(-(len(ids) + tokens) // block_tokens)
    if needed > MOST_BLOCKS:
        raise BadInput(
            f"{len(ids)} tokens and {tokens} more take {needed} blocks of {block_tokens}, a picture shows "
            f"{MOST_BLOCKS} of a sequence; give a shorter prompt, fewer --tokens, or a larger --block-tokens"
        )
    from kv_cache_rl.paged.tour import tour

    stages = [plain(stage, decoder) for stage in tour(decoder, ids, tokens, block_tokens, seed)]
    if plot is not None:
        from kv_cache_rl.reports.block_table import block_table_figure
        from kv_cache_rl.reports.canvas import save

        save(block_table_figure(stages), plot)
    if as_json:
        print_json({"model": decoder.geometry.name, "prompt": prompt, "seed": seed, "stages": stages})
        return
    from kv_cache_rl.reports.block_table import tables

    out = console()
    for number, stage in enumerate(stages, 1):
        out.print(f"{number}. {stage['title']}: {stage['note']}", style="bold")
        for table in tables(stage):
            out.print(table)
    if plot is not None:
        typer.echo(f"written: {plot}")
